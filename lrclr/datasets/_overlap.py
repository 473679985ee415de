"""Images and patients that two sets of rows have in common, such as training and test rows."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from lrclr._files import sha256_of
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lrclr.datasets._rows import Row

    Key = tuple[str, int | None]


def check_apart(one: Sequence[Row], other: Sequence[Row], *, what: str, fix: str) -> None:
    """Raise an error if two sets of rows share a patient or an image.

    Images are the same if their files have the same path or content; frames of one file are different images. Only
    files of equal size are read.

    Args:
        one, other: the rows.
        what: the error's words about shared images, such as "to validate on {} trained on as well".
        fix: what to do.

    Raises:
        UsageError: they share a patient or an image.
    """
    patients = {row.patient for row in one if row.patient} & {row.patient for row in other}
    for noun, shared in (("patient", len(patients)), ("image", _shared_images(one, other))):
        if shared:
            plural = "" if shared == 1 else "s"
            verb = "is" if shared == 1 else "are"
            raise UsageError(f"{shared} {noun}{plural} {what.format(verb)}", why="scores would be too high", fix=fix)


def _shared_images(one: Iterable[Row], other: Iterable[Row]) -> int:
    first, second = _by_size(one), _by_size(other)
    shared = 0
    for size in first.keys() & second.keys():
        same = first[size] & second[size]
        left, right = first[size] - same, second[size] - same
        shared += len(same)
        if left and right:
            shared += len({_content(*key) for key in left} & {_content(*key) for key in right})
    return shared


def _by_size(rows: Iterable[Row]) -> dict[int, set[Key]]:
    sizes: defaultdict[int, set[Key]] = defaultdict(set)
    for row in rows:
        try:
            # Links to one file are one file.
            sizes[row.image.stat().st_size].add((os.path.realpath(row.image), row.frame))
        except (OSError, ValueError):
            # A missing file is an error when it is read.
            continue
    return sizes


def _content(path: str, frame: int | None) -> tuple[str, int | None]:
    try:
        return sha256_of(Path(path)), frame
    except (OSError, LrclrError):
        return path, frame
