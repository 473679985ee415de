"""Decoding: from a task to the image in the model's input size."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from lrclr.archive._outcome import NO_HINT, Decoded, Failure, Hint, Task
from lrclr.archive._source import BYTES_COLUMN
from lrclr.budget import reading
from lrclr.errors import ImageError, LrclrError, MissingExtraError
from lrclr.file_names import path_of
from lrclr.images import ReadLimits, read_for_model
from lrclr.images._source import read_bytes
from lrclr.input_checks import check_refused
from lrclr.preprocessing import to_canvas

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.archive._source import RemoteImages
    from lrclr.preprocessing import PreprocessSpec

# A file that changes twice within a tick of the file system's clock keeps its times. A tick of FAT is 2 seconds.
_UNSETTLED_NS: Final = 3_000_000_000


def hint_of(status: os.stat_result) -> Hint:
    """The times of a file."""
    return Hint(status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True)
class Decoder:
    """Reads, hashes and decodes files. Safe to call from several threads; can be pickled.

    Attributes:
        root: folder that names are relative to.
        container: a Parquet file that holds the images, or None.
        spec: the model's preprocessing.
        frame: frame of files that hold several, if the item names none.
        exact: whether files are read in full; see `lrclr.images.read_for_model`.
        refuse: codes of `lrclr.input_checks`. An image with such a warning is a failure.
        limits: limits on what is read.
        remote: reads the images by their names, if a server keeps them; else None.
        keep: whether a decoded image keeps its encoded content.
    """

    root: Path
    container: Path | None
    spec: PreprocessSpec
    frame: int | None = None
    exact: bool = False
    refuse: frozenset[str] = frozenset()
    limits: ReadLimits = field(default_factory=ReadLimits)
    remote: RemoteImages | None = None
    keep: bool = False

    @reading()
    def __call__(self, task: Task) -> Decoded:
        """The image, or a failure; neither if the content has the known hash."""
        item = task.item
        try:
            data, hint = self._read(task)
        except Exception as error:  # noqa: BLE001 - the other files go on
            final = self.remote is not None and isinstance(error, ImageError)
            return Decoded(item, failure=replace(_unreadable(error), final=final))
        # An empty file is content, too: it is tried again only if it changes.
        size, digest = len(data), hashlib.sha256(data).hexdigest()
        if digest == task.known:
            return Decoded(item, size, digest, hint)
        try:
            frame = self.frame if item.frame is None else item.frame
            image = read_for_model(data, self.spec, exact=self.exact, frame=frame, limits=self.limits)
            check_refused(image.warnings, self.refuse)
            canvas = to_canvas(image, self.spec)
        except MissingExtraError as error:
            return Decoded(item, size, digest, hint, failure=Failure(type(error).__name__, str(error), final=False))
        except LrclrError as error:
            return Decoded(item, size, digest, hint, failure=Failure(type(error).__name__, str(error)))
        except Exception as error:  # noqa: BLE001 - likewise; its text may quote the content
            return Decoded(item, size, digest, hint, failure=_unexpected(error))
        shape = (image.height, image.width)
        decoded = Decoded(item, size, digest, hint, shape, canvas, remarks=image.remarks, warnings=image.warnings)
        return replace(decoded, content=data) if self.keep else decoded

    def _read(self, task: Task) -> tuple[bytes, Hint]:
        if self.remote is not None:
            return read_bytes(self.remote.read(task.item.name), self.limits, allow_empty=True), NO_HINT
        path = self.container or self.root / path_of(task.item.name)
        before = _status(path)
        data = self._content(path, task.row)
        return data, _trusted(before, _status(path))

    def _content(self, path: Path, row: int | None) -> bytes:
        if row is None:
            return read_bytes(path, self.limits, allow_empty=True)
        return read_bytes(_cell(path, row, _status(path)), self.limits, allow_empty=True)


def _status(path: Path) -> tuple[int, Hint]:
    status = path.stat()
    return status.st_size, hint_of(status)


def _trusted(before: tuple[int, Hint], after: tuple[int, Hint]) -> Hint:
    size_and_times = after
    if before != size_and_times or time.time_ns() - max(after[1]) < _UNSETTLED_NS:
        return NO_HINT
    return after[1]


def _unreadable(error: Exception) -> Failure:
    # The text of the error names the file; a file name may identify a patient.
    if isinstance(error, LrclrError):
        return Failure(type(error).__name__, f"the file cannot be read: {error.why or error.what}", final=False)
    if isinstance(error, OSError):
        why = os.strerror(error.errno) if error.errno else "the system refused it"
        return Failure(ImageError.__name__, f"the file cannot be read: {why}", final=False)
    return _unexpected(error)


def _unexpected(error: Exception) -> Failure:
    return Failure(LrclrError.__name__, f"unexpected {type(error).__name__}", final=False)


def _cell(path: Path, row: int, stamp: tuple[int, Hint]) -> bytes:
    starts = _row_groups(path, stamp)
    group = max(number for number, start in enumerate(starts) if start <= row)
    value = _column(path, group, stamp)[row - starts[group]].as_py()
    if value is None:
        return b""
    if not isinstance(value, bytes):
        raise ImageError("the row holds no encoded image", why=f"its {BYTES_COLUMN} are not binary")
    return value


@lru_cache(maxsize=4)
def _row_groups(path: Path, stamp: tuple[int, Hint]) -> tuple[int, ...]:  # noqa: ARG001 - the stamp is a key
    """The first row of each row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        rows = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    return tuple(sum(rows[:number]) for number in range(len(rows)))


# Rows of one group are read one after the other.
@lru_cache(maxsize=2)
def _column(path: Path, group: int, stamp: tuple[int, Hint]) -> Any:  # noqa: ARG001 - the stamp is a key
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[BYTES_COLUMN])[BYTES_COLUMN]
