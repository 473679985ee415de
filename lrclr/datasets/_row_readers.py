"""Readers that make a :class:`~lrclr.datasets.Row` of each row of CSV or line of JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from lrclr.datasets._cells import (
    BadPatientError,
    BadRowError,
    boxes_of,
    contradiction,
    frame_of,
    label_of,
    mask_of,
    parse_json,
    patient_of,
)
from lrclr.datasets._columns import (
    DECLARED,
    FINDING_MASK,
    KNOWN_FINDINGS,
    RESERVED,
    is_known,
    nearest,
    similar_column,
    unknown_name,
)
from lrclr.datasets._rows import PRESENT, Box, Row, UnknownName
from lrclr.errors import UsageError
from lrclr.text import finding_key

MASK_BITS: Final = 8
_JSON_KEYS: Final = frozenset({"image", "report", "split", "patient", "frame", "labels", "masks", "boxes", "findings"})
_IMAGE_NAMES: Final = frozenset({"image", "images", "file", "files", "filename", "path", "image path", "file name"})

_Value = TypeVar("_Value")
_Masks = dict[str, tuple[Path, int | None]]


class RowReader(Protocol):
    """Reads the rows of one dataset and collects the names of its findings."""

    @property
    def names(self) -> FindingNames:
        """Names of the findings in the rows that were read so far."""

    def rows(self) -> Iterator[tuple[int, Row | BadRowError]]:
        """Every row with its line, or the reason why it cannot be used."""


class FindingNames:
    """The findings of a dataset. Each has the spelling in which it occurs first.

    Args:
        known: findings that need no declaration, beside those of public data sets.
    """

    def __init__(self, known: Collection[str] = ()) -> None:
        self._known = known
        self._spelling: dict[str, str] = {}
        self._resolved: dict[str, str] = {}
        self._declared: set[str] = set()
        self._unknown: dict[str, UnknownName] = {}
        self._columns: set[str] = set()
        self.listed = False

    @property
    def spellings(self) -> tuple[str, ...]:
        """The findings in the order in which they occur first."""
        return tuple(self._spelling.values())

    @property
    def unknown(self) -> tuple[UnknownName, ...]:
        """Findings that are neither known nor declared with ``label:``."""
        return tuple(each for key, each in self._unknown.items() if key not in self._declared)

    def spelling(self, name: str, line: int, column: str | None = None) -> str:
        """The spelling of a finding in this dataset.

        Raises:
            BadRowError: the name is empty.
        """
        found = self._resolved.get(name)
        if found is None:
            bare = name.removeprefix(DECLARED).strip()
            key = finding_key(bare)
            if not bare:
                raise BadRowError("a finding has no name")
            if column is not None:
                self._columns.add(key)
            if name.startswith(DECLARED):
                self._declared.add(key)
            elif not is_known(bare, self._known):
                self._unknown.setdefault(key, UnknownName(bare, line, column))
            found = self._resolved[name] = self._spelling.setdefault(key, bare)
        return found

    def quoted(self, name: str, kind: str) -> str:
        """A finding for an error; without its name if that may be patient data, from a key of JSON or a cell."""
        known = finding_key(name) in self._columns or is_known(name.strip(), self._known)
        return f"{kind} {name!r}" if known else f"a {kind}"

    def respelt(self, values: Mapping[str, _Value], what: str, line: int) -> dict[str, _Value]:
        """A mapping by finding with this dataset's spellings.

        Raises:
            BadRowError: two names are one finding.
        """
        result = {self.spelling(name.strip(), line): value for name, value in values.items()}
        if len(result) != len(values):
            raise BadRowError(f"{what} names a finding twice")
        return result


class CsvRows:
    """Rows of a CSV dataset.

    Args:
        path: the file.
        folder: the folder that images are relative to.
        numbered: the lines and cells of the file, header first.
        findings: names of findings beside those of public data sets.

    Raises:
        UsageError: the header is not that of a dataset; or, from `rows`, an unknown column holds something other than
            labels.
    """

    def __init__(
        self, path: Path, folder: Path, numbered: Iterator[tuple[int, list[str]]], findings: Collection[str] = ()
    ) -> None:
        self._path, self._folder, self._numbered = path, folder, numbered
        self.names = FindingNames(findings)
        line, header = next(numbered, (0, None))
        if header is None:
            raise UsageError(f"{path} is empty", fix="A dataset begins with a line of column names.")
        columns = [name.strip() for name in header]
        # Excel keeps empty columns at the end, and empty rows.
        while columns and not columns[-1]:
            columns.pop()
        _check_header(path, columns)
        self._width, self._blank = len(columns), len(header) - len(columns)
        self._at = {name: position for position, name in enumerate(columns) if name in RESERVED}
        self._labels: list[tuple[int, str]] = []
        self._masks: list[tuple[int, str]] = []
        for position, column in enumerate(columns):
            if column not in RESERVED:
                is_mask = column.startswith(FINDING_MASK)
                finding = self.names.spelling(column.removeprefix(FINDING_MASK).strip(), line, column)
                (self._masks if is_mask else self._labels).append((position, finding))
        self._unknown = {each.finding: each for each in self.names.unknown}
        self._check_findings(columns)

    def rows(self) -> Iterator[tuple[int, Row | BadRowError]]:
        for line, cells in self._numbered:
            if not any(cell.strip() for cell in cells):
                continue
            try:
                yield line, self._row(line, cells)
            except BadRowError as error:
                # Not of a patient that cannot be used, who may be in two splits.
                if self._fits(cells) and "split" in self._at and not isinstance(error, BadPatientError):
                    error.split = cells[self._at["split"]].strip()
                yield line, error

    def _check_findings(self, columns: Sequence[str]) -> None:
        for group in (self._labels, self._masks):
            seen: dict[str, int] = {}
            for position, finding in group:
                first = seen.setdefault(finding, position)
                if first != position:
                    raise UsageError(
                        f"{self._path} has two columns of one finding, {columns[first]!r} and {columns[position]!r}",
                        fix="Remove one.",
                    )
        for unknown in self._unknown.values():
            meant = None if str(unknown.column).startswith(FINDING_MASK) else similar_column(unknown.finding)
            if meant is not None:
                why = "it is not a known finding, and its name is similar to that of another column"
                raise unknown_name(self._path, unknown, meant, why)
        if "mask" in self._at and len(self._labels) > MASK_BITS:
            raise UsageError(
                f"{self._path} has a column 'mask' and {len(self._labels)} columns of findings",
                why=f"a pixel of such a mask has {MASK_BITS} bits, one for each finding",
                fix=f"Use columns {FINDING_MASK}FINDING instead.",
            )

    def _fits(self, cells: Sequence[str]) -> bool:
        blank = cells[self._width :]
        return len(cells) >= self._width and len(blank) <= self._blank and not any(cell.strip() for cell in blank)

    def _row(self, line: int, cells: Sequence[str]) -> Row:
        if not self._fits(cells):
            raise BadRowError(f"{len(cells)} cells instead of {self._width}")

        def cell(name: str) -> str:
            position = self._at.get(name)
            return "" if position is None else cells[position]

        labels: dict[str, int] = {}
        for position, name in self._labels:
            try:
                label = label_of(cells[position].strip())
            except BadRowError as error:
                if name in self._unknown:
                    # Not a column of labels: leaving out its rows would hide that.
                    why = f"line {line} has a value other than 1, 0, -1 or nothing there"
                    meant = nearest(name, KNOWN_FINDINGS)
                    raise unknown_name(self._path, self._unknown[name], meant, why) from None
                raise BadRowError(f"column {name!r} {error}") from None
            if label is not None:
                labels[name] = label
        masks: _Masks = {}
        if mask := cell("mask").strip():
            masks = {name: (self._folder / mask, bit) for bit, (_, name) in enumerate(self._labels)}
        for position, name in self._masks:
            if mask := cells[position].strip():
                file, bit_number = mask_of(mask)
                masks[name] = (self._folder / file, bit_number)
        return _row(
            self.names, self._folder, line, cell("image"), cell("report"), labels,
            split=cell("split"), patient=cell("patient"), frame=frame_of(cell("frame")),
            listed=[name for name in cell("findings").split(";") if name.strip()], masks=masks,
            boxes=boxes_of(cell("boxes")),
        )  # fmt: skip


class JsonRows:
    """Rows of a JSON-lines dataset.

    Args:
        path: the file.
        folder: the folder that images are relative to.
        lines: the lines of the file.
        findings: names of findings beside those of public data sets.

    Raises:
        UsageError: from `rows`, a line has an unknown key: it may be a misspelt one.
    """

    def __init__(self, path: Path, folder: Path, lines: Iterator[str], findings: Collection[str] = ()) -> None:
        self._path, self._folder, self._lines = path, folder, lines
        self.names = FindingNames(findings)

    def rows(self) -> Iterator[tuple[int, Row | BadRowError]]:
        for line, text in enumerate(self._lines, start=1):
            if text.isspace():
                continue
            record = None
            try:
                record = parse_json(text)
                yield line, self._row(line, record)
            except BadRowError as error:
                split = record.get("split", "") if isinstance(record, dict) else None
                if isinstance(split, str) and not isinstance(error, BadPatientError):
                    error.split = split.strip()
                yield line, error

    def _row(self, line: int, record: object) -> Row:
        if not isinstance(record, dict):
            raise BadRowError("not a JSON object")
        for key in sorted(record.keys() - _JSON_KEYS):
            meant = nearest(key, _JSON_KEYS)
            raise UsageError(
                f"{self._path} line {line} has an unknown key{f' (did you mean {meant!r}?)' if meant else ''}",
                why=f"the keys are {', '.join(sorted(_JSON_KEYS))}",
                fix="Rename it, or take it out; findings belong in 'labels'.",
            )
        labels: dict[str, int | None] = {}
        for name, value in _table(record, "labels").items():
            try:
                labels[name] = label_of(value.strip() if isinstance(value, str) else value)
            except BadRowError as error:
                raise BadRowError(f"{self.names.quoted(name, 'label')} {error}") from None
        listed = record.get("findings") or []
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise BadRowError("findings is not a list of names")
        return _row(
            self.names, self._folder, line, _text(record, "image"), _text(record, "report"), labels,
            split=_text(record, "split"), patient=_text(record, "patient"), frame=frame_of(record.get("frame")),
            listed=listed, masks={name: self._mask(value) for name, value in _table(record, "masks").items()},
            boxes=boxes_of(_table(record, "boxes")),
        )  # fmt: skip

    def _mask(self, value: object) -> tuple[Path, int | None]:
        if not isinstance(value, str) or not value.strip():
            raise BadRowError("a mask is not the name of a file")
        file, bit = mask_of(value.strip())
        return self._folder / file, bit


def _row(  # noqa: PLR0913
    names: FindingNames,
    folder: Path,
    line: int,
    image: str,
    report: str,
    labels: Mapping[str, int | None],
    *,
    split: str,
    patient: str,
    frame: int | None,
    listed: Sequence[str],
    masks: _Masks,
    boxes: Mapping[str, tuple[Box, ...]],
) -> Row:
    """A row from parsed cells; its findings get the dataset's spelling."""
    if not image.strip():
        raise BadRowError("image is empty")
    pseudonym = patient_of(patient.strip())
    stated = {name: label for name, label in names.respelt(labels, "labels", line).items() if label is not None}
    for name in (names.spelling(each.strip(), line) for each in listed):
        names.listed = True
        if stated.setdefault(name, PRESENT) != PRESENT:
            raise BadRowError(f"findings and {names.quoted(name, 'label')} contradict each other")
    masks, located = names.respelt(masks, "masks", line), names.respelt(boxes, "boxes", line)
    if denied := contradiction(stated, located):
        raise BadRowError(f"boxes and {names.quoted(denied, 'label')} contradict each other")
    text = report if report and not report.isspace() else None
    return Row(line, folder / image.strip(), text, stated, split.strip(), pseudonym, frame, masks, located)


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
    if not isinstance(value, dict):
        raise BadRowError(f"{key} is not a JSON object of findings")
    return value


def _check_header(path: Path, columns: Sequence[str]) -> None:
    if "image" not in columns:
        raise UsageError(
            f"{path} has no column 'image'",
            why=_why_no_image(columns),
            fix="A dataset begins with a line of column names, separated by commas.",
        )
    for position, name in enumerate(columns, start=1):
        if not name.removeprefix(FINDING_MASK).strip().removeprefix(DECLARED):
            raise UsageError(
                f"{path}: column {position} has no name", fix="If pandas wrote it: to_csv(..., index=False)."
            )
    for name, times in Counter(columns).items():
        if times > 1:
            raise UsageError(f"{path} has two columns {name!r}", fix="Rename or remove one of them.")


def _why_no_image(columns: Sequence[str]) -> str:
    """Without quoting a name: if the file has no header, the first line is a patient's data."""
    separators = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
    used = next((word for sign, word in separators.items() if len(columns) == 1 and sign in columns[0]), None)
    if used is not None:
        return f"the file is separated by {used}, not by commas"
    similar = next((place for place, name in enumerate(columns, 1) if finding_key(name) in _IMAGE_NAMES), None)
    if similar is not None:
        return f"did you mean column {similar}? The name is compared exactly"
    return f"none of its {len(columns)} columns has that name"
