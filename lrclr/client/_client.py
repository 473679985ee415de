"""The client that waits."""

from __future__ import annotations

import time
from threading import Lock
from typing import TYPE_CHECKING, Any

from lrclr.client import _wire as wire
from lrclr.client._options import ClientOptions
from lrclr.client._shared_memory import SharedRegions
from lrclr.contract import MODEL
from lrclr.errors import LrclrError, ServerUnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

    from lrclr.client._wire import ImageSource, Reply
    from lrclr.findings import FindingSet
    from lrclr.results import Prediction

__all__ = ["Client"]


class Client:
    """Asks a server, and gives what the local `ZeroShotClassifier` gives. Safe to call from several threads.

    Args:
        address: ``host:port`` of the server's gRPC.
        options: how to ask.

    Raises:
        MissingExtraError: tritonclient is not installed.
    """

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        self.address = address
        self.options = options or ClientOptions()
        self._triton: Any = wire.triton_grpc().InferenceServerClient(address, **self.options.connection())
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
            ServerUnavailableError: no answer in time, though asked again.
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
        files = [wire.encoded(image) for image in images]
        tensors = wire.inputs(files, findings, alpha, frame, heatmap=heatmap, exact=exact)
        return self._answered(tensors, len(files))

    def predict_pixels(
        self, pixel_values: NDArray[np.float32], *, findings: FindingSet | None = None, alpha: float | None = None
    ) -> list[Prediction]:
        """As `predict`, for images that are preprocessed already, as `describe` says: ``[B, 3, S, S]`` float32."""
        if len(pixel_values) == 0:
            return []
        # The request of no file has everything else.
        tensors = wire.inputs([], findings, alpha, None, heatmap=False, exact=False)
        del tensors["image"]
        return self._answered(tensors | {"pixel_values": pixel_values}, len(pixel_values)).predictions

    def _answered(self, tensors: Mapping[str, NDArray[Any]], images: int) -> Reply:
        result = self._infer_tensors(tensors)
        bundle = result.as_numpy("bundle")
        known = self.describe()
        if bundle is not None and bundle.ravel()[0].decode() != known["bundle"]:
            known = self.describe(again=True)
        return wire.reply(result, images, fusion_trained=bool(known["fusion_trained"]))

    def describe(self, *, again: bool = False) -> dict[str, Any]:
        """What the model is: see the server's output ``description``. Asked once, or `again`."""
        with self._lock:
            known = self._described
        if known is None or again:
            known = wire.description(self._repeated(lambda left: self._infer(wire.describe_inputs(), left)))
            with self._lock:
                self._described = known
        return known

    def ready(self) -> bool:
        """Whether the server says that it takes requests. Only an answer shows that it does."""
        try:
            return bool(self._repeated(lambda left: self._triton.is_model_ready(MODEL, client_timeout=left)))
        except ServerUnavailableError:
            return False

    def infer_graph(self, graph: str, tensors: list[Any]) -> Any:
        """One of the bundle's graphs, with tritonclient's inputs and its result."""
        return self._repeated(lambda left: self._triton.infer(graph, tensors, **self.options.call(left)))

    def _infer_tensors(self, tensors: Mapping[str, NDArray[Any]]) -> Any:
        if self._regions is None:
            asked = wire.as_infer_inputs(dict(tensors))
            return self._repeated(lambda left: self._infer(asked, left))
        try:
            return self._repeated(lambda left: self._infer_shared(tensors, left))
        except UsageError as error:
            if "shared memory region" not in str(error):
                raise
            # The server was started again since it was told of the region.
            self._regions.close()
            return self._repeated(lambda left: self._infer_shared(tensors, left))

    def _infer_shared(self, tensors: Mapping[str, NDArray[Any]], left: float) -> Any:
        assert self._regions is not None  # noqa: S101 - for the type checker
        with self._regions.inputs(tensors) as asked:
            return self._infer(asked, left)

    def _infer(self, asked: list[Any], left: float) -> Any:
        return self._triton.infer(MODEL, asked, **self.options.call(left))

    def _repeated(self, call: Callable[[float], Any]) -> Any:
        """Call, and again while it may help; with the seconds that are left."""
        from tritonclient.utils import InferenceServerException

        if self._triton is None:
            raise UsageError("the client is closed")
        options = self.options
        deadline = time.monotonic() + options.timeout
        for attempt in range(1, options.retries + 2):
            try:
                return call(max(0.001, deadline - time.monotonic()))
            except InferenceServerException as error:
                ours: LrclrError = wire.error_of(error, self.address, options.timeout)
                pause = options.pause(attempt)
                over = attempt > options.retries or time.monotonic() + pause >= deadline
                if over or not wire.passing(ours):
                    raise ours from error
                time.sleep(pause)
        raise AssertionError("the loop returns or raises")
