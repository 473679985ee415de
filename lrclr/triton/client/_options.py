"""Options of clients, and the deadline of a call."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lrclr.contract import MODEL, ModelNames
from lrclr.errors import LrclrError, ServerUnavailableError, UsageError

if TYPE_CHECKING:
    from lrclr._addresses import Address

_LONGEST_PAUSE = 8.0  # seconds
_LONGEST = 1_000_000  # seconds of any time that is given; gRPC counts milliseconds in 31 bits


@dataclass(frozen=True)
class ClientOptions:
    """Timeouts, repetitions and transport.

    Attributes:
        timeout: seconds until a call must be answered. The limit covers all requests of the call and their repetitions.
        retries: number of repetitions of a request that the server did not accept or could not answer. A request that
            a busy server refused is repeated until `timeout`, unless `retries` is 0. Repetitions are safe: a request
            changes nothing in the server.
        backoff: seconds before the first repetition, doubled each time, with jitter. A busy server gives the least time
            to wait.
        keep_alive: seconds between keep-alive pings on an idle connection; 0 for none.
        compression: compression of requests and answers.
        max_message: largest size of a request or an answer, in bytes.
        tls: whether the server's gRPC port is encrypted.
        tls_root: PEM file with the certificates that verify the server's; by default those of the system.
        tls_name: name in the server's certificate, if the server is asked by another name or by its IP address.
        model: name of the model that answers requests with files: ``PREFIXlrclr`` for a bundle that was exported with
            ``--name-prefix PREFIX``.
        shared_memory: send images through system shared memory. The server must run on this machine and allow it.
    """

    timeout: float = 60.0
    retries: int = 3
    backoff: float = 0.1
    keep_alive: float = 30.0
    compression: Literal["none", "gzip", "deflate"] = "none"
    max_message: int = 2**31 - 1
    tls: bool = False
    tls_root: Path | None = None
    tls_name: str | None = None
    shared_memory: bool = False
    model: str = MODEL

    def __post_init__(self) -> None:
        times = (self.backoff, self.keep_alive)
        if not (0 < self.timeout <= _LONGEST and self.retries >= 0 and all(0 <= each <= _LONGEST for each in times)):
            raise UsageError(
                "timeout must be positive, and retries, backoff and keep-alive not negative",
                why=f"no time may be above {_LONGEST} seconds",
            )
        if self.compression not in {"none", "gzip", "deflate"}:
            raise UsageError(f"unknown compression {self.compression!r}", fix="Choose none, gzip or deflate.")
        if not self.model.endswith(MODEL):
            raise UsageError(
                f"{self.model[:80]!r} is not the name of a model of lrclr", fix=f"Its name ends in {MODEL!r}."
            )
        if not 1 <= self.max_message < 2**31:
            raise UsageError("the largest message must be between 1 byte and 2 GiB")
        if self.tls_root is not None:
            object.__setattr__(self, "tls_root", Path(self.tls_root))
            if not self.tls_root.is_file():
                raise UsageError(f"the file {self.tls_root} does not exist")

        if self.tls_name is not None and not (self.tls or self.tls_root is not None):
            raise UsageError("a name in the certificate needs TLS", fix="Give tls_root or tls too.")

    @property
    def names(self) -> ModelNames:
        """Names of the bundle's models in the server."""
        return ModelNames(self.model.removesuffix(MODEL))

    def connection(self, address: Address) -> dict[str, Any]:
        """Arguments of tritonclient's `InferenceServerClient`."""
        channel: list[tuple[str, int | str]] = [
            *address.channel_options,
            ("grpc.max_send_message_length", self.max_message),
            ("grpc.max_receive_message_length", self.max_message),
        ]
        if self.keep_alive:
            channel += [
                ("grpc.keepalive_time_ms", int(self.keep_alive * 1000)),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        if self.tls_name is not None:
            channel.append(("grpc.ssl_target_name_override", self.tls_name))
        root = None if self.tls_root is None else str(self.tls_root)
        return {
            "url": address.target,
            "ssl": self.tls or self.tls_root is not None,
            "root_certificates": root,
            "channel_args": channel,
        }

    def call(self, seconds: float) -> dict[str, Any]:
        """Arguments of one inference that has so many seconds left."""
        return {
            "client_timeout": seconds,
            # Microseconds that the request may wait in the server's queue, which the server checks every half second.
            # So the server refuses a request that waits too long before the client gives up.
            "timeout": max(1, int(max(seconds / 2, seconds - 1) * 1_000_000)),
            "compression_algorithm": None if self.compression == "none" else self.compression,
        }


class Deadline:
    """The time limit of a call, for all of its requests and their repetitions.

    Args:
        options: options of the client.
    """

    def __init__(self, options: ClientOptions) -> None:
        self._options = options
        self._end = time.monotonic() + options.timeout

    def left(self) -> float:
        """Remaining seconds, at least a millisecond."""
        return max(0.001, self._end - time.monotonic())

    def pause(self, attempt: int, error: LrclrError) -> float | None:
        """Seconds to wait before a request is repeated; None if a repetition is useless or would be too late.

        Args:
            attempt: number of failures so far.
            error: the last failure.
        """
        options = self._options
        if not isinstance(error, ServerUnavailableError) or options.retries == 0:
            return None
        if error.retry_after is None and attempt > options.retries:
            return None
        growing = min(options.backoff * 2.0 ** min(attempt - 1, 32), max(options.backoff, _LONGEST_PAUSE))
        # Randomised, so that many clients do not repeat at the same time.
        pause: float = (error.retry_after or 0.0) + growing * random.uniform(0.5, 1.0)  # noqa: S311
        return pause if time.monotonic() + pause < self._end else None
