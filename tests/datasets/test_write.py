"""Rows that are written are read back unchanged, from CSV and from JSON lines."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrclr.datasets import Box, Row, read_dataset, write_dataset
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

FINDINGS = ("Edema", 'Pleural "Effusion", left', "Übelkeit\nx", "mass")

printable = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
words = st.text(printable, max_size=8).map(str.strip)
reports = st.none() | st.text(printable, max_size=30).filter(lambda text: bool(text.strip()))
sides = st.floats(-1e6, 1e6, width=32)
boxes = (
    st.tuples(sides, sides, sides, sides)
    .filter(lambda s: s[0] < s[2] and s[1] < s[3] and not 0 <= min(s) <= max(s) <= 1)
    .map(lambda s: Box(*s))
)
places = st.sampled_from(["/data/m.png", "m#bit.png", "a b/m,1.png", "m.png"])
masks = st.dictionaries(st.sampled_from(FINDINGS), st.tuples(places, st.none() | st.integers(0, 7)))


@st.composite
def tables(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    for number in range(draw(st.integers(1, 5))):
        located = {name: (Path("/set") / file, bit) for name, (file, bit) in draw(masks).items()}
        if draw(st.booleans()):
            located = {name: (Path("/set/shared.png"), bit) for bit, name in enumerate(FINDINGS)}
        located_boxes = draw(
            st.dictionaries(st.sampled_from(FINDINGS), st.lists(boxes, min_size=1, max_size=2).map(tuple))
        )
        labels = draw(st.dictionaries(st.sampled_from(FINDINGS), st.sampled_from([1, 0, -1])))
        rows.append(
            Row(
                line=0,
                image=Path("/set") / draw(st.sampled_from(["", "deep/er", "/else"])) / f"{number}, ä.png",
                report=draw(reports),
                labels={name: label or 1 if name in located_boxes else label for name, label in labels.items()},
                split=draw(words),
                frame=draw(st.none() | st.integers(0, 2**31 - 1)),
                masks=located,
                boxes=located_boxes,
            )
        )
    return rows


def without_line_numbers(rows: Sequence[Row]) -> list[Row]:
    return [dataclasses.replace(row, line=0) for row in rows]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", pytest.param(".ndjson", marks=pytest.mark.slow)])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(rows=tables())
def test_rows_are_read_back_unchanged(tmp_path_factory: pytest.TempPathFactory, suffix: str, rows: list[Row]) -> None:
    folder = tmp_path_factory.mktemp("set")
    moved = [
        dataclasses.replace(
            row,
            image=folder / row.image.relative_to("/set") if row.image.is_relative_to("/set") else row.image,
            masks={name: (folder / Path(file).name, bit) for name, (file, bit) in row.masks.items()},
        )
        for row in rows
    ]
    path = folder / f"m{suffix}"
    write_dataset(moved, FINDINGS, path)
    read = read_dataset(path, strict=True, check_images=False)
    assert without_line_numbers(read.rows) == moved
    assert read.findings == FINDINGS


def test_files_below_the_folder_have_relative_paths(tmp_path: Path) -> None:
    row = Row(1, tmp_path / "images/a.png", masks={"Edema": (Path("/else/m.png"), None)}, patient="p")
    write_dataset([row], ["Edema"], tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text() == "image,patient,Edema,mask:Edema\nimages/a.png,p,,/else/m.png\n"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.csv"]


def test_rows_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    good = Row(1, tmp_path / "a.png")
    path = tmp_path / "m.csv"
    refused: list[tuple[list[Row], list[str], str]] = [
        ([], [], "no rows"),
        ([good], ["Edema", "Edema"], "twice"),
        (
            [good, dataclasses.replace(good, line=2, split="test")],
            [],
            "have the image and frame of another",
        ),
        ([good], ["image"], "cannot be called"),
        ([good], ["mask:Edema"], "cannot be called"),
        ([good], [" "], "cannot be called"),
        ([dataclasses.replace(good, labels={"Edema": 1})], [], "'Edema', which is not among"),
        ([dataclasses.replace(good, masks={"Edema": (tmp_path / "m#bit1", None)})], ["Edema"], "#bit"),
        ([dataclasses.replace(good, masks={"Edema": (tmp_path / "m.png", 9)})], ["Edema"], "#bit"),
        (
            [dataclasses.replace(good, labels={"Edema": 0}, boxes={"Edema": (Box(0, 0, 9, 9),)})],
            ["Edema"],
            "contradict",
        ),
        ([good], ["Edema", "edema"], "twice"),
        ([dataclasses.replace(good, report="\ud800")], [], "not Unicode"),
        ([dataclasses.replace(good, report="a\0")], [], "NUL"),
    ]
    for rows, findings, reason in refused:
        with pytest.raises(UsageError, match=reason):
            write_dataset(rows, findings, path)
    with pytest.raises(UsageError, match="has an unknown format"):
        write_dataset([good], [], tmp_path / "m.xlsx")
    assert not list(tmp_path.iterdir())
    write_dataset([good], [], path)
    with pytest.raises(UsageError, match="exists already"):
        write_dataset([good], [], path)
    write_dataset([dataclasses.replace(good, report="new")], [], path, overwrite=True)
    assert "new" in path.read_text()
    with pytest.raises(LrclrError, match="could not be written"):
        write_dataset([good], [], path / "below.csv")
