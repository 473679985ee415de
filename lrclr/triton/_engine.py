"""An engine whose graphs are other models of the same Triton server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

from lrclr.contract import GRAPHS
from lrclr.errors import EngineError
from lrclr.triton._tensors import get, put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.triton._metrics import Metrics


class ServerBusyError(EngineError):
    """A graph did not answer now; it may when asked again."""


class BlsEngine:
    """Runs graphs by business-logic scripting.

    Args:
        version: of the graphs: a bundle's model and graphs have one version number.
        metrics: told how long the image encoder took.
    """

    def __init__(self, version: int, metrics: Metrics) -> None:
        self._version = version
        self._metrics = metrics

    @property
    def name(self) -> str:
        return "triton"

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        began = time.perf_counter()
        names = list(GRAPHS[graph].output_names)
        response = pb_utils.InferenceRequest(
            model_name=graph,
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
        # A process of the graph died or the graph is being loaded again: both mend.
        gone = any(sign in text for sign in ("not healthy", "not ready", "not found", "unavailable", "unloading"))
        kind = ServerBusyError if gone else EngineError
        raise kind(f"{graph} failed", why=text, fix="Ask again." if gone else None)
