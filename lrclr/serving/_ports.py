"""Ports to listen on."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from lrclr.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["free_ports"]


def free_ports(address: str, wanted: Sequence[int]) -> list[int]:
    """The ports that were wanted, and for each 0 one that is free.

    Raises:
        ServerError: one is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    ports = []
    with ExitStack() as held:
        for port in wanted:
            one = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind((address, port))
            except OSError as error:
                raise ServerError(
                    f"cannot listen on {address} port {port}",
                    why=error.strerror,
                    fix="Choose another port, or 0 for any that is free.",
                ) from None
            ports.append(int(one.getsockname()[1]))
    return ports
