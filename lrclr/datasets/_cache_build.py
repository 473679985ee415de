"""Writes a cache of decoded images: its key, its files, and the threads that decode."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import PIL

from lrclr._files import replace_directory, sha256_of
from lrclr._prefetch import batches_ahead
from lrclr._processors import processors
from lrclr.budget import reading
from lrclr.datasets._rows import without_name
from lrclr.errors import ImageError, LrclrError, MissingExtraError, UsageError
from lrclr.images import read_for_model
from lrclr.preprocessing import to_canvas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.datasets._rows import Row
    from lrclr.preprocessing import PreprocessSpec

SUMMARY: Final = "cache.json"
INDEX: Final = "index.npy"
PIXELS: Final = "pixels.bin"
CACHE_FILES: Final = frozenset({SUMMARY, INDEX, PIXELS})
Entry: Final = np.dtype([("row", "<i8"), ("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("channels", "u1")])
_FORMAT: Final = 1
_IMAGES_PER_WORKER: Final = 16
_SHOWN_EVERY: Final = 0.2


class _Decoded(NamedTuple):
    canvas: NDArray[np.uint8]
    size: tuple[int, int]


def cache_key(rows: Sequence[Row], spec: PreprocessSpec, *, exact: bool = False) -> str:
    """Hash of what the pixels depend on: preprocessing, reading, files with size and time, frames, Pillow's version."""
    recipe = {**asdict(spec), "exact": exact, "format": _FORMAT, "pillow": PIL.__version__}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode())
    for row in rows:
        try:
            status = row.image.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except (OSError, ValueError):
            # A missing file is a read error of its row. When it appears, the cache is stale.
            state = "missing"
        digest.update(f"{row.line} {row.frame} {state} ".encode() + os.fsencode(row.image) + b"\0")
    return digest.hexdigest()


def write_cache(
    rows: Sequence[Row],
    spec: PreprocessSpec,
    folder: Path,
    key: str,
    *,
    workers: int | None,
    exact: bool,
    on_progress: Callable[[int, int, float], None] | None,
) -> None:
    """Decode all rows into `folder`, which is replaced at the end. Raises the errors of :meth:`PixelCache.build`."""
    if not rows:
        raise UsageError("there are no images to cache")
    side = spec.canvas or spec.image_size
    problems: list[tuple[int, str]] = []
    entries: list[tuple[int, int, int, int, int]] = []
    with replace_directory(folder, expected=CACHE_FILES, overwrite=True) as staging:
        _check_space(staging, len(rows) * side * side)
        offset = 0
        with (staging / PIXELS).open("wb") as file:
            shown = _Rate(len(rows), on_progress)
            for position, decoded in enumerate(_decoded(rows, spec, workers, exact=exact)):
                if isinstance(decoded, _Decoded):
                    canvas = decoded.canvas
                    entries.append((position, offset, *decoded.size, canvas.size // (side * side)))
                    offset += file.write(np.ascontiguousarray(canvas).data)
                else:
                    problems.append((rows[position].line, without_name(decoded, rows[position].image)))
                shown.advance()
        if not entries:
            raise ImageError(f"none of {len(rows)} images can be read", why=f"line {problems[0][0]}: {problems[0][1]}")
        np.save(staging / INDEX, np.array(entries, Entry), allow_pickle=False)
        summary = {
            "key": key,
            "side": side,
            "bytes": offset,
            "index_sha256": sha256_of(staging / INDEX),
            "preprocess": asdict(spec),
            "exact": exact,
            "problems": problems,
        }
        (staging / SUMMARY).write_text(json.dumps(summary) + "\n", encoding="utf-8")


class _Rate:
    def __init__(self, total: int, show: Callable[[int, int, float], None] | None) -> None:
        self._total, self._show = total, show
        self._done, self._begun, self._shown = 0, time.perf_counter(), 0.0

    def advance(self) -> None:
        self._done += 1
        if self._show is None:
            return
        now = time.perf_counter()
        if now - self._shown >= _SHOWN_EVERY or self._done == self._total:
            self._shown = now
            self._show(self._done, self._total, self._done / max(now - self._begun, 1e-9))


def _check_space(folder: Path, least: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < least:
        raise LrclrError(
            f"the cache does not fit in {folder.parent}",
            why=f"it takes at least {least / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free",
            fix="Choose a folder on another disk.",
        )


def _decoded(
    rows: Sequence[Row], spec: PreprocessSpec, workers: int | None, *, exact: bool
) -> Iterator[_Decoded | LrclrError]:
    """The image of every row, in order.

    In threads: Pillow decodes and resizes without the interpreter's lock. On two cores, images a second for PNG of 160,
    512 and 2000 pixels: one thread 1900, 350 and 28; two threads 2700, 655 and 58; two processes 2900, 635 and 54.
    """
    count = workers or processors()
    if count < 1:
        raise UsageError("decoding needs at least one worker")
    decode = partial(_decode, spec=spec, exact=exact)
    for batch in batches_ahead(rows, decode, batch_size=_IMAGES_PER_WORKER * count, workers=count):
        for _, outcome in batch:
            if isinstance(outcome, MissingExtraError):
                # Every other image of its kind would fail too.
                raise outcome
            yield outcome


@reading()
def _decode(row: Row, spec: PreprocessSpec, exact: bool) -> _Decoded:
    image = read_for_model(row.image, spec, exact=exact, frame=row.frame)
    canvas = to_canvas(image, spec)
    if canvas.ndim == 3 and (canvas == canvas[..., :1]).all():
        # Grey saved as colour: a third of the space, with the same values for the model.
        canvas = canvas[..., 0]
    return _Decoded(canvas, (image.height, image.width))
