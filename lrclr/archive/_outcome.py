"""What decoding and encoding take and return: an item to look at, its picture, its outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrclr.archive._source import Item
    from lrclr.inference import Answers

__all__ = ["NO_HINT", "Chunk", "Decoded", "Failure", "Hint", "Outcome", "Task"]


class Hint(NamedTuple):
    """When a file's content and its entry were changed last, in nanoseconds; zeros where that proves nothing."""

    modified: int
    changed: int


NO_HINT: Final = Hint(0, 0)


class Task(NamedTuple):
    """An item to look at.

    Attributes:
        item: which.
        row: of a Parquet file that holds the image.
        known: hash of the content that there is a row for already.
    """

    item: Item
    row: int | None = None
    known: str | None = None


class Chunk(NamedTuple):
    """Tasks of one part that are decoded and encoded together.

    Attributes:
        part: number of the part.
        number: of the chunk within it.
        tasks: in the part's order.
    """

    part: int
    number: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer.

    Attributes:
        error: kind of the error, from `lrclr.errors`.
        reason: what was wrong; neither content nor name of the file.
        final: whether the content is to blame, so that trying again is needless until it changes.
    """

    error: str
    reason: str
    final: bool = True


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file that was read.

    Attributes:
        item: which.
        size: of the file or of the encoded image, in bytes; None if it could not be read.
        sha256: of its content; None likewise.
        hint: by which it will be known as unchanged.
        shape: (height, width) of the picture, if there is one.
        canvas: the picture in the size in which the model is fed: see `lrclr.preprocessing.to_canvas`.
        remarks: what was ignored in the file: see `lrclr.images.ReducedImage`.
        failure: why there is no picture, if there should be one.
    """

    item: Item
    size: int | None = None
    sha256: str | None = None
    hint: Hint = NO_HINT
    shape: tuple[int, int] | None = None
    canvas: NDArray[np.uint8] | None = None
    failure: Failure | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an item: scores, or a failure, or neither if its old row still holds.

    Attributes:
        decoded: the item, without its picture.
        scores: its answers, without the axis of images.
        failure: why there is none.
    """

    decoded: Decoded
    scores: Answers | None = None
    failure: Failure | None = None
