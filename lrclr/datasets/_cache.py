"""`PixelCache`: decoded images on disk in the model's input size, so that only the first epoch decodes."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from lrclr._files import sha256_of
from lrclr.datasets._cache_build import CACHE_FILES, INDEX, PIXELS, SUMMARY, Entry, cache_key, write_cache
from lrclr.datasets._rows import RowProblem
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from lrclr.datasets._rows import Row
    from lrclr.preprocessing import PreprocessSpec

_FIX: Final = "Build it again."


class _Summary(NamedTuple):
    key: str
    side: int
    problems: tuple[RowProblem, ...]


class PixelCache:
    """Images of some rows after :func:`~lrclr.preprocessing.to_canvas`, mapped into memory.

    Made by :meth:`build` or :meth:`open`. ``cache.kept(rows)[i]`` is the row of image i. Rows whose image could not be
    read are in `read_errors`. A cache can be pickled: the other process maps the same file.

    Attributes:
        folder: folder of the cache.
        key: hash of the preprocessing and of the image files.
        positions: int64 ``[N]``, for each image the position of its row.
        read_errors: rows without an image, with the reason.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = Path(folder), key
        summary, index, pixels = _load(self.folder)
        if summary.key != key:
            raise UsageError(
                f"the cache in {folder} is stale",
                why="the images, their files, the preprocessing or the way of reading have changed",
                fix=_FIX,
            )
        self.read_errors = summary.problems
        self._side, self._index, self._pixels = summary.side, index, pixels
        self.positions: NDArray[np.int64] = index["row"]

    @classmethod
    def open(
        cls, folder: str | os.PathLike[str], rows: Sequence[Row], spec: PreprocessSpec, *, exact: bool = False
    ) -> PixelCache:
        """Open the cache of these rows, this preprocessing and this way of reading.

        Raises:
            UsageError: the folder has no cache, or a stale one.
            LrclrError: the cache is damaged.
        """
        return cls(Path(folder), cache_key(rows, spec, exact=exact))

    @classmethod
    def build(
        cls,
        rows: Sequence[Row],
        spec: PreprocessSpec,
        folder: str | os.PathLike[str],
        *,
        workers: int | None = None,
        exact: bool = False,
        on_progress: Callable[[int, int, float], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> PixelCache:
        """Open the cache of these rows; if there is none or a stale one, decode them into a new one.

        Args:
            rows: rows of the images.
            spec: the model's preprocessing.
            folder: folder of the cache; written whole or not at all.
            workers: threads that decode; ``None`` for one a processor.
            exact: read every pixel of the images; see `lrclr.images.read_for_model`.
            on_progress: called with the number of images done, of all images, and images a second.
            on_note: called with the reason when a cache is replaced.

        Raises:
            UsageError: there are no rows, or the folder holds other files.
            ImageError: no image can be read; single failures are in the cache's `read_errors`.
            MissingExtraError: an image is DICOM, and its decoder is not installed.
            LrclrError: the disk is too small or not writable.
        """
        folder = Path(folder)
        key = cache_key(rows, spec, exact=exact)
        if (folder / SUMMARY).is_file():
            try:
                cache = cls(folder, key)
            except LrclrError as error:
                if on_note is not None:
                    on_note(f"{error.what}, because {error.why}; it is built again" if error.why else error.what)
            else:
                return cache
        write_cache(rows, spec, folder, key, workers=workers, exact=exact, on_progress=on_progress)
        return cls(folder, key)

    def __len__(self) -> int:
        return len(self._index)

    def pixels(self, i: int) -> NDArray[np.uint8]:
        """Image i for :func:`~lrclr.preprocessing.from_canvas`: uint8 ``[S', S']`` or ``[S', S', 3]``, read-only."""
        entry = self._index[i]
        shape = (self._side, self._side, 3)[: 2 if entry["channels"] == 1 else 3]
        return np.frombuffer(self._pixels, np.uint8, int(np.prod(shape)), int(entry["offset"])).reshape(shape)

    def sizes(self, i: int) -> tuple[int, int]:
        """Height and width of image i as it was decoded, before any resize."""
        return int(self._index[i]["height"]), int(self._index[i]["width"])

    def kept(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that have an image, in the order of the images."""
        return [rows[position] for position in self.positions]

    def __reduce__(self) -> tuple[type[PixelCache], tuple[Path, str]]:
        return type(self), (self.folder, self.key)


def _load(folder: Path) -> tuple[_Summary, NDArray[Any], mmap.mmap]:
    missing = [name for name in sorted(CACHE_FILES) if not (folder / name).is_file()]
    if missing:
        raise UsageError(f"{folder} has no cache", why=f"{missing[0]} is missing")
    try:
        content = json.loads((folder / SUMMARY).read_text("utf-8"))
        problems = tuple(RowProblem(int(line), str(text)) for line, text in content["problems"])
        summary = _Summary(str(content["key"]), int(content["side"]), problems)
        # Of the pixels only the size is checked: hashing them would read gigabytes.
        if sha256_of(folder / INDEX) != content["index_sha256"] or (folder / PIXELS).stat().st_size != content["bytes"]:
            raise ValueError(folder)
        index = np.load(folder / INDEX, allow_pickle=False)
        if index.dtype != Entry or len(index) < 1:
            raise ValueError(folder)
        with (folder / PIXELS).open("rb") as file:
            return summary, index, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LrclrError(
            f"the cache in {folder} is damaged", why="its files do not match each other", fix=_FIX
        ) from error
