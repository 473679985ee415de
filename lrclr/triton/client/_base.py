"""The parts of `Client` and `AsyncClient` that do not wait for the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrclr._addresses import Address
from lrclr.errors import UsageError
from lrclr.triton.client import _wire as wire
from lrclr.triton.client._options import ClientOptions

if TYPE_CHECKING:
    from lrclr.triton.client._options import Deadline


class BaseClient:
    """Options, requests, answers, and the decision to repeat a request. Subclasses send and wait.

    Args:
        address: ``host:port`` of the server's gRPC port; an IPv6 address in brackets. A loopback address is called
            without a proxy, whatever the environment says.
        options: timeouts, repetitions and transport.

    Raises:
        MissingExtraError: tritonclient is not installed.
        UsageError: the address has another form.
    """

    _HOW_TO_OPEN = ""

    def __init__(self, address: str, options: ClientOptions | None = None) -> None:
        self.address = address
        self.options = options or ClientOptions()
        self._connection = self.options.connection(Address.parse(address))
        # So that a missing package is an error here, not at the first request.
        wire.triton_grpc()
        self._triton: Any = None
        self._described: dict[str, Any] | None = None

    def _opened(self) -> Any:
        """tritonclient's client.

        Raises:
            UsageError: the connection is not open.
        """
        if self._triton is None:
            raise UsageError("the client is not open", fix=self._HOW_TO_OPEN)
        return self._triton

    def _pause(self, error: Any, attempt: int, deadline: Deadline) -> float:
        """Seconds to wait before a failed request is repeated.

        Args:
            error: tritonclient's `InferenceServerException`.
            attempt: number of failures of the request so far.
            deadline: deadline of the call.

        Raises:
            LrclrError: a repetition would be useless, or would end after the deadline.
        """
        failure = wire.error_of(error, self.address, self.options.timeout)
        pause = deadline.pause(attempt, failure)
        if pause is None:
            raise failure from error
        return pause

    def _known(self, result: Any) -> dict[str, Any] | None:
        """The description from an earlier call, if the same bundle answered."""
        known, bundle = self._described, result.as_numpy("bundle")
        if known is None or bundle is None or bundle.ravel()[0].decode() == known["bundle"]:
            return known
        return None

    def _remember(self, result: Any) -> dict[str, Any]:
        """Keep the description that the server sent."""
        self._described = described = wire.description(result)
        return described
