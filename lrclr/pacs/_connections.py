"""Connections of the receiver: limits on silence, on a PDU, and on what arrives before an instance is complete."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Until a sender that stops in the middle of a message is disconnected.
_SILENCE_SECONDS: Final = 30.0
# Until a PDU must be complete, however steadily it arrives.
_PDU_SECONDS: Final = 30.0
# Largest PDU that is not P-DATA-TF. A request for an association is a few KiB.
_PDU_BYTES: Final = 1 << 20
# Type and length of a PDU (PS3.8, section 9.3.1).
_PDU_HEADER: Final = 6
# The length of P-DATA-TF is negotiated. Some senders do not count the header of the fragment in it.
_P_DATA: Final = 0x04
_FRAGMENT_HEADER: Final = 6
# Beside an instance: commands, negotiation, and the headers of the packets.
_OVERHEAD: Final = 1.25
_LEAST: Final = 1 << 20
# Instances of the greatest size that may arrive at once; those of a usual size are many more.
_AT_ONCE: Final = 4


class Connections:
    """The open connections. pynetdicom itself waits for the rest of a packet for ever, and keeps all of it in memory.

    Args:
        most_bytes: largest size of an instance.
        on_event: told of each connection that is closed for what it sent, with its address.
    """

    def __init__(self, most_bytes: int, on_event: Callable[[str], None]) -> None:
        self._on_event = on_event
        self._most = _LEAST + int(_OVERHEAD * most_bytes)
        self._lock = threading.Lock()
        self._received = 0
        self._open: weakref.WeakSet[_LimitedSocket] = weakref.WeakSet()

    def opened(self, event: Any) -> None:
        """Limit a connection: a handler of ``EVT_CONN_OPEN``."""
        transport = event.assoc.dul.socket
        limited = _LimitedSocket(fileno=transport.socket.detach())
        limited.owner = self
        limited.address = str(event.address[0])
        limited.most_data = int(event.assoc.ae.maximum_pdu_size) + _FRAGMENT_HEADER
        limited.settimeout(_SILENCE_SECONDS)
        transport.socket = limited
        with self._lock:
            self._open.add(limited)

    def completed(self, event: Any) -> None:
        """Let a connection send another instance."""
        self.forget(event.assoc.dul.socket.socket)

    def count(self, connection: _LimitedSocket, size: int) -> None:
        """Count what a connection received, and close it if that is too much for one instance.

        If it is too much for all connections together, the one that received most is closed.
        """
        largest = None
        with self._lock:
            connection.received += size
            self._received += size
            too_long = connection.received > self._most
            if not too_long and self._received > _AT_ONCE * self._most:
                largest = max(self._open, key=lambda each: each.received)
                self._received -= largest.received
                largest.received = 0
        if too_long:
            self.refuse(connection, "it sent more than the largest instance")
        if largest is not None:
            self.refuse(largest, "all senders together sent too much, and it sent most")

    def refuse(self, connection: _LimitedSocket, why: str) -> None:
        """Close a connection for what it sent. Its next `recv` fails, after which pynetdicom ends the association."""
        if connection.refused:
            return
        self._on_event(f"the connection from {connection.address} was closed: {why}")
        connection.refused = True
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

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
    """A connection that counts what it receives, and checks the size and the time of each PDU.

    pynetdicom asks for the header of a PDU and then for its rest, never for bytes of two PDUs at once.
    """

    owner: Connections
    address = ""
    most_data = 0
    received = 0
    refused = False
    _header = b""
    _missing = 0  # bytes after the header
    _latest = 0.0

    def recv(self, size: int, flags: int = 0) -> bytes:
        if not self.refused:
            data = super().recv(size, flags)
            self.owner.count(self, len(data))
            self._check_pdu(data)
        if self.refused:
            raise OSError(errno.ECONNABORTED, "the connection was closed")
        return data

    def _check_pdu(self, data: bytes) -> None:
        now = time.monotonic()
        if self._missing:
            self._missing -= len(data)
        else:
            self._latest = self._latest if self._header else now + _PDU_SECONDS
            self._header += data
            if len(self._header) == _PDU_HEADER:
                self._missing = int.from_bytes(self._header[2:], "big")
                if self._missing > (self.most_data if self._header[0] == _P_DATA else _PDU_BYTES):
                    self.owner.refuse(self, f"it announced a PDU of {self._missing} bytes")
                self._header = b""
        if now > self._latest:
            self.owner.refuse(self, f"a PDU was not complete after {_PDU_SECONDS:.0f} seconds")

    def close(self) -> None:
        super().close()
        self.owner.forget(self)
