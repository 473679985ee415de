"""Types of decoding and encoding: task, decoded image, outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrclr.archive._source import Item
    from lrclr.inference import Answers


class Hint(NamedTuple):
    """Times of the last change of a file's content and of its entry, in nanoseconds; zeros if they are not reliable."""

    modified: int
    changed: int


NO_HINT: Final = Hint(0, 0)


class Task(NamedTuple):
    """An item to process.

    Attributes:
        item: the item.
        row: row of the Parquet file that holds the image, if one does.
        known: content hash of the existing row, if there is one.
    """

    item: Item
    row: int | None = None
    known: str | None = None


class Chunk(NamedTuple):
    """Tasks of one part that make one batch.

    Attributes:
        part: number of the part.
        number: number of the batch in the part.
        tasks: tasks in the part's order.
    """

    part: int
    number: int
    tasks: tuple[Task, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason for a missing answer.

    Attributes:
        error: name of the error class in `lrclr.errors`.
        reason: text of the error, without content or name of the file.
        final: whether the content causes it, so that the file is tried again only if it changes.
    """

    error: str
    reason: str
    final: bool = True


@dataclass(frozen=True, slots=True)
class Decoded:
    """A file that was read.

    Attributes:
        item: the item.
        size: size of the file or of the encoded image in bytes; None if it could not be read.
        sha256: hash of the content; None if it could not be read.
        hint: times by which the next run recognises the file as unchanged.
        shape: (height, width) of the original image, if it was decoded.
        canvas: the image in the model's input size; see `lrclr.preprocessing.to_canvas`.
        remarks: what was ignored in the file; see `lrclr.images.ReducedImage`.
        failure: why the image could not be decoded.
        warnings: codes of `lrclr.input_checks`.
        content: the encoded image, if the decoder keeps it.
    """

    item: Item
    size: int | None = None
    sha256: str | None = None
    hint: Hint = NO_HINT
    shape: tuple[int, int] | None = None
    canvas: NDArray[np.uint8] | None = None
    failure: Failure | None = None
    remarks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of an item: scores, a failure, or neither if the old row is still valid.

    Attributes:
        decoded: the item, without its canvas.
        scores: its answers, without the axis of images.
        failure: why it has no scores.
    """

    decoded: Decoded
    scores: Answers | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image that got its scores now, while its content is still in memory.

    Attributes:
        item: the image.
        content: the encoded image.
        shape: (height, width) of the original image.
        warnings: codes of `lrclr.input_checks`.
        scores: its answers, without the axis of images.
    """

    item: Item
    content: bytes
    shape: tuple[int, int]
    warnings: tuple[str, ...]
    scores: Answers
