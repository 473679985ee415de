"""The synchronous client."""

from __future__ import annotations

import time
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any

from lrclr._addresses import Address
from lrclr.contract import MODEL
from lrclr.errors import ServerUnavailableError, UsageError
from lrclr.triton.client import _wire as wire
from lrclr.triton.client._options import ClientOptions, Deadline
from lrclr.triton.client._shared_memory import SharedRegions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from lrclr.inference import Prediction
    from lrclr.text import FindingSet
    from lrclr.triton.client._wire import ImageSource, Reply

__all__ = ["Client"]


class Client:
    """Asks a server, and gives what the local `ZeroShotClassifier` gives. Safe to call from several threads.

    Args:
        address: ``host:port`` of the server's gRPC; an IPv6 address in brackets. A loopback address is called without
            a proxy, whatever the environment says.
        options: how to ask.

    Raises:
        MissingExtraError: tritonclient is not installed.
        UsageError: the address is something else.
    """

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        self.address = address
        self.options = options or ClientOptions()
        self._triton: Any = None
        connection = self.options.connection(Address.parse(address))
        self._triton = wire.triton_grpc().InferenceServerClient(**connection)
        self._regions = SharedRegions(self._triton) if self.options.shared_memory else None
        self._described: dict[str, Any] | None = None
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        if self._triton is not None:
            if self._regions is not None:
                self._regions.close()
            self._triton.close()
            # tritonclient would close it once more at the interpreter's end, and complain.
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
        """Answer for images, in one request.

        Args:
            images: paths, files' bytes, or arrays of uint8 ``[H, W]`` or ``[H, W, 3]``, which go as PNG.
            findings: what to ask for; the model's own if not given.
            alpha: weight of the local score, instead of the model's.
            frame: which frame of files that hold several.
            exact: whether to have the files read in full; see `lrclr.images.read_for_model`.

        Returns:
            One prediction an image, in order.

        Raises:
            ImageError: an image cannot be read.
            UsageError: the call was wrong: alpha, findings, too much at once.
            ServerUnavailableError: no answer in time, though asked again. Its `retry_after` is set if the server is
                busy.
            ServerError: the server failed.
        """
        return self.ask(images, findings=findings, alpha=alpha, frame=frame, exact=exact).predictions

    def ask(
        self,
        images: Sequence[ImageSource],
        *,
        findings: FindingSet | None = None,
        alpha: float | None = None,
        frame: int | None = None,
        heatmap: bool = False,
        exact: bool = False,
    ) -> Reply:
        """As `predict`, with heat maps as PNG files where `heatmap` says so, and with which bundle answered."""
        if not images:
            return wire.Reply([], [], "")
        deadline = Deadline(self.options)
        files = [wire.encoded(image) for image in images]
        tensors = wire.inputs(files, findings, alpha, frame, heatmap=heatmap, exact=exact)
        return self._answered(tensors, len(files), deadline)

    def predict_pixels(
        self, pixel_values: NDArray[np.float32], *, findings: FindingSet | None = None, alpha: float | None = None
    ) -> list[Prediction]:
        """As `predict`, for images that are preprocessed already, as `describe` says: ``[B, 3, S, S]`` float32."""
        if len(pixel_values) == 0:
            return []
        # The request of no file has everything else.
        tensors = wire.inputs([], findings, alpha, None, heatmap=False, exact=False)
        del tensors["image"]
        tensors["pixel_values"] = pixel_values
        return self._answered(tensors, len(pixel_values), Deadline(self.options)).predictions

    def _answered(self, tensors: Mapping[str, NDArray[Any]], images: int, deadline: Deadline) -> Reply:
        result = self._infer_tensors(tensors, deadline)
        bundle = result.as_numpy("bundle")
        known = self._description(deadline)
        if bundle is not None and bundle.ravel()[0].decode() != known["bundle"]:
            known = self._description(deadline, again=True)
        return wire.reply(result, images, fusion_trained=bool(known["fusion_trained"]))

    def describe(self, *, again: bool = False) -> dict[str, Any]:
        """What the model is: see the server's output ``description``. Asked once, or `again`."""
        return self._description(Deadline(self.options), again=again)

    def _description(self, deadline: Deadline, *, again: bool = False) -> dict[str, Any]:
        with self._lock:
            known = self._described
        if known is None or again:
            known = wire.description(self._repeated(lambda: self._infer(wire.describe_inputs(), deadline), deadline))
            with self._lock:
                self._described = known
        return known

    def ready(self) -> bool:
        """Whether the server says that it takes requests. Only an answer shows that it does."""
        deadline = Deadline(self.options)
        try:
            return bool(
                self._repeated(lambda: self._triton.is_model_ready(MODEL, client_timeout=deadline.left()), deadline)
            )
        except ServerUnavailableError:
            return False

    def infer_graph(self, graph: str, tensors: list[Any]) -> Any:
        """One of the bundle's graphs, with tritonclient's inputs and its result."""
        deadline = Deadline(self.options)
        return self._repeated(
            lambda: self._triton.infer(graph, tensors, **self.options.call(deadline.left())), deadline
        )

    def _infer_tensors(self, tensors: Mapping[str, NDArray[Any]], deadline: Deadline) -> Any:
        if self._regions is None:
            asked = wire.as_infer_inputs(dict(tensors))
            return self._repeated(lambda: self._infer(asked, deadline), deadline)
        try:
            return self._repeated(lambda: self._infer_shared(tensors, deadline), deadline)
        except UsageError as error:
            if "shared memory region" not in str(error):
                raise
            # The server was started again since it was told of the region.
            self._regions.close()
            return self._repeated(lambda: self._infer_shared(tensors, deadline), deadline)

    def _infer_shared(self, tensors: Mapping[str, NDArray[Any]], deadline: Deadline) -> Any:
        assert self._regions is not None  # noqa: S101 - for the type checker
        with self._regions.inputs(tensors, timeout=deadline.left()) as asked:
            return self._infer(asked, deadline)

    def _infer(self, asked: list[Any], deadline: Deadline) -> Any:
        return self._triton.infer(MODEL, asked, **self.options.call(deadline.left()))

    def _repeated(self, call: Callable[[], Any], deadline: Deadline) -> Any:
        """Call, and again while it may help."""
        from tritonclient.utils import InferenceServerException

        if self._triton is None:
            raise UsageError("the client is closed")
        for attempt in count(1):
            try:
                return call()
            except InferenceServerException as error:
                ours = wire.error_of(error, self.address, self.options.timeout)
                pause = deadline.pause(attempt, ours)
                if pause is None:
                    raise ours from error
                time.sleep(pause)
        raise AssertionError("the loop returns or raises")
