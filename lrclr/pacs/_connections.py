"""Connections of the receiver: limits on silence, and on what senders may send before an instance is complete."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import weakref
from typing import Any, Final

# Until a sender that stops in the middle of a message is disconnected.
_SILENCE_SECONDS: Final = 30.0
# Beside an instance: commands, negotiation, and the headers of the packets.
_OVERHEAD: Final = 1.25
_LEAST: Final = 1 << 20
# Instances of the greatest size that may arrive at once; those of a usual size are many more.
_AT_ONCE: Final = 4


class Connections:
    """The open connections. pynetdicom itself waits for the rest of a packet for ever, and keeps all of it in memory.

    Args:
        most_bytes: largest size of an instance.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = _LEAST + int(_OVERHEAD * most_bytes)
        self._lock = threading.Lock()
        self._received = 0
        self._open: weakref.WeakSet[_LimitedSocket] = weakref.WeakSet()

    def opened(self, event: Any) -> None:
        """Limit a connection: a handler of ``EVT_CONN_OPEN``."""
        transport = event.assoc.dul.socket
        limited = _LimitedSocket(fileno=transport.socket.detach())
        limited.owner = self
        limited.settimeout(_SILENCE_SECONDS)
        transport.socket = limited
        with self._lock:
            self._open.add(limited)

    def completed(self, event: Any) -> None:
        """Let a connection send another instance."""
        self.forget(event.assoc.dul.socket.socket)

    def count(self, connection: _LimitedSocket, size: int) -> None:
        """Count what a connection received.

        Raises:
            OSError: it is too much for one instance, or for all connections together.
        """
        with self._lock:
            connection.received += size
            self._received += size
            if connection.received > self._most or self._received > _AT_ONCE * self._most:
                raise OSError(errno.EMSGSIZE, "the message is too long")

    def forget(self, connection: _LimitedSocket) -> None:
        """Count from 0 again: what a connection received is complete, or was thrown away."""
        with self._lock:
            self._received -= connection.received
            connection.received = 0

    def close(self) -> None:
        """Disconnect every sender. One that has no success status for its instance sends it again."""
        with self._lock:
            connections = list(self._open)
        for each in connections:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _LimitedSocket(socket.socket):
    """A connection that counts what it receives."""

    owner: Connections
    received = 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        self.owner.count(self, len(data))
        return data

    def close(self) -> None:
        super().close()
        self.owner.forget(self)
