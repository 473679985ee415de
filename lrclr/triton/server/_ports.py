"""Free ports."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from contextlib import ExitStack

from lrclr.errors import ServerError
from lrclr.triton.server._processes import port_owner


def free_ports(address: str, wanted: Sequence[int]) -> list[int]:
    """The wanted ports, with a free port in place of each 0.

    Raises:
        ServerError: a port is in use, or this machine does not have the address.
    """
    ports = []
    with ExitStack() as held:
        for port in wanted:
            try:
                # This converts the zone of an address to the number of the interface.
                found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
                family, kind, protocol, _, place = found[0]
                one = held.enter_context(socket.socket(family, kind, protocol))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(place)
            except OSError as error:
                owner = port_owner(port) if error.errno == errno.EADDRINUSE else None
                other = "another port, or 0 for any free port."
                raise ServerError(
                    f"cannot listen on {address} port {port}",
                    why=f"{owner} listens there" if owner else error.strerror,
                    fix=f"End that process, or choose {other}" if owner else f"Choose {other}",
                ) from None
            ports.append(int(one.getsockname()[1]))
    return ports
