"""Malicious zip archives. Checkpoints, golden inputs and scores use the same check."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# Private: a helper that several packages share, without a public name.
from lrclr._zip import ArchiveError, checked_entries
from lrclr.bundle import Golden
from lrclr.checkpoints import load_checkpoint
from lrclr.errors import BundleError, CheckpointError, UsageError
from lrclr.evaluation import load_scores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MEBI = 1 << 20
HEADER, DIRECTORY, END = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s4H2LH")


def archive(contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytearray:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    return bytearray(stream.getvalue())


def directory(data: bytearray) -> tuple[int, list[int]]:
    """The position of the central directory, and each of its entries."""
    place, count = END.unpack_from(data, len(data) - END.size)[6], END.unpack_from(data, len(data) - END.size)[4]
    entries, start = [], place
    for _ in range(count):
        entries.append(place)
        *_, name, extra, comment, _, _, _, _ = DIRECTORY.unpack_from(data, place)
        place += DIRECTORY.size + name + extra + comment
    return start, entries


def overlapping(copies: int = 8) -> bytearray:
    """An archive whose entries share the same bytes: the inner headers lie within the data of the first entry."""
    heads, inner = b"", []
    for number in range(copies):
        name = f"a/data/{number}".encode()
        inner.append((len(heads), name))
        heads += HEADER.pack(b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0) + name
    body, table = bytearray(heads + bytes(MEBI)), b""
    for place, name in inner:
        content = bytes(body[place + HEADER.size + len(name) :])
        sizes = (0, len(content), len(content))
        HEADER.pack_into(body, place, b"PK\x03\x04", 20, 0, 0, 0, 33, *sizes, len(name), 0)
        table += DIRECTORY.pack(b"PK\x01\x02", 20, 20, 0, 0, 0, 33, *sizes, len(name), 0, 0, 0, 0, 0, place) + name
    return body + table + END.pack(b"PK\x05\x06", 0, 0, copies, copies, len(table), len(body), 0)


def set_directory(data: bytearray, number: int, field: int, value: object) -> bytearray:
    """Change one field of an entry in the central directory."""
    place = directory(data)[1][number]
    fields = list(DIRECTORY.unpack_from(data, place))
    fields[field] = value
    DIRECTORY.pack_into(data, place, *fields)
    return data


def set_header(data: bytearray, place: int, field: int, value: object) -> bytearray:
    fields = list(HEADER.unpack_from(data, place))
    fields[field] = value
    HEADER.pack_into(data, place, *fields)
    return data


TWO = {"one": b"1" * 100, "two": b"2" * 100}


def twice_the_same() -> bytearray:
    data = archive(TWO)
    return set_directory(data, 1, 16, 0)


def renamed_in_the_directory() -> bytearray:
    data = archive(TWO)
    place = directory(data)[1][1] + DIRECTORY.size
    data[place : place + 3] = b"owt"
    return data


def same_name() -> bytearray:
    data = archive(TWO)
    second = 100 + HEADER.size + 3
    for place in (second + HEADER.size, directory(data)[1][1] + DIRECTORY.size):
        data[place : place + 3] = b"one"
    return data


def both_sizes(value: int) -> bytearray:
    """The first entry states another size in both places."""
    data = archive(TWO)
    for field in (7, 8):
        set_header(data, 0, field, value)
    for field in (8, 9):
        set_directory(data, 0, field, value)
    return data


FORGERIES: dict[str, tuple[Callable[[], bytearray], str]] = {
    "entries within each other": (overlapping, "overlap"),
    "one entry listed twice": (twice_the_same, "disagree"),
    "an entry that runs into the next": (lambda: both_sizes(180), "overlap"),
    "an entry larger than the file": (lambda: both_sizes(1 << 30), "overlap"),
    "another name in the directory": (renamed_in_the_directory, "disagree"),
    "two entries of one name": (same_name, "same name"),
    "another method in the directory": (lambda: set_directory(archive(TWO), 0, 4, 8), "disagree"),
    "another checksum in the directory": (lambda: set_directory(archive(TWO), 0, 7, 1), "disagree"),
    "another size in the header": (lambda: set_header(archive(TWO), 0, 7, 99), "disagree"),
    "encrypted": (lambda: set_header(set_directory(archive(TWO), 0, 3, 1), 0, 2, 1), "encrypted"),
    "bytes behind the directory": (lambda: archive(TWO) + b"more", "follow"),
    "cut": (lambda: archive(TWO)[:-1], "truncated"),
    "empty": (bytearray, "damaged"),
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_forged_archives_are_refused(kind: str) -> None:
    make, words = FORGERIES[kind]
    with pytest.raises(ArchiveError, match=words):
        checked_entries(io.BytesIO(bytes(make())))


def test_an_entry_that_overlaps_the_directory_is_refused() -> None:
    data = archive({"one": b"1" * 100})
    for field in (7, 8):
        set_header(data, 0, field, 120)
    for field in (8, 9):
        set_directory(data, 0, field, 120)
    with pytest.raises(ArchiveError, match="larger than the file"):
        checked_entries(io.BytesIO(bytes(data)))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_valid_archives_are_accepted(compression: int) -> None:
    data = bytes(archive({**TWO, "empty": b"", "ünï/cödé": b"x"}, compression))
    assert [e.file_size for e in checked_entries(io.BytesIO(data)).values()] == [100, 100, 0, 1]
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3), b=np.ones((2, 2)))  # with ZIP64 fields in every header
    assert list(checked_entries(stream)) == ["a.npy", "b.npy"]


def test_an_archive_that_unpacks_to_too_much_is_refused() -> None:
    data = bytes(archive({"zeros": bytes(3 * MEBI)}, zipfile.ZIP_DEFLATED))
    checked_entries(io.BytesIO(data), most_bytes=3 * MEBI)
    with pytest.raises(ArchiveError, match="more than 2 MiB"):
        checked_entries(io.BytesIO(data), most_bytes=2 * MEBI)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_accepted_entries_lie_within_the_file(data: st.DataObject) -> None:
    spoilt = archive({f"a/data/{number}": bytes([number]) * (50 * number) for number in range(4)})
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(spoilt) - 1))
        spoilt[where] = data.draw(st.integers(0, 255))
    try:
        entries = checked_entries(io.BytesIO(bytes(spoilt)))
    except ArchiveError:
        return
    assert sum(entry.compress_size for entry in entries.values()) <= len(spoilt)
    with zipfile.ZipFile(io.BytesIO(bytes(spoilt))) as file:
        for entry in entries.values():
            if entry.compress_type == zipfile.ZIP_STORED:
                try:
                    assert len(file.read(entry)) == entry.file_size
                except zipfile.BadZipFile:  # a byte of the content
                    continue


def test_every_reader_of_archives_uses_the_check(tmp_path: Path) -> None:
    (tmp_path / "forged.npz").write_bytes(overlapping())
    with pytest.raises(CheckpointError, match="overlap"):
        load_checkpoint(tmp_path / "forged.npz")
    with pytest.raises(BundleError, match="damaged"):
        Golden.load(tmp_path / "forged.npz")
    with pytest.raises(UsageError, match="not a file of scores"):
        load_scores(tmp_path / "forged.npz")
