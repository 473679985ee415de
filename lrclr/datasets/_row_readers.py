"""One row's cells, or one line of JSON, as a :class:`~lrclr.datasets.Row`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from lrclr.datasets._cells import BadRowError, boxes_of, boxes_of_cell, frame_of, label_of, mask_of, parse_json
from lrclr.datasets._columns import DECLARED, KNOWN_FINDINGS, RESERVED, is_known, nearest, unknown_column
from lrclr.datasets._rows import PRESENT, Box, Row
from lrclr.errors import UsageError
from lrclr.text import finding_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

__all__ = ["FINDING_MASK", "MASK_BITS", "CsvRows", "JsonRows", "RowReader"]

FINDING_MASK: Final = "mask:"
MASK_BITS: Final = 8
_JSON_KEYS: Final = frozenset({"image", "report", "split", "patient", "frame", "labels", "masks", "boxes", "findings"})

_Masks = dict[str, tuple[Path, int | None]]


class RowReader(Protocol):
    """Makes rows of one dataset, and knows the findings that it has seen."""

    @property
    def findings(self) -> tuple[str, ...]:
        """Label columns in order, then what only masks, boxes or lists of findings name."""

    @property
    def unknown(self) -> tuple[str, ...]:
        """Label columns whose names are neither declared nor known."""

    def rows(self) -> Iterator[tuple[int, Row | BadRowError]]:
        """Every row with its line, or why it is none."""


class CsvRows:
    """Rows of a CSV dataset.

    Args:
        path: the file.
        folder: that images are relative to.
        numbered: its rows with their lines.
        findings: names of findings beside those of public data sets.

    Raises:
        UsageError: the header is not that of a dataset; or, from `rows`, a column that is not known holds anything but
            labels.
    """

    def __init__(
        self, path: Path, folder: Path, numbered: Iterator[tuple[int, list[str]]], findings: Collection[str] = ()
    ) -> None:
        self._path, self._folder, self._numbered = path, folder, numbered
        header = next(numbered, None)
        if header is None:
            raise UsageError(f"{path} is empty", fix="A dataset begins with a line of column names.")
        names = [name.strip() for name in header[1]]
        _check_header(path, names)
        self._width = len(names)
        self._at = {name: position for position, name in enumerate(names) if name in RESERVED}
        self._finding_masks = [
            (position, name.removeprefix(FINDING_MASK).strip())
            for position, name in enumerate(names)
            if name.startswith(FINDING_MASK)
        ]
        columns = [
            (position, name)
            for position, name in enumerate(names)
            if name not in RESERVED and not name.startswith(FINDING_MASK)
        ]
        self._labels = [(position, name.removeprefix(DECLARED).strip()) for position, name in columns]
        labels = [name for _, name in self._labels]
        self.unknown = tuple(
            name for _, name in columns if not name.startswith(DECLARED) and not is_known(name, findings)
        )
        _check_labels(path, labels, self.unknown)
        if "mask" in self._at and len(labels) > MASK_BITS:
            raise UsageError(
                f"{path} has a column 'mask' and {len(labels)} columns of findings",
                why=f"a mask's pixels have {MASK_BITS} bits, one a finding",
                fix=f"Use columns {FINDING_MASK}FINDING instead.",
            )
        self._bits = list(enumerate(labels))
        self._seen = dict.fromkeys([*labels, *(name for _, name in self._finding_masks)])

    @property
    def findings(self) -> tuple[str, ...]:
        return tuple(self._seen)

    def rows(self) -> Iterator[tuple[int, Row | BadRowError]]:
        for line, cells in self._numbered:
            try:
                yield line, self._row(line, cells)
            except BadRowError as error:
                yield line, error

    def _row(self, line: int, cells: Sequence[str]) -> Row:
        if len(cells) != self._width:
            raise BadRowError(f"{len(cells)} cells instead of {self._width}")

        def cell(name: str) -> str:
            position = self._at.get(name)
            return "" if position is None else cells[position]

        labels: dict[str, int] = {}
        for position, name in self._labels:
            try:
                label = label_of(cells[position].strip())
            except BadRowError as error:
                if name in self.unknown:
                    # Whatever the column is, it is no finding: leaving out these rows would be a guess.
                    why = f"line {line} holds something else there than 1, 0, -1 or nothing"
                    raise unknown_column(self._path, name, nearest(name, KNOWN_FINDINGS), why) from None
                raise BadRowError(f"column {name!r} {error}") from None
            if label is not None:
                labels[name] = label
        listed = [name.strip() for name in cell("findings").split(";") if name.strip()]
        boxes = boxes_of_cell(cell("boxes")) if "boxes" in self._at else {}
        masks: _Masks = {}
        if mask := cell("mask").strip():
            path = self._folder / mask
            masks = {name: (path, bit) for bit, name in self._bits}
        for position, name in self._finding_masks:
            if mask := cells[position].strip():
                file, bit_number = mask_of(mask)
                masks[name] = (self._folder / file, bit_number)
        _add_listed(labels, listed)
        if listed or boxes:
            self._seen.update(dict.fromkeys([*listed, *boxes]))
        return _made(
            line, self._folder, cell("image").strip(), cell("report"), labels,
            split=cell("split").strip(), patient=cell("patient").strip(), frame=frame_of(cell("frame")),
            masks=masks, boxes=boxes,
        )  # fmt: skip


class JsonRows:
    """Rows of a JSON-lines dataset.

    Raises:
        UsageError: from `rows`, a key that is not known; it could be a mistyped one that matters.
    """

    unknown: tuple[str, ...] = ()  # what `labels` names is declared

    def __init__(self, path: Path, folder: Path, lines: Iterator[str]) -> None:
        self._path, self._folder, self._lines = path, folder, lines
        self._seen: dict[str, None] = {}

    @property
    def findings(self) -> tuple[str, ...]:
        return tuple(self._seen)

    def rows(self) -> Iterator[tuple[int, Row | BadRowError]]:
        for line, text in enumerate(self._lines, start=1):
            if text.isspace():
                continue
            try:
                yield line, self._row(line, parse_json(text))
            except BadRowError as error:
                yield line, error

    def _row(self, line: int, record: object) -> Row:
        if not isinstance(record, dict):
            raise BadRowError("not a JSON object")
        for key in sorted(record.keys() - _JSON_KEYS):
            meant = nearest(key, _JSON_KEYS)
            raise UsageError(
                f"{self._path} line {line} has an unknown key{f': did you mean {meant!r}?' if meant else ''}",
                why=f"the keys are {', '.join(sorted(_JSON_KEYS))}",
                fix="Rename it, or take it out; findings stand in 'labels'.",
            )
        labels: dict[str, int] = {}
        stated = _table(record, "labels")
        for name, value in stated.items():
            try:
                label = label_of(value.strip() if isinstance(value, str) else value)
            except BadRowError as error:
                raise BadRowError(f"label {name!r} {error}") from None
            if label is not None:
                labels[name] = label
        listed = record.get("findings") or []
        if not isinstance(listed, list) or not all(isinstance(name, str) and name.strip() for name in listed):
            raise BadRowError("findings is not a list of names")
        listed = [name.strip() for name in listed]
        _add_listed(labels, listed)
        masks = {name: self._mask(value) for name, value in _table(record, "masks").items()}
        boxes = boxes_of(record.get("boxes"))
        row = _made(
            line, self._folder, _text(record, "image").strip(), _text(record, "report"), labels,
            split=_text(record, "split").strip(), patient=_text(record, "patient").strip(),
            frame=frame_of(record.get("frame")), masks=masks, boxes=boxes,
        )  # fmt: skip
        self._seen.update(dict.fromkeys([*stated, *listed, *masks, *boxes]))
        return row

    def _mask(self, value: object) -> tuple[Path, int | None]:
        if not isinstance(value, str) or not value.strip():
            raise BadRowError("a mask is not the name of a file")
        file, bit = mask_of(value.strip())
        return self._folder / file, bit


def _made(  # noqa: PLR0913
    line: int,
    folder: Path,
    image: str,
    report: str,
    labels: Mapping[str, int],
    *,
    split: str,
    patient: str,
    frame: int | None,
    masks: _Masks,
    boxes: Mapping[str, tuple[Box, ...]],
) -> Row:
    if not image:
        raise BadRowError("image is empty")
    text = report if report and not report.isspace() else None
    return Row(line, folder / image, text, labels, split, patient, frame, masks, boxes)


def _add_listed(labels: dict[str, int], listed: Sequence[str]) -> None:
    for name in listed:
        if labels.setdefault(name, PRESENT) != PRESENT:
            raise BadRowError(f"findings and label {name!r} contradict each other")


def _text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    if key == "patient" and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRowError(f"{key} is not a text")
    if "\0" in value:
        raise BadRowError("holds a NUL character")
    return value


def _table(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(name.strip() for name in value):
        raise BadRowError(f"{key} is not a JSON object of findings")
    table = {name.strip(): each for name, each in value.items()}
    if len(table) != len(value):
        raise BadRowError(f"{key} names a finding twice")
    return table


def _check_labels(path: Path, labels: Sequence[str], unknown: Collection[str]) -> None:
    seen: dict[str, str] = {}
    for name in labels:
        key = finding_key(name)
        if key in seen:
            raise UsageError(f"{path} has two columns of one finding, {seen[key]!r} and {name!r}", fix="Remove one.")
        seen[key] = name
    for name in unknown:
        meant = nearest(name, RESERVED)
        if meant is not None:
            raise unknown_column(path, name, meant, "it is no known finding, and its name is close to another column's")


def _check_header(path: Path, names: Sequence[str]) -> None:
    if "image" not in names:
        # Without a header the names would be a patient's data, so they are not shown.
        raise UsageError(
            f"{path} has no column 'image'",
            why=f"none of its {len(names)} columns is called so",
            fix="A dataset begins with a line of column names, separated by commas.",
        )
    for position, name in enumerate(names, start=1):
        if not name or name in (FINDING_MASK, DECLARED):
            raise UsageError(
                f"{path}: column {position} has no name", fix="If pandas wrote it: to_csv(..., index=False)."
            )
    for name, times in Counter(names).items():
        if times > 1:
            raise UsageError(f"{path} has two columns {name!r}", fix="Rename or remove one of them.")
