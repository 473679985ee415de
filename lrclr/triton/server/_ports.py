"""Ports to listen on."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lrclr.errors import ServerError
from lrclr.triton.server._processes import port_owner

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["free_ports"]


def free_ports(address: str, wanted: Sequence[int]) -> list[int]:
    """The ports that were wanted, and for each 0 one that is free.

    Raises:
        ServerError: one is taken, or the address is not this machine's.
    """
    ports = []
    with ExitStack() as held:
        for port in wanted:
            try:
                # An address with a zone becomes one with the number of the interface.
                found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
                family, kind, protocol, _, place = found[0]
                one = held.enter_context(socket.socket(family, kind, protocol))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(place)
            except OSError as error:
                owner = port_owner(port) if error.errno == errno.EADDRINUSE else None
                other = "another port, or 0 for any that is free."
                raise ServerError(
                    f"cannot listen on {address} port {port}",
                    why=f"{owner} listens there" if owner else error.strerror,
                    fix=f"End that process, or choose {other}" if owner else f"Choose {other}",
                ) from None
            ports.append(int(one.getsockname()[1]))
    return ports
