"""Options and summary of writing embeddings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from lrclr.errors import UsageError
from lrclr.images._read import checked_frame
from lrclr.inference._decoding import BATCH_SIZE

DTYPES: Final = ("float32", "float16")


@dataclass(frozen=True)
class EmbedOptions:
    """How embeddings are computed and written.

    Attributes:
        dtype: type of the numbers in the file: ``"float32"`` or ``"float16"``.
        regions: write the embeddings of the selected regions, too. For images only.
        frame: frame of files that hold several, from 0.
        exact: read files in full; see `lrclr.images.read_for_model`.
        batch_size: images or texts that the model takes at once. Results of another batch size differ by rounding.
        workers: threads that decode; None for one a processor.
    """

    dtype: Literal["float32", "float16"] = "float32"
    regions: bool = False
    frame: int | None = None
    exact: bool = False
    batch_size: int = BATCH_SIZE
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"unknown dtype {self.dtype!r}", fix=f"Choose {' or '.join(DTYPES)}.")
        checked_frame(self.frame)
        if self.batch_size < 1:
            raise UsageError("a batch needs at least one row")


@dataclass
class EmbedSummary:
    """What was written.

    Attributes:
        rows: rows of the file, one for each image or text.
        failures: reasons for rows without an embedding, and their counts.
        dimension: length of an embedding; None if no row has one.
    """

    rows: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    dimension: int | None = None

    @property
    def failed(self) -> int:
        """Rows without an embedding."""
        return sum(self.failures.values())
