"""An engine whose graphs are other models of the same Triton server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

from lrclr.contract import GRAPHS
from lrclr.errors import EngineError, LrclrError
from lrclr.triton import protocol
from lrclr.triton.model._tensors import get, put

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from lrclr.contract import ModelNames
    from lrclr.triton.model._metrics import Metrics


# A process of the graph died, the graph is being loaded again, or a bundle gives its queue a bound.
_PASSING = ("not healthy", "not ready", "not found", "unavailable", "unloading", *protocol.BUSY)


class ServerBusyError(EngineError):
    """A graph did not answer now; it may when asked again."""


class RequestCancelledError(LrclrError):
    """The client that sent the request has given it up."""


class BlsEngine:
    """Runs graphs by business-logic scripting.

    Args:
        names: of the bundle's models.
        version: of the graphs: a bundle's model and graphs have one version number.
        metrics: told how long the image encoder took.

    Attributes:
        cancelled: whether the request that is worked on was given up. No graph runs for such a request.
    """

    def __init__(self, names: ModelNames, version: int, metrics: Metrics) -> None:
        self._names = names
        self._version = version
        self._metrics = metrics
        self.cancelled: Callable[[], bool] = bool

    @property
    def name(self) -> str:
        return "triton"

    def stop_if_cancelled(self) -> None:
        """Raise `RequestCancelledError` if the client has given the request up."""
        if self.cancelled():
            raise RequestCancelledError("the request was cancelled")

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        self.stop_if_cancelled()
        began = time.perf_counter()
        names = list(GRAPHS[graph].output_names)
        response = pb_utils.InferenceRequest(
            model_name=self._names.of(graph),
            model_version=self._version,
            requested_output_names=names,
            inputs=[put(name, array) for name, array in inputs.items()],
        ).exec()
        if response.has_error():
            self._fail(graph, response.error())
        outputs = {name: get(pb_utils.get_output_tensor_by_name(response, name)) for name in names}
        if graph == "image_encoder":
            self._metrics.encoded(time.perf_counter() - began)
        return outputs

    def _fail(self, graph: str, error: Any) -> None:
        text = error.message()
        passing = any(sign in text for sign in _PASSING)
        kind = ServerBusyError if passing else EngineError
        raise kind(f"{graph} failed", why=text, fix="Ask again." if passing else None)
