"""How a server is asked."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lrclr.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ClientOptions"]


@dataclass(frozen=True)
class ClientOptions:
    """Checked when made.

    Attributes:
        timeout: seconds until a call must have been answered, retries included.
        retries: how often a call is repeated that the server did not take or could not answer now. Every call here is
            safe to repeat: an answer changes nothing in the server.
        backoff: seconds before the first repetition; doubled each time, with jitter.
        keep_alive: seconds between signs of life on an idle connection; 0 for none.
        compression: of requests and answers on the wire.
        max_message: most bytes of a request or an answer.
        tls: whether the server's gRPC port is encrypted.
        tls_root: PEM certificates that it is checked against; the system's if not given.
        shared_memory: pass images by system shared memory: on one machine, and where the server allows it.
    """

    timeout: float = 60.0
    retries: int = 3
    backoff: float = 0.1
    keep_alive: float = 30.0
    compression: Literal["none", "gzip", "deflate"] = "none"
    max_message: int = 2**31 - 1
    tls: bool = False
    tls_root: Path | None = None
    shared_memory: bool = False

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.backoff < 0 or self.retries < 0 or self.keep_alive < 0:
            raise UsageError("timeout must be positive, and retries, backoff and keep-alive not negative")
        if self.compression not in {"none", "gzip", "deflate"}:
            raise UsageError(f"there is no compression {self.compression!r}", fix="Choose none, gzip or deflate.")
        if not 1 <= self.max_message < 2**31:
            raise UsageError("a message can have from 1 byte to 2 GiB")
        if self.tls_root is not None and not self.tls_root.is_file():
            raise UsageError(f"there is no file {self.tls_root}")

    def connection(self) -> dict[str, Any]:
        """Arguments of tritonclient's `InferenceServerClient`, beside the address."""
        channel: list[tuple[str, int]] = [
            ("grpc.max_send_message_length", self.max_message),
            ("grpc.max_receive_message_length", self.max_message),
        ]
        if self.keep_alive:
            channel += [
                ("grpc.keepalive_time_ms", int(self.keep_alive * 1000)),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.max_pings_without_data", 0),
            ]
        root = None if self.tls_root is None else str(self.tls_root)
        return {"ssl": self.tls or self.tls_root is not None, "root_certificates": root, "channel_args": channel}

    def call(self, seconds: float) -> dict[str, Any]:
        """Arguments of one call, with the seconds that are left for it."""
        return {
            "client_timeout": seconds,
            "compression_algorithm": None if self.compression == "none" else self.compression,
        }

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the given number of failed attempts, from 1."""
        spread: float = random.uniform(0.5, 1.0)  # noqa: S311 - so that many clients do not come back together
        return self.backoff * 2.0 ** (attempt - 1) * spread
