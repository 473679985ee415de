"""How much memory one process and one request may take: every limit, and what enforces the limits on decoding.

The server refuses what is above these numbers, and `lrclr deploy` computes a container's memory from them.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from lrclr.errors import ImageLimitError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CACHE_BYTES",
    "DECODE_BYTES",
    "FILE_BYTES",
    "FINDINGS_BYTES",
    "FUSION_ROWS",
    "HEATMAP_BYTES",
    "QUEUED_REQUESTS",
    "REQUEST_BYTES",
    "REQUEST_HEATMAPS",
    "REQUEST_IMAGES",
    "SERVER_DECODE_BYTES",
    "SERVER_FILE_BYTES",
    "MemoryBudget",
    "decoding",
    "files",
    "reading",
]

_MIB: Final = 2**20

REQUEST_BYTES: Final = 64 * _MIB
"""Most bytes of the inputs of a request, all tensors together."""
REQUEST_IMAGES: Final = 64
"""Most images of a request, whatever the bundle's ``max_batch``: so many go through the image encoder at a time."""
REQUEST_HEATMAPS: Final = 16
"""Most images of a request that asks for heat maps."""
HEATMAP_BYTES: Final = 32 * _MIB
"""Memory in which a heat map is drawn. The picture that it is drawn on, and the PNG file of it, take less."""
QUEUED_REQUESTS: Final = 16
"""Most requests that wait for a process of a server's model `lrclr`."""
FINDINGS_BYTES: Final = 256 * 1024
"""Longest ``findings_toml``, and most bytes of the names in ``finding``, of a request."""
FUSION_ROWS: Final = 2**16
"""Region and word tokens, of all pairs of an image and a prompt, that the fusion head takes at once."""
CACHE_BYTES: Final = 64 * _MIB
"""Features of prompts that a process keeps."""
DECODE_BYTES: Final = 1024 * _MIB
"""Memory of the images that a process decodes at once, in all its threads."""
SERVER_DECODE_BYTES: Final = 512 * _MIB
"""The same for each process of a server, of which there are several."""
FILE_BYTES: Final = 1024 * _MIB
"""Files that a process reads by path at once, each counted twice, and what deflated DICOM files inflate to."""
SERVER_FILE_BYTES: Final = 128 * _MIB
"""The same for each process of a server, where files come with requests: deflated DICOM alone."""


class MemoryBudget:
    """A number of bytes that threads share: a reservation that does not fit now waits, in the order of asking.

    A thread has one reservation at a time, so that no two threads can wait for each other.

    Args:
        name: of this object, for errors.
        total: bytes that can be reserved at once.

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
        """Bytes that are reserved now."""
        return self._used

    @property
    def waiting(self) -> int:
        """Jobs that wait for memory."""
        return len(self._queue)

    @contextmanager
    def job(self) -> Iterator[None]:
        """Work of one thread on one image: what is reserved inside is given back at the end of the outermost job.

        A function that decodes has a job of its own. A caller who goes on to work with the picture puts a job around
        both, for the picture takes memory too.
        """
        self._here.depth += 1
        try:
            yield
        finally:
            self._here.depth -= 1
            if not self._here.depth:
                self._give_back()

    def reserve(self, size: int) -> None:
        """Reserve bytes for this thread's job, or wait until they are free. A job has its largest reservation.

        Raises:
            ImageLimitError: `size` is above `total`, so that waiting would not help.
        """
        assert self._here.depth, "a reservation needs a job"  # noqa: S101 - it would never be given back
        if size <= self._here.held:
            return
        if size > self.total:
            raise ImageLimitError(
                f"the image takes {-(-size // _MIB)} MiB of memory to read",
                why=f"that is more than the {self.total // _MIB} MiB that a process may use for it",
                fix=f"Raise lrclr.budget.{self._name}.total if the source can be trusted",
            )
        # Given back first: two threads that hold something and want more would wait for each other.
        self._give_back()
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
        # A thread that waited while `total` was made smaller runs alone.
        return self._used + size <= self.total or self._used == 0

    def _give_back(self) -> None:
        with self._changed:
            self._used -= self._here.held
            self._here.held = 0
            self._changed.notify_all()


class _ThisThread(threading.local):
    """Jobs of the thread that are open, one inside the other, and what the outermost holds."""

    depth = 0
    held = 0


decoding = MemoryBudget("decoding", DECODE_BYTES)
files = MemoryBudget("files", FILE_BYTES)


@contextmanager
def reading() -> Iterator[None]:
    """A job for one image, its file and its pixels: a context manager, or a decorator of a function that reads one."""
    with files.job(), decoding.job():
        yield
