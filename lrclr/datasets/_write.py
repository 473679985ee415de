"""`write_dataset`: rows to a file from which `read_dataset` reads the same rows."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from lrclr.datasets._cells import contradiction, mask_of
from lrclr.datasets._columns import DECLARED, FINDING_MASK, RESERVED, is_known
from lrclr.datasets._dataset import JSON_SUFFIXES, check_format
from lrclr.datasets._row_readers import MASK_BITS
from lrclr.errors import LrclrError, UsageError
from lrclr.text import finding_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lrclr.datasets._rows import Row


def write_dataset(
    rows: Sequence[Row], findings: Sequence[str], path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a dataset, whole or not at all. Files below its folder are named relative to it.

    Args:
        rows: the rows; their `line` is not kept.
        findings: names of the label columns, in order.
        path: a file name that ends in ``.csv``, ``.jsonl`` or ``.ndjson``.
        overwrite: whether an existing file may be replaced.

    Raises:
        UsageError: the file exists, its suffix is unknown, two rows have the same image, or the format cannot express a
            row or a finding.
        LrclrError: the file cannot be written.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would replace what a link points to
    check_format(path)
    if not rows:
        raise UsageError(f"there are no rows to write to {path}")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already", fix="Choose another name, or add --overwrite.")
    repeated = len(rows) - len({(os.path.normpath(row.image), row.frame) for row in rows})
    if repeated:
        raise UsageError(
            f"{repeated} of {len(rows)} rows have the image and frame of another row",
            fix="Name each table once, and only one table for each split.",
        )
    as_json = path.suffix.lower() in JSON_SUFFIXES
    _check_names(rows, findings, as_json=as_json)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("x", encoding="utf-8", newline="") as file:
            (_write_json if as_json else _write_csv)(file, rows, findings, path.parent)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except UnicodeEncodeError as error:
        # The text of the error quotes the report. A file name of bytes that are not UTF-8 ends here too.
        raise UsageError(f"{path} cannot be written", why="a name or a text is not Unicode") from error
    except OSError as error:
        raise LrclrError(f"{path} could not be written", why=error.strerror) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _write_csv(file: TextIO, rows: Sequence[Row], findings: Sequence[str], folder: Path) -> None:
    shared = _share_masks(rows, findings)
    masked = [] if shared else list(dict.fromkeys(name for row in rows for name in row.masks))
    optional = ("report", "split", "patient", "frame")
    used = [name for name in optional if any(getattr(row, name) not in (None, "") for row in rows)]
    columns = {name: _declared(name) for name in findings}
    names = ["image", *used, *columns.values()]
    names += ["mask"] if shared else [f"{FINDING_MASK}{name}" for name in masked]
    names += ["boxes"] if any(row.boxes for row in rows) else []
    # csv quotes a cell with either line end only if rows end in both.
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    for row in rows:
        cells = _texts(row, folder) | {columns[name]: label for name, label in row.labels.items()}
        cells["boxes"] = json.dumps(_boxes(row), ensure_ascii=False) if row.boxes else ""
        if shared and row.masks:
            cells["mask"] = _name(next(iter(row.masks.values()))[0], folder)
        cells |= {f"{FINDING_MASK}{name}": _mask_name(*row.masks[name], folder) for name in masked if name in row.masks}
        writer.writerow(cells)


def _write_json(file: TextIO, rows: Sequence[Row], findings: Sequence[str], folder: Path) -> None:
    for position, row in enumerate(rows):
        # The first row states every finding: this keeps their order, and those without a label.
        labels: dict[str, int | None] = {**dict.fromkeys(findings), **row.labels} if position == 0 else dict(row.labels)
        record = _texts(row, folder) | {
            "labels": {_declared(name): label for name, label in labels.items()},
            "masks": {name: _mask_name(*mask, folder) for name, mask in row.masks.items()},
            "boxes": _boxes(row),
        }
        kept = {key: value for key, value in record.items() if value not in (None, "", {})}
        file.write(json.dumps(kept, ensure_ascii=False) + "\n")


def _texts(row: Row, folder: Path) -> dict[str, Any]:
    return {
        "image": _name(row.image, folder),
        **{name: getattr(row, name) for name in ("report", "split", "patient", "frame")},
    }


def _declared(name: str) -> str:
    return name if is_known(name) else f"{DECLARED}{name}"


def _share_masks(rows: Iterable[Row], findings: Sequence[str]) -> bool:
    """Whether the masks fit the column ``mask``: one file a row, with bit k for the k-th finding."""
    masked = [row for row in rows if row.masks]
    return (
        bool(masked)
        and len(findings) <= MASK_BITS
        and all(
            len({file for file, _ in row.masks.values()}) == 1
            and {name: bit for name, (_, bit) in row.masks.items()} == {name: k for k, name in enumerate(findings)}
            for row in masked
        )
    )


def _boxes(row: Row) -> dict[str, list[list[float]]]:
    return {name: [[b.left, b.top, b.right, b.bottom] for b in boxes] for name, boxes in row.boxes.items() if boxes}


def _name(file: Path, folder: Path) -> str:
    absolute = Path(os.path.abspath(file))  # noqa: PTH100 - resolve() would replace what a link points to
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


def _mask_name(file: Path, bit: int | None, folder: Path) -> str:
    name = _name(file, folder)
    written = name if bit is None else f"{name}#bit{bit}"
    if mask_of(written) != (name, bit):
        raise UsageError("a mask cannot be written", why="its name ends in #bit and a digit, or its bit is not 0 to 7")
    return written


def _named(rows: Iterable[Row]) -> Iterator[str]:
    for row in rows:
        yield from row.labels
        yield from row.masks
        yield from row.boxes


def _check_names(rows: Sequence[Row], findings: Sequence[str], *, as_json: bool) -> None:
    for name in findings:
        reserved = name.startswith(DECLARED) or (not as_json and (name in RESERVED or name.startswith(FINDING_MASK)))
        if not name.strip() or name != name.strip() or "\0" in name or reserved:
            raise UsageError(f"a finding cannot be called {name!r} in a dataset")
    if len({finding_key(name) for name in findings}) != len(findings):
        raise UsageError("a finding is twice in the list of findings")
    unknown = set(_named(rows)) - set(findings)
    if unknown:
        raise UsageError(f"a row names {min(unknown)!r}, which is not among the findings")
    for row in rows:
        if denied := contradiction(row.labels, row.boxes):
            raise UsageError("a row cannot be written", why=f"boxes and label {denied!r} contradict each other")
        edges = (str(row.image), row.split, row.patient)
        if any(text != text.strip() or "\0" in text for text in edges) or "\0" in (row.report or ""):
            raise UsageError("a row cannot be written", why="a name begins or ends with a space, or a NUL is in it")
