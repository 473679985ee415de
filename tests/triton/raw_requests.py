"""Requests as bytes, with header names that client libraries do not send."""

from __future__ import annotations

import contextlib
import socket

REFUSED = b"This protocol is restricted"


def exchange(address: str, sent: bytes) -> bytes:
    """The bytes that a server sends until it closes the connection or is silent for a second."""
    host, _, port = address.rpartition(":")
    received = b""
    with socket.create_connection((host, int(port))) as connection, contextlib.suppress(OSError):
        connection.settimeout(1)
        connection.sendall(sent)
        while block := connection.recv(1 << 16):
            received += block
    return received


def grpc_call(address: str, method: str, name: bytes, value: bytes) -> bytes:
    """A gRPC call without arguments, with a header field as HTTP/2 puts it on the wire; returns what came back.

    See RFC 9113 for the frames and RFC 7541, section 6.2.2, for the header fields.
    """
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", f"/inference.GRPCInferenceService/{method}".encode()),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (name, value),
    ]
    block = b"".join(b"\0" + _text(field) + _text(content) for field, content in fields)
    headers, data, settings = 1, 0, 4
    end_of_headers, end_of_stream = 4, 1
    return exchange(
        address,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(settings, 0, 0, b"")
        + _frame(headers, end_of_headers, 1, block)
        + _frame(data, end_of_stream, 1, bytes(5)),
    )


def http_get(address: str, path: str, line: bytes) -> bytes:
    """The answer to a request with an arbitrary header line."""
    return exchange(address, b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n\r\n" % (path.encode(), line))


def _text(text: bytes) -> bytes:
    rest = len(text) - 127
    if rest < 0:
        return bytes([len(text)]) + text
    length = [127]
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    return bytes([*length, rest]) + text


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
