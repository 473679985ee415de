"""Health checks of a server by a radiograph, since Triton reports a model as ready also if its process is dead."""

from __future__ import annotations

from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from lrclr._addresses import DIRECT, Address
from lrclr.errors import MissingExtraError, ServerError, ServerUnavailableError
from lrclr.samples import sample_paths
from lrclr.triton.protocol import BUSY, RETRY_SECONDS

if TYPE_CHECKING:
    from lrclr.triton.server._options import ServeOptions

# Seconds for requests that Triton answers without a model.
_SHORT: Final = 5.0


class Probe:
    """A connection to a server that this process started. Not safe to use from several threads.

    Args:
        address: ``host:port`` of gRPC.
        options: options of the server.
        model: name of the model that answers requests with files.
    """

    def __init__(self, address: str, options: ServeOptions, model: str) -> None:
        self._model = model
        try:
            from tritonclient import grpc
        except ImportError:
            raise MissingExtraError("tritonclient", "serve", "a Triton server") from None
        self._grpc = grpc
        # The server runs on this machine, so that no proxy is used for any address.
        channel: list[tuple[str, Any]] = [DIRECT, ("grpc.max_reconnect_backoff_ms", 500)]
        tls: dict[str, Any] = {}
        if options.tls_cert is not None:
            tls = {"ssl": True, "root_certificates": str(options.tls_cert)}
            channel.append(("grpc.ssl_target_name_override", options.tls_name))
        self._client = grpc.InferenceServerClient(Address.parse(address).target, channel_args=channel, **tls)
        self._image = min(sample_paths(), key=lambda path: path.stat().st_size).read_bytes()
        self._pending: _PendingRequest | None = None

    def infer(self, *, timeout: float, version: int | None = None) -> None:
        """Send a radiograph to the model `lrclr`, and wait for the answer.

        A radiograph without an answer in time stays in the server's queue, and the next call waits for it, so that a
        busy server never has more than one of them.

        Raises:
            ServerUnavailableError: no answer within `timeout` seconds, or the server does not accept requests now. Its
                `retry_after` is set if the server is busy.
            ServerError: the answer is an error.
        """
        if self._pending is not None and self._pending.version != version:
            self.cancel()
        if self._pending is None:
            self._pending = self._send(version)
        try:
            result = self._pending.answer.result(timeout)
        except FutureTimeoutError:
            raise ServerUnavailableError(f"the server did not answer within {timeout:g} s") from None
        except self._grpc.InferenceServerException as error:
            self._pending = None
            raise _error("infer", error) from error
        self._pending = None
        probability = result.as_numpy("probability")
        if probability is None or not np.isfinite(probability).all():
            raise ServerError("the server's answer does not contain probabilities")

    def cancel(self) -> None:
        """Cancel the pending radiograph, if there is one."""
        if self._pending is not None:
            self._pending.call.cancel()
            self._pending = None

    def is_ready(self, model: str, version: int) -> bool:
        """Whether a version of a model was loaded. Its process may have died since.

        Raises:
            ServerUnavailableError: the server did not answer.
        """
        return bool(self._call("is_model_ready", model, str(version), client_timeout=_SHORT))

    def finished(self, version: int) -> dict[str, tuple[int, int]] | None:
        """Number of answered requests and of runs of each model since it was loaded; None without an answer.

        Requests that were refused for a full queue do not count.
        """
        try:
            statistics = self._call("get_inference_statistics", client_timeout=_SHORT)
        except ServerError:
            return None
        return {
            model.name: (model.inference_stats.success.count, model.execution_count)
            for model in statistics.model_stats
            if model.version == str(version)
        }

    def release_shared_memory(self) -> None:
        """Let the server give up shared memory of clients that were killed.

        A client removes the file of its region. Until it is unregistered, too, the server keeps the memory. The server
        refuses to give up what a request still reads.
        """
        with suppress(ServerError):
            regions = self._call("get_system_shared_memory_status", client_timeout=_SHORT).regions
            for name, region in regions.items():
                if not Path("/dev/shm", region.key.removeprefix("/")).exists():  # noqa: S108 - where the system has it
                    with suppress(ServerError):
                        self._call("unregister_system_shared_memory", name, client_timeout=_SHORT)

    def close(self) -> None:
        """Close the connection."""
        self.cancel()
        self._client.close()
        # Otherwise tritonclient would close it again at the end of the interpreter, with an error.
        del self._client

    def _send(self, version: int | None) -> _PendingRequest:
        image = self._grpc.InferInput("image", [1], "BYTES")
        image.set_data_from_numpy(np.array([self._image], dtype=np.object_))
        answer: Future[Any] = Future()

        def take(result: Any, error: Exception | None) -> None:
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        call = self._client.async_infer(
            self._model,
            [image],
            take,
            outputs=[self._grpc.InferRequestedOutput("probability")],
            model_version="" if version is None else str(version),
        )
        return _PendingRequest(version, answer, call)

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._client, method)(*arguments, **options)
        except self._grpc.InferenceServerException as error:
            raise _error(method, error) from error


class _PendingRequest(NamedTuple):
    version: int | None
    answer: Future[Any]
    call: Any


def _error(method: str, error: Any) -> ServerError:
    text = str(error.message()).strip().splitlines() or ["no message"]
    what, why = f"the server's call {method} failed", text[0].rstrip(".")
    if not _passing(error.status()):
        return ServerError(what, why=why)
    unavailable = ServerUnavailableError(what, why=why)
    if any(sign in text[0] for sign in BUSY):
        unavailable.retry_after = RETRY_SECONDS
    return unavailable


def _passing(status: object) -> bool:
    return any(word in str(status) for word in ("UNAVAILABLE", "DEADLINE", "NOT_FOUND", "Deadline"))
