"""Inputs in memory that client and server share."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.errors import LrclrError
from lrclr.triton import protocol
from lrclr.triton.client._wire import triton_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_SMALL_TENSOR = 4096  # bytes; a smaller tensor is sent with the request
_SMALLEST = 1 << 18
_ALIGNMENT = 64


@dataclass(frozen=True)
class _Region:
    """Memory that is registered at the server by name."""

    name: str
    size: int
    handle: Any


class SharedRegions:
    """Regions of shared memory, reused by later requests, since registering one costs a call. Safe with threads.

    A region belongs to one request at a time. If the request fails, its region is not used again: the server may still
    read it.

    Args:
        client: tritonclient's client of a server on this machine that allows shared memory.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lock = Lock()
        self._free: list[_Region] = []
        self._given_up: list[str] = []

    @contextmanager
    def inputs(self, tensors: Mapping[str, NDArray[Any]], *, timeout: float) -> Iterator[list[Any]]:
        """Inputs of one request in tritonclient's types. Large ones are in a region.

        Args:
            tensors: inputs by name.
            timeout: seconds in which the server must register a new region.
        """
        from tritonclient.utils import serialize_byte_tensor
        from tritonclient.utils import shared_memory as shm

        grpc = triton_grpc()
        inputs, large, end = [], [], 0
        for name, array in tensors.items():
            one = grpc.InferInput(name, list(array.shape), protocol.INPUTS[name].datatype)
            content = serialize_byte_tensor(array).item() if array.dtype == np.object_ else array.tobytes()
            if len(content) < _SMALL_TENSOR:
                one.set_data_from_numpy(array)
            else:
                large.append((one, content, end))
                end += -(-len(content) // _ALIGNMENT) * _ALIGNMENT
            inputs.append(one)
        if not large:
            yield inputs
            return
        region = self._take(end, timeout)
        try:
            for one, content, start in large:
                shm.set_shared_memory_region(region.handle, [np.frombuffer(content, np.uint8)], offset=start)
                one.set_shared_memory(region.name, len(content), offset=start)
            yield inputs
        except BaseException:
            # It is unregistered with the next new region or at the end: the failed call has no time left for it.
            shm.destroy_shared_memory_region(region.handle)
            with self._lock:
                self._given_up.append(region.name)
            raise
        with self._lock:
            self._free.append(region)

    def close(self) -> None:
        """Remove all regions. None may be in use."""
        with self._lock:
            regions, self._free = self._free, []
        self._give_up(regions, timeout=5.0)

    def _take(self, size: int, timeout: float) -> _Region:
        from tritonclient.utils import shared_memory as shm

        with self._lock:
            fitting = next((region for region in self._free if region.size >= size), None)
            if fitting is not None:
                self._free.remove(fitting)
                return fitting
            outgrown, self._free = self._free, []
        end = time.monotonic() + timeout
        self._give_up(outgrown, timeout=timeout)
        size = max(_SMALLEST, 1 << (size - 1).bit_length())
        name = f"lrclr_{secrets.token_hex(8)}"
        region = _Region(name, size, shm.create_shared_memory_region(name, f"/{name}", size))
        try:
            _allocate(Path("/dev/shm", name), size)  # noqa: S108 - where the system keeps shared memory
            left = max(0.001, end - time.monotonic())
            self._client.register_system_shared_memory(name, f"/{name}", size, client_timeout=left)
        except BaseException:
            shm.destroy_shared_memory_region(region.handle)
            raise
        return region

    def _give_up(self, regions: list[_Region], *, timeout: float) -> None:
        """Remove regions from this machine now, and unregister them at the server when it no longer reads them.

        Args:
            regions: regions that no request uses.
            timeout: seconds in which the server must unregister all of them.
        """
        from tritonclient.utils import InferenceServerException
        from tritonclient.utils import shared_memory as shm

        for region in regions:
            shm.destroy_shared_memory_region(region.handle)
        with self._lock:
            names, self._given_up = [*self._given_up, *(region.name for region in regions)], []
        end = time.monotonic() + timeout
        for name in names:
            try:
                left = max(0.001, end - time.monotonic())
                self._client.unregister_system_shared_memory(name, client_timeout=left)
            except InferenceServerException as error:
                # If the server still reads it, or is late, try again later. A server that has ended has forgotten it.
                if any(sign in f"{error.status()} {error.message()}" for sign in ("in use", "DEADLINE", "Deadline")):
                    with self._lock:
                        self._given_up.append(name)


def _allocate(file: Path, size: int) -> None:
    """Reserve the memory of a region. Without it, the process would be killed when it writes more than there is.

    Raises:
        LrclrError: there is not enough shared memory.
    """
    try:
        with file.open("r+b") as region:
            os.posix_fallocate(region.fileno(), 0, size)
    except OSError as error:
        raise LrclrError(
            f"{size} bytes of shared memory cannot be allocated",
            why=error.strerror,
            fix="Enlarge /dev/shm, or leave shared_memory out.",
        ) from error
