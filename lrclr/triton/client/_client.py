"""Synchronous client."""

from __future__ import annotations

import time
from itertools import count
from typing import TYPE_CHECKING, Any

from lrclr.errors import ServerUnavailableError, UsageError
from lrclr.inference._decoding import require_list
from lrclr.triton.client import _wire as wire
from lrclr.triton.client._base import BaseClient
from lrclr.triton.client._options import Deadline
from lrclr.triton.client._shared_memory import SharedRegions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from lrclr.contract import ModelNames
    from lrclr.inference import Prediction
    from lrclr.text import FindingSet
    from lrclr.triton.client._options import ClientOptions
    from lrclr.triton.client._wire import ImageSource, Reply


class Client(BaseClient):
    """Synchronous client with the results of a local `ZeroShotClassifier`. Safe to call from several threads.

    Args:
        address: ``host:port`` of the server's gRPC port; an IPv6 address in brackets. A loopback address is called
            without a proxy, whatever the environment says.
        options: timeouts, repetitions and transport.

    Raises:
        MissingExtraError: tritonclient is not installed.
        UsageError: the address has another form.
    """

    _HOW_TO_OPEN = "It was closed: make a new Client."

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        super().__init__(address, options)
        self._triton = wire.triton_grpc().InferenceServerClient(**self._connection)
        self._regions = SharedRegions(self._triton) if self.options.shared_memory else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._triton is not None:
            if self._regions is not None:
                self._regions.close()
            self._triton.close()
            # Otherwise tritonclient would close it again at the end of the interpreter, with an error.
            self._triton = None

    def predict(
        self,
        images: Sequence[ImageSource],
        *,
        findings: FindingSet | None = None,
        alpha: float | None = None,
        frame: int | None = None,
        exact: bool = False,
    ) -> list[Prediction]:
        """Predict findings of images, in one request.

        Args:
            images: paths, contents of files, or arrays of uint8 ``[H, W]`` or ``[H, W, 3]``, which are sent as PNG.
            findings: findings to predict; by default those of the model.
            alpha: weight of the local score; by default that of the model.
            frame: number of the frame in files with several.
            exact: whether the server reads the files in full; see `lrclr.images.read_for_model`.

        Returns:
            One prediction per image, in order.

        Raises:
            ImageError: an image cannot be read.
            UsageError: the request is wrong: alpha, findings, or its size.
            ServerUnavailableError: no answer in time, also not to repeated requests. Its `retry_after` is set if the
                server is busy.
            ServerError: the server failed.
        """
        return self.ask(images, findings=findings, alpha=alpha, frame=frame, exact=exact).predictions

    def ask(  # noqa: PLR0913 - one parameter an input of the model
        self,
        images: Sequence[ImageSource],
        *,
        findings: FindingSet | None = None,
        alpha: float | None = None,
        frame: int | None = None,
        heatmap: bool = False,
        exact: bool = False,
        embedding: bool = False,
        sr: bool = False,
    ) -> Reply:
        """As `predict`, with the hash of the bundle, and what else was requested.

        Args:
            images, findings, alpha, frame, exact: as for `predict`.
            heatmap: whether the server draws heat maps, as PNG files.
            embedding: whether the server returns the embeddings of the images.
            sr: whether the server makes a DICOM structured report of each image, which must be a DICOM file.
        """
        require_list(images)
        if len(images) == 0:
            return wire.Reply([], [], "")
        deadline = Deadline(self.options)
        files = [wire.encoded(image) for image in images]
        tensors = wire.inputs(files, findings, alpha, frame, heatmap=heatmap, exact=exact, embedding=embedding, sr=sr)
        return self._answered(tensors, len(files), deadline)

    def embed_images(
        self, images: Sequence[ImageSource], *, frame: int | None = None, exact: bool = False
    ) -> NDArray[np.float32]:
        """Compute the embeddings of images, in one request.

        Args:
            images, frame, exact: as for `predict`; at least one image.

        Returns:
            float32 ``[B, D]``, as `ZeroShotClassifier.embed_images` returns.

        Raises the errors of `predict`.
        """
        require_list(images)
        if len(images) == 0:
            raise UsageError("embed_images got an empty list of images")
        return wire.embedding_of(self.ask(images, frame=frame, exact=exact, embedding=True))

    def predict_pixels(
        self, pixel_values: NDArray[np.float32], *, findings: FindingSet | None = None, alpha: float | None = None
    ) -> list[Prediction]:
        """As `predict`, for preprocessed images ``[B, 3, S, S]`` float32. `describe` gives the preprocessing."""
        if len(pixel_values) == 0:
            return []
        tensors = wire.inputs(pixel_values, findings, alpha)
        return self._answered(tensors, len(pixel_values), Deadline(self.options)).predictions

    def describe(self, *, again: bool = False) -> dict[str, Any]:
        """The description of the server's model. It is requested once, and again only if `again` is set."""
        known = None if again else self._described
        return known or self._describe(Deadline(self.options))

    def ready(self) -> bool:
        """Whether the server reports that it accepts requests. Only an answer proves that it does."""
        deadline = Deadline(self.options)
        try:
            return bool(
                self._repeated(
                    lambda: self._opened().is_model_ready(self.options.model, client_timeout=deadline.left()), deadline
                )
            )
        except ServerUnavailableError:
            return False

    def infer_graph(self, graph: str, tensors: list[Any], names: ModelNames | None = None) -> Any:
        """Run one of the bundle's graphs, with inputs and result in tritonclient's types.

        Args:
            graph: name of the graph.
            tensors: its inputs.
            names: names of the models of one member of an ensemble.
        """
        deadline = Deadline(self.options)
        model = (names or self.options.names).of(graph)
        return self._repeated(lambda: self._infer(model, tensors, deadline), deadline)

    def _answered(self, tensors: Mapping[str, NDArray[Any]], images: int, deadline: Deadline) -> Reply:
        result = self._infer_tensors(tensors, deadline)
        known = self._known(result) or self._describe(deadline)
        return wire.reply(result, images, fusion_trained=bool(known["fusion_trained"]))

    def _describe(self, deadline: Deadline) -> dict[str, Any]:
        inputs = wire.describe_inputs()
        return self._remember(self._repeated(lambda: self._infer(self.options.model, inputs, deadline), deadline))

    def _infer_tensors(self, tensors: Mapping[str, NDArray[Any]], deadline: Deadline) -> Any:
        regions = self._regions
        if regions is None:
            inputs = wire.as_infer_inputs(tensors)
            return self._repeated(lambda: self._infer(self.options.model, inputs, deadline), deadline)

        def infer_shared() -> Any:
            with regions.inputs(tensors, timeout=deadline.left()) as inputs:
                return self._infer(self.options.model, inputs, deadline)

        try:
            return self._repeated(infer_shared, deadline)
        except UsageError as error:
            if "shared memory region" not in str(error):
                raise
            # The server was restarted since the regions were registered.
            regions.close()
            return self._repeated(infer_shared, deadline)

    def _infer(self, model: str, inputs: list[Any], deadline: Deadline) -> Any:
        return self._opened().infer(model, inputs, **self.options.call(deadline.left()))

    def _repeated(self, call: Callable[[], Any], deadline: Deadline) -> Any:
        """Call, and repeat the call while `_pause` allows it."""
        from tritonclient.utils import InferenceServerException

        for attempt in count(1):
            try:
                return call()
            except InferenceServerException as error:
                time.sleep(self._pause(error, attempt, deadline))
        raise AssertionError("the loop returns or raises")
