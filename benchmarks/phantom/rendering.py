"""Renders many pictures into a folder, in several processes; intact pictures that exist are not rendered again."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from benchmarks.phantom.picture import Split, make_picture
from benchmarks.phantom.staging import write_whole
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.phantom.ct import Phantom

__all__ = ["Job", "Place", "is_intact", "render"]


_END = b"\0\0\0\0IEND\xaeB`\x82"


class Place(NamedTuple):
    """Split and number of a picture, from which the names of its files are made."""

    split: Split
    number: int

    @property
    def image(self) -> str:
        return f"images/{self.split}/{self.number:06d}.png"

    @property
    def mask(self) -> str:
        return f"masks/{self.split}/{self.number:06d}.png"


class Job(NamedTuple):
    """What all pictures have in common."""

    phantom: Phantom
    seed: int
    size: int
    folder: Path


def render(job: Job, places: Sequence[Place], workers: int) -> Iterator[bool]:
    """Render pictures in order.

    Yields:
        For each picture whether it was rendered; False if an intact one existed.

    Raises:
        LrclrError: a worker process died.
        OSError: a file could not be written.
    """
    for folder in sorted({(job.folder / name).parent for place in places for name in (place.image, place.mask)}):
        folder.mkdir(parents=True, exist_ok=True)
    if workers == 1:
        yield from (_render_one(job, place) for place in places)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start, initargs=(job,)
    )
    try:
        yield from pool.map(_work, places, chunksize=4)
    except BrokenProcessPool as error:
        raise LrclrError(
            "a worker process died", why="it may have run out of memory", fix="Try fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def is_intact(path: Path, size: int) -> bool:
    """Whether the file is a grey PNG of this size with correct check sums.

    A file is renamed to its name only after it is written, but after a power failure it may be empty.
    """
    try:
        content = path.read_bytes()
        if not content.endswith(_END):  # Pillow does not check the end
            return False
        with Image.open(io.BytesIO(content)) as image:
            fits = image.format == "PNG" and image.mode == "L" and image.size == (size, size)
            image.verify()
    except (OSError, SyntaxError, ValueError):  # Pillow raises these for other and for damaged files
        return False
    return fits


_given: list[Job] = []  # of a worker process


def _start(job: Job) -> None:
    # The parent handles an interrupt and shuts the pool down.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _given.append(job)


def _end_with_parent() -> None:
    # Without this, the workers of a killed parent would wait for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(place: Place) -> bool:
    return _render_one(_given[0], place)


def _render_one(job: Job, place: Place) -> bool:
    image, mask = job.folder / place.image, job.folder / place.mask
    if is_intact(image, job.size) and is_intact(mask, job.size):
        return False
    picture = make_picture(job.phantom, place.split, job.seed, place.number, job.size)
    write_whole(image, _png(picture.pixels))
    write_whole(mask, _png(picture.mask))
    return True


def _png(pixels: NDArray[np.uint8]) -> bytes:
    with io.BytesIO() as stream:
        Image.fromarray(pixels).save(stream, format="PNG")
        return stream.getvalue()
