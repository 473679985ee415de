"""Parts: Parquet files with the rows of some images, and the times by which unchanged files are recognised."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lrclr._files import os_reason, write_whole
from lrclr._version import __version__
from lrclr.archive._outcome import Hint, Outcome
from lrclr.archive._settings import SCHEMA_VERSION
from lrclr.archive._source import Item, item_order
from lrclr.errors import LrclrError
from lrclr.inference import Answers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.archive._settings import Settings

FAILED: Final = "failed"
SCORED: Final = "scored"
_FLOATS: Final = pa.list_(pa.float32())
SCHEMA: Final = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("frame", pa.int32()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("bundle", pa.string(), nullable=False),
        pa.field("exact", pa.bool_(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("final", pa.bool_(), nullable=False),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("remarks", pa.list_(pa.string())),
        pa.field("warnings", pa.list_(pa.string())),
        pa.field("findings", pa.list_(pa.string())),
        pa.field("probability", _FLOATS),
        pa.field("global_positive", _FLOATS),
        pa.field("global_negative", _FLOATS),
        pa.field("local_positive", _FLOATS),
        pa.field("local_negative", _FLOATS),
        pa.field("region_index", pa.list_(pa.int32())),
        pa.field("region_importance", _FLOATS),
        pa.field("region_attention", pa.list_(_FLOATS)),
    ]
)
_SPREAD: Final = pa.field("probability_spread", _FLOATS)
_EMBEDDING: Final = pa.field("image_embedding", _FLOATS)
_SCHEMAS: Final = (SCHEMA, SCHEMA.append(_SPREAD), SCHEMA.append(_EMBEDDING))
_REPEATED: Final = [
    *("bundle", "status", "error", "reason"),
    *("remarks.list.element", "warnings.list.element", "findings.list.element"),
]
_SETTINGS, _HINTS, _VERSION, _SCHEMA = b"lrclr.settings", b"lrclr.hints", b"lrclr.version", b"lrclr.schema"


@dataclass(frozen=True)
class Part:
    """Rows of a part.

    Attributes:
        table: table with the columns of `schema_of` its settings, sorted by file and frame.
        hints: `Hint` of each row's file, int64 ``[N, 2]``.
        settings: digest of the settings of the rows.
    """

    table: pa.Table
    hints: np.ndarray[Any, np.dtype[np.int64]]
    settings: str

    def items(self) -> list[Item]:
        """The item of each row."""
        return [Item(*each) for each in zip(*(self.table[name].to_pylist() for name in ("file", "frame")), strict=True)]


def part_path(folder: Path, number: int) -> Path:
    """The file of a part."""
    return folder / f"part-{number:06d}.parquet"


def schema_of(settings: Settings) -> pa.Schema:
    """The columns of the rows: those of `SCHEMA`, of an ensemble the spread, and the embedding if it is asked for."""
    more = [(settings.spread, _SPREAD), (settings.embeddings, _EMBEDDING)]
    return pa.schema([*SCHEMA, *(field for wanted, field in more if wanted)])


def rows_of(outcomes: Sequence[Outcome], findings: Sequence[str], settings: Settings) -> pa.Table:
    """Rows of outcomes with scores or failures, in their order."""
    decoded = [outcome.decoded for outcome in outcomes]
    scores = [outcome.scores for outcome in outcomes]
    failures = [outcome.failure for outcome in outcomes]
    shapes = [None if score is None else one.shape for one, score in zip(decoded, scores, strict=True)]
    columns: dict[str, list[Any]] = {
        "file": [one.item.name for one in decoded],
        "frame": [one.item.frame for one in decoded],
        "bytes": [one.size for one in decoded],
        "sha256": [one.sha256 for one in decoded],
        "bundle": [settings.bundle] * len(decoded),
        "exact": [settings.exact] * len(decoded),
        "status": [SCORED if failure is None else FAILED for failure in failures],
        "error": [failure and failure.error for failure in failures],
        "reason": [failure and failure.reason for failure in failures],
        "final": [failure is None or failure.final for failure in failures],
        "height": [shape and shape[0] for shape in shapes],
        "width": [shape and shape[1] for shape in shapes],
        "remarks": [None if score is None else list(one.remarks) for one, score in zip(decoded, scores, strict=True)],
        "warnings": [None if score is None else list(one.warnings) for one, score in zip(decoded, scores, strict=True)],
        "findings": [None if score is None else list(findings) for score in scores],
        "region_attention": [None if score is None else list(score.region_attention) for score in scores],
    }
    schema = schema_of(settings)
    for name in (*Answers.names(), _SPREAD.name, _EMBEDDING.name):
        columns.setdefault(name, [score and getattr(score, name) for score in scores])
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


def write_part(path: Path, part: Part) -> None:
    """Write a part, whole or not at all; the same part gives the same bytes.

    Raises:
        LrclrError: the disk is full or broken; an existing file is unchanged.
    """
    items = part.items()
    order = sorted(range(len(items)), key=lambda row: item_order(items[row]))
    metadata = {
        _SCHEMA: str(SCHEMA_VERSION).encode(),
        _SETTINGS: part.settings.encode(),
        _HINTS: part.hints[order].astype("<i8").tobytes().hex().encode(),
        _VERSION: __version__.encode(),
    }
    table = part.table.take(pa.array(order, pa.int64())).combine_chunks().replace_schema_metadata(metadata)
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=_REPEATED,
        write_page_checksum=True,
        row_group_size=max(1, len(table)),
    )
    write_whole(path, buffer.getvalue())


def read_part(path: Path) -> Part | None:
    """An existing part; None if the file is missing or damaged, so that it has to be written again.

    Raises:
        LrclrError: the system cannot read the file, whose rows may be valid.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        fix = "The file was not changed. Make it readable, and run again."
        raise LrclrError(f"{path} cannot be read", why=os_reason(error), fix=fix) from error
    try:
        # PyArrow raises OSError for a damaged page, too. Here no file is read any more.
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            table = file.read()
    except MemoryError:
        raise
    except (pa.ArrowException, OSError):
        return None
    metadata = table.schema.metadata or {}
    try:
        if metadata[_SCHEMA] != str(SCHEMA_VERSION).encode():
            # Not damaged: another version of lrclr wrote it. The digest of no settings is empty.
            return Part(SCHEMA.empty_table(), np.zeros((0, len(Hint._fields)), np.int64), "")
        hints = np.frombuffer(bytes.fromhex(metadata[_HINTS].decode()), "<i8").reshape(len(table), len(Hint._fields))
        if table.schema.remove_metadata() not in _SCHEMAS:
            return None
        return Part(table, hints.astype(np.int64), metadata[_SETTINGS].decode())
    except (KeyError, ValueError):
        return None


def joined(parts: Sequence[Part]) -> Part:
    """The rows of several parts, with the settings of the first."""
    tables = [part.table.replace_schema_metadata(None) for part in parts]
    return Part(pa.concat_tables(tables), np.concatenate([part.hints for part in parts]), parts[0].settings)


def selected(part: Part, rows: Sequence[int]) -> Part:
    """Some rows of a part."""
    return Part(part.table.take(pa.array(rows, pa.int64())), part.hints[list(rows)], part.settings)


def part_of(outcomes: Sequence[Outcome], findings: Sequence[str], settings: Settings) -> Part:
    """A part of new outcomes."""
    hints = np.array([outcome.decoded.hint for outcome in outcomes], np.int64).reshape(len(outcomes), 2)
    return Part(rows_of(outcomes, findings, settings), hints, settings.digest)
