"""Limits on the memory of a process and of a request, and the enforcement of the limits on decoding.

The server refuses requests above these limits, and `lrclr deploy` computes a container's memory from them.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from lrclr.errors import ImageLimitError

__all__ = [
    "CACHE_BYTES",
    "DECODE_BYTES",
    "FILE_BYTES",
    "FINDINGS_BYTES",
    "FUSION_ROWS",
    "HEATMAP_BYTES",
    "REQUEST_BYTES",
    "REQUEST_HEATMAPS",
    "REQUEST_IMAGES",
    "RUN_PROMPTS",
    "SERVER_DECODE_BYTES",
    "SERVER_FILE_BYTES",
    "TEXT_TOKENS",
    "MemoryBudget",
    "decoding",
    "files",
    "reading",
    "release_freed_memory",
]

_MIB: Final = 2**20

REQUEST_BYTES: Final = 64 * _MIB
"""Greatest size of the inputs of a request in bytes, all tensors together."""
REQUEST_IMAGES: Final = 64
"""Greatest number of images in a request. The bundle's ``max_batch`` limits only how many are encoded at a time."""
REQUEST_HEATMAPS: Final = 16
"""Greatest number of images in a request for heat maps."""
HEATMAP_BYTES: Final = 32 * _MIB
"""Memory for drawing a heat map, in bytes. The picture below it and the PNG file take less."""
FINDINGS_BYTES: Final = 256 * 1024
"""Greatest size of ``findings_toml`` in a request, and of the names in ``finding``, in bytes."""
FUSION_ROWS: Final = 2**16
"""Greatest number of region and text tokens, over all pairs of image and prompt, in one run of the fusion head."""
RUN_PROMPTS: Final = 256
"""Greatest number of prompts in one run of the text encoder or the fusion head."""
TEXT_TOKENS: Final = 2**13
"""Greatest number of tokens, padding included, in one run of the text encoder."""
CACHE_BYTES: Final = 64 * _MIB
"""Size of a process's cache of prompt features, in bytes."""
DECODE_BYTES: Final = 1024 * _MIB
"""Memory for the images that a process decodes at the same time, in all its threads, in bytes."""
SERVER_DECODE_BYTES: Final = 512 * _MIB
"""The same limit for each of the several processes of a server."""
FILE_BYTES: Final = 1024 * _MIB
"""Memory for files that a process reads by path at the same time, each counted twice, and for inflated DICOM files."""
SERVER_FILE_BYTES: Final = 128 * _MIB
"""The same limit for each process of a server. Files come with requests, so only inflated DICOM files count."""


class MemoryBudget:
    """A number of bytes that threads share. A reservation that does not fit waits; reservations are served in order.

    A thread has one reservation at a time, so two threads cannot wait for each other.

    Args:
        name: name of this object in errors.
        total: bytes that can be reserved at the same time.

    Attributes:
        total: as given. A change applies from the next reservation on.
    """

    def __init__(self, name: str, total: int) -> None:
        self.total = total
        self._name = name
        self._used = 0
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()
        self._here = _ThisThread()

    @property
    def used(self) -> int:
        """Bytes that are currently reserved."""
        return self._used

    @property
    def waiting(self) -> int:
        """Number of jobs that wait for memory."""
        return len(self._queue)

    @contextmanager
    def job(self) -> Iterator[None]:
        """Work of one thread on one image. The end of the outermost job releases its reservation.

        A function that decodes opens a job. A caller that also processes the picture opens a job around both, since the
        picture takes memory, too.
        """
        self._here.depth += 1
        try:
            yield
        finally:
            self._here.depth -= 1
            if not self._here.depth:
                self._release()

    def reserve(self, size: int) -> None:
        """Reserve bytes for this thread's job, and wait until they are free. A job keeps its largest reservation.

        Raises:
            ImageLimitError: `size` is above `total`, so waiting would not help.
        """
        assert self._here.depth, "a reservation needs a job"  # noqa: S101 - otherwise it would never be released
        if size <= self._here.held:
            return
        if size > self.total:
            raise ImageLimitError(
                f"the image takes {-(-size // _MIB)} MiB of memory to read",
                why=f"that is more than the {self.total // _MIB} MiB that a process may use for it",
                fix=f"Raise lrclr.budget.{self._name}.total if the source can be trusted",
            )
        # Release the old reservation first: two threads that hold memory and need more would wait for each other.
        self._release()
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(lambda: self._queue[0] is ticket and self._fits(size))
                self._used += size
                self._here.held = size
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        # If `total` became smaller while a thread waited, the thread runs alone.
        return self._used + size <= self.total or self._used == 0

    def _release(self) -> None:
        with self._changed:
            self._used -= self._here.held
            self._here.held = 0
            self._changed.notify_all()


class _ThisThread(threading.local):
    """Number of nested jobs of this thread, and the bytes that it holds."""

    depth = 0
    held = 0


decoding = MemoryBudget("decoding", DECODE_BYTES)
files = MemoryBudget("files", FILE_BYTES)


@contextmanager
def reading() -> Iterator[None]:
    """Open a job for reading one image: for its file and its pixels. Use it as a context manager or a decorator."""
    with files.job(), decoding.job():
        yield


def release_freed_memory() -> None:
    """Give freed memory back to the system.

    glibc keeps it where memory behind it is in use, as after a network was copied tensor by tensor. Other C libraries
    have no such function.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
