"""Addresses of servers, tokens for them, and which connections may use a proxy."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lrclr.errors import UsageError

# A gRPC channel with this option ignores http_proxy, https_proxy and grpc_proxy.
DIRECT = ("grpc.enable_http_proxy", 0)
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_TOKEN_BYTES = 16_384
_EXAMPLE = "Give HOST:PORT of the server's gRPC, for example 127.0.0.1:8001 or [::1]:8001."


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address, with or without the brackets of a URL; return None if the text is not one.

    An IPv4 address that is written as an IPv6 address (``::ffff:127.0.0.1``) is returned as the IPv4 address.
    """
    if text.startswith("[") and text.endswith("]") and ":" in text:
        text = text[1:-1]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def check_port(port: int) -> None:
    """Raise UsageError for a port that cannot be listened on; 0 stands for any free one."""
    if not 0 <= port <= 65535:
        raise UsageError(f"{port} is not a port", fix="Give a number up to 65535, or 0 for any free port.")


def token_of(file: Path | None, variable: str, *, with_scheme: bool = False) -> str | None:
    """Read a token from a file, or from an environment variable; None if neither is given.

    Args:
        file: the file.
        variable: name of the environment variable.
        with_scheme: whether a scheme may stand before the token, as in ``Basic …``.

    Raises:
        UsageError: the file cannot be read, or the text is not one word of ASCII.
    """
    if file is None:
        text, where = os.environ.get(variable, ""), f"the environment variable {variable}"
    else:
        where = str(file)
        try:
            with file.open("rb") as stream:
                text = stream.read(_TOKEN_BYTES).decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            why = (error.strerror if isinstance(error, OSError) else None) or "it is not ASCII text"
            raise UsageError(f"the token file {file} cannot be read", why=why) from None
        if not text.strip():
            raise UsageError(f"the token file {file} is empty")
    text = text.strip()
    if text and not re.fullmatch(r"[\x21-\x7e]+( [\x21-\x7e]+)?" if with_scheme else r"[\x21-\x7e]+", text):
        why = "a token is one word, or a scheme and a word" if with_scheme else "a token is one word"
        raise UsageError(f"{where} holds no token", why=why)
    return text or None


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        host: an IP address without brackets, or a name.
        port: from 1 to 65535.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``HOST:PORT``. An IPv6 address must be in brackets.

        Raises:
            UsageError: the text has another form. The error says which part is wrong.
        """
        if "@" in text:
            # The text before "@" may be a password, so the error does not quote it.
            raise UsageError(
                "the server's address holds a user name", why="lrclr does not send user names", fix=_EXAMPLE
            )
        if "://" in text:
            fix = _EXAMPLE
            if text.lower().startswith("http"):
                fix += " lrclr serve listens for gRPC on port 8001, and for HTTP on port 8000."
            raise UsageError(f"{text!r} is a URL", why="an address has no scheme", fix=fix)
        if any(sign in text for sign in "/?#"):
            raise UsageError(f"{text!r} has a path", why="an address is a host and a port", fix=_EXAMPLE)
        host, colon, port = text.rpartition(":")
        if not colon or ip_address(text) is not None or text.endswith("]"):
            where = ip_address(text)
            written = text if where is None else f"[{where}]" if where.version == 6 else str(where)
            fix = f"Write {written}:8001 if its gRPC port is 8001." if text else _EXAMPLE
            why = "an IPv6 address with a port is written in brackets" if where and where.version == 6 else None
            raise UsageError(f"{text!r} has no port" if text else "the server's address is empty", why=why, fix=fix)
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535):
            raise UsageError(
                f"{text!r} has no valid port", why=f"{port!r} is not a number from 1 to 65535", fix=_EXAMPLE
            )
        where = ip_address(host)
        if where is None:
            if ":" in host or "[" in host or "]" in host:
                raise UsageError(f"{text!r} has no valid host", why=f"{host!r} is not an IPv6 address", fix=_EXAMPLE)
            if not _HOST.fullmatch(host) or not host.strip("0123456789."):
                raise UsageError(f"{text!r} has no valid host", why=f"{host!r} is not a name or address", fix=_EXAMPLE)
            return cls(host, int(port))
        if where.version == 6 and not host.startswith("["):
            raise UsageError(
                f"{text!r} is ambiguous", why="an IPv6 address needs brackets", fix=f"Write [{where}]:{port}."
            )
        return cls(str(where), int(port))

    @property
    def loopback(self) -> bool:
        """Whether the address is this machine's own, so that a proxy cannot reach it."""
        where = ip_address(self.host)
        if where is None:
            # RFC 6761, section 6.3.
            name = self.host.lower().rstrip(".")
            return name == "localhost" or name.endswith(".localhost")
        # A connection to 0.0.0.0 or :: is a connection to this machine.
        return where.is_loopback or where.is_unspecified

    @property
    def channel_options(self) -> list[tuple[str, int]]:
        """Options of a gRPC channel to this address. A connection to a loopback address ignores the proxy variables."""
        return [DIRECT] if self.loopback else []

    @property
    def target(self) -> str:
        """The address in gRPC's notation."""
        if "%" in self.host:
            # gRPC accepts a zone only in a URI, in which brackets and the percent sign are escaped.
            return f"ipv6:%5B{self.host.replace('%', '%25')}%5D:{self.port}"
        return str(self)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
