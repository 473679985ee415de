"""Engine that runs the graphs of the same Triton server."""

from __future__ import annotations

import time
from copy import copy
from threading import Lock
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


# The process of the graph died, the graph is being loaded again, or the queue of the graph is full.
_PASSING = ("not healthy", "not ready", "not found", "unavailable", "unloading", *protocol.BUSY)


class ServerBusyError(EngineError):
    """A graph did not answer now. It may answer a repeated request."""


class RequestCancelledError(LrclrError):
    """The client has cancelled the request."""


class _CurrentRequest:
    """The request that is being answered, for the engines of all members.

    Attributes:
        cancelled: returns whether the request was cancelled. No graph runs for a cancelled request.
        lock: to hold while Triton is called about the request or a counter. Triton 2.51 crashes if several threads of a
            process check at the same time whether a request was cancelled.
    """

    def __init__(self) -> None:
        self.cancelled: Callable[[], bool] = bool
        self.lock = Lock()


class BlsEngine:
    """Runs graphs by business-logic scripting.

    Args:
        names: names of the bundle's models.
        version: version of the graphs, which is that of the model `lrclr`.
        metrics: counters to update with the time of the image encoder.

    Attributes:
        request: the current request.
        members: an engine for each member of an ensemble, in order; of a single network this one alone.
        at_once: True: the server runs the graphs of all members at the same time. `pb_utils` waits for an answer
            without the interpreter's lock, as it does for `async_exec`, which calls it in threads, too.
    """

    def __init__(self, names: ModelNames, version: int, metrics: Metrics) -> None:
        self._names = names
        self._version = version
        self._metrics = metrics
        self.request = _CurrentRequest()
        self.at_once = True
        self.members: tuple[BlsEngine, ...] = (self,)
        if names.members:
            self.members = tuple(map(self._of_member, names.of_members))

    def _of_member(self, names: ModelNames) -> BlsEngine:
        member = copy(self)
        member._names, member.members = names, (member,)  # noqa: SLF001 - of this class
        return member

    @property
    def name(self) -> str:
        return "triton"

    def stop_if_cancelled(self) -> None:
        """Raise `RequestCancelledError` if the client has cancelled the request."""
        with self.request.lock:
            if self.request.cancelled():
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
            with self.request.lock:
                self._metrics.add("lrclr_encode_seconds_total", time.perf_counter() - began)
        return outputs

    def _fail(self, graph: str, error: Any) -> None:
        text = error.message()
        passing = any(sign in text for sign in _PASSING)
        kind = ServerBusyError if passing else EngineError
        raise kind(f"{graph} failed", why=text, fix="Repeat the request." if passing else None)
