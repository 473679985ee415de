"""Which files of a folder are images. The content decides, each file counts once, and skipped files are counted."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, UID_dictionary

from lrclr.errors import LrclrError, UsageError
from lrclr.images import describe_passed_over, find_images, read_image

# Private: the rule for the first bytes of one file.
from lrclr.images._kind import HEAD_BYTES, IMAGE, PASSED_OVER, kind_of
from lrclr.samples import SAMPLES
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable

DICOM = SAMPLES[0].path("dicom").read_bytes()
XRAY, REPORT = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.88.11"


def dicom(sop_class: str, *, implicit: bool = False, preamble: bool = True, meta: bool = True) -> bytes:
    """A DICOM object of a SOP class, without pixels."""
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    content = Dataset()
    content.SpecificCharacterSet = "ISO_IR 100"
    content.SOPClassUID = sop_class
    content.SOPInstanceUID = "1.2.3"
    content.PatientName = "Doe^Jane"
    path = os.devnull
    header = FileMetaDataset()
    header.TransferSyntaxUID = syntax
    if meta:
        header.MediaStorageSOPClassUID = UID(sop_class)
        header.MediaStorageSOPInstanceUID = UID("1.2.3")
    target = io.BytesIO()
    file = FileDataset(path, content, file_meta=header, preamble=bytes(128))
    file.save_as(target, enforce_file_format=meta, implicit_vr=implicit, little_endian=True)
    data = target.getvalue()
    if preamble:
        return data
    start = data.index(struct.pack("<HH", 8, 5))
    return data[start:]


def found_names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_images([folder]).files]


def write_file(folder: Path, content: dict[str, bytes]) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def png(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return bundles.radiograph(tmp_path_factory.mktemp("png") / "a.png").read_bytes()


def test_a_dicom_file_is_an_image_under_any_name(tmp_path: Path) -> None:
    names = ("1.2.840.113619.2.55.3", "IM000001", "x.IMA", "x.DCM", "x.dcm.bak", "scan 1", "PA.v1.0", "x.dat", "é.img")
    write_file(tmp_path, dict.fromkeys(names, DICOM))
    assert sorted(found_names(tmp_path)) == sorted(names)
    # Without preamble and file meta information, as some archives store it.
    whole = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
    without = tmp_path / "bare" / "1.2.3"
    without.parent.mkdir()
    without.write_bytes(whole[whole.index(struct.pack("<HH", 8, 5)) :])
    assert read_image(without).size > 0
    assert found_names(without.parent) == ["1.2.3"]


@pytest.mark.parametrize("suffix", ["", ".1", ".bak", ".img", ".PNG"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_a_raster_file_is_an_image_under_any_name(kind: str, suffix: str, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 7).save(tmp_path / f"a{suffix}", kind)
    assert found_names(tmp_path) == [f"a{suffix}"]


def test_other_files_of_a_dicom_cd_are_passed_over(tmp_path: Path, png: bytes) -> None:
    dicomdir = Path(str(get_testdata_file("DICOMDIR"))).read_bytes()
    others = {
        "DICOMDIR": dicomdir,
        "README": b"This CD holds images.\n",
        "VERSION": b"1.0",
        "LOCKFILE": b"\x01\x02",
        "autorun.inf": b"[autorun]\r\n",
        "viewer/viewer.exe": b"MZ\x90\x00" + bytes(60),
        "viewer/lib.dll": b"MZ" + bytes(70),
        "viewer/index.html": b"<!DOCTYPE html>",
        "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        ".DS_Store": b"\x00\x00\x00\x01Bud1",
        "IMAGES/._IM1.png": b"\x00\x05\x16\x07\x00\x02\x00\x00",
        "reports/SR1": dicom(REPORT),
        "reports/PR1.dcm": dicom("1.2.840.10008.5.1.4.1.1.11.1"),
        "reports/KO1": dicom("1.2.840.10008.5.1.4.1.1.88.59", implicit=True),
        "reports/RTSTRUCT": dicom("1.2.840.10008.5.1.4.1.1.481.3"),
        "reports/PDF.dcm": dicom("1.2.840.10008.5.1.4.1.1.104.1"),
        "more.zip": b"PK\x03\x04" + bytes(26),
        "old.tar": bytes(257) + b"ustar\x0000" + bytes(247),
        "empty": b"",
        "photo.bmp": b"BM\x36\x00\x00\x00" + bytes(4) + b"\x36\x00",
        "volume.nii": bytes(344) + b"n+1\x00",
        "a.png.heatmap.png": png,
    }
    images = {"IMAGES/1.2.3": DICOM, "IMAGES/IM2": DICOM, "key.png": png}
    write_file(tmp_path, {**others, **images})
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    scan = find_images([tmp_path])
    assert sorted(str(path.relative_to(tmp_path)) for path in scan.files) == sorted(images)
    assert scan.passed_over == {
        "dicom_without_image": 6,
        "unread_format": 2,
        "archive": 2,
        "empty": 1,
        "hidden": 2,
        "heatmap": 1,
        "special": 2,
        "other": 8,
    }
    summary = describe_passed_over(scan.passed_over)
    assert "6 × DICOM objects without an image" in summary
    assert "8 × other files" in summary


def test_a_file_with_an_image_suffix_is_always_an_image(tmp_path: Path) -> None:
    """A cut or overwritten image must be reported as a failure and not disappear."""
    damaged = {f"a{suffix}": b"no picture" for suffix in (".png", ".JPG", ".jpeg", ".tif", ".dcm", ".dicom", ".ima")}
    write_file(tmp_path, {**damaged, "empty.dcm": b"", "really.a.zip.dcm": b"PK\x03\x04"})
    (tmp_path / "gone.dcm").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round.png").symlink_to(tmp_path / "round.png")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    scan = find_images([tmp_path])
    assert {path.name for path in scan.files} == {*damaged, "empty.dcm", "really.a.zip.dcm", "gone.dcm", "round.png"}
    assert scan.passed_over == {"broken_link": 1}


def test_every_storage_class_without_pixels_is_listed() -> None:
    """Compared with pydicom's dictionary, which is generated from PS3.6."""
    with_pixels = {  # these have no "Image" in their names
        "Enhanced US Volume Storage", "Parametric Map Storage", "Segmentation Storage", "RT Dose Storage",
        "Ophthalmic Optical Coherence Tomography B-scan Volume Analysis Storage", "Ophthalmic Thickness Map Storage",
        "Corneal Topography Map Storage", "DICOS 2D AIT Storage", "DICOS 3D AIT Storage",
        "DICOS Quadrupole Resonance (QR) Storage", "Label Map Segmentation Storage", "Height Map Segmentation Storage",
    }  # fmt: skip
    checked = 0
    for uid, (name, kind, *_) in UID_dictionary.items():
        if kind != "SOP Class" or "Storage" not in name or "Storage Commitment" in name:
            continue
        checked += 1
        expected = IMAGE if "Image" in name or name in with_pixels else "dicom_without_image"
        assert kind_of(dicom(uid)[:HEAD_BYTES]) == expected, name
    assert checked > 150


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("form", ["whole", "no preamble", "no class in the meta information"])
@pytest.mark.parametrize(("sop_class", "expected"), [(XRAY, IMAGE), (REPORT, "dicom_without_image"), ("1.9.9", IMAGE)])
def test_the_class_is_found_in_every_form_of_a_file(sop_class: str, expected: str, form: str, implicit: bool) -> None:
    data = dicom(sop_class, implicit=implicit, preamble=form != "no preamble", meta=form == "whole")
    assert kind_of(data[:HEAD_BYTES]) == expected


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), cut=st.integers(0, 600), place=st.integers(0, 400), byte=st.integers(0, 255))
def test_no_content_makes_a_scan_fail(data: bytes, cut: int, place: int, byte: int) -> None:
    assert kind_of(data) in {IMAGE, *PASSED_OVER}
    spoilt = bytearray(DICOM[:HEAD_BYTES])
    spoilt[place] = byte
    assert kind_of(bytes(spoilt[:cut]) + data) in {IMAGE, *PASSED_OVER}


def test_links_are_followed_and_each_file_counts_once(tmp_path: Path, png: bytes) -> None:
    outside = write_file(tmp_path / "outside", {"deep/c.png": png, "d.png": png})
    inside = write_file(tmp_path / "in", {"z/a.png": png, "b.png": png})
    (inside / "a link to z").symlink_to(inside / "z")
    (inside / "again.png").symlink_to(inside / "b.png")
    (inside / "loop").symlink_to(inside)
    (inside / "z" / "up").symlink_to("..")
    (inside / "out").symlink_to(outside)
    (inside / "out deep").symlink_to(outside / "deep")
    (inside / "one.png").symlink_to(outside / "d.png")
    scan = find_images([inside])
    # A file below the folder keeps its own name. Of several links to a file, the first one counts.
    assert [str(path.relative_to(inside)) for path in scan.files] == ["b.png", "out/d.png", "out/deep/c.png", "z/a.png"]
    assert scan.passed_over == {"repeated": 6}
    # A folder that is itself a link is searched like any other.
    (tmp_path / "door").symlink_to(inside)
    assert len(find_images([tmp_path / "door"]).files) == 4


def test_links_into_a_content_store_are_images(tmp_path: Path, png: bytes) -> None:
    """Links as git-annex and DVC write them. A link whose target was not fetched is a failed image."""
    write_file(tmp_path, {".git/annex/objects/1": png, ".git/annex/objects/2": DICOM, "plain": b"text"})
    (tmp_path / "a.png").symlink_to(".git/annex/objects/1")
    (tmp_path / "1.2.3").symlink_to(".git/annex/objects/2")
    (tmp_path / "missing.dcm").symlink_to(".git/annex/objects/3")
    scan = find_images([tmp_path])
    assert [path.name for path in scan.files] == ["1.2.3", "a.png", "missing.dcm"]
    assert scan.passed_over == {"hidden": 1, "other": 1}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_each_file_of_any_tree_of_links_counts_once(seed: int, tmp_path: Path) -> None:
    """Compared with a walk that resolves every path."""
    root = tmp_path / str(seed)
    draw = random.Random(seed)
    folders = [root]
    for number in range(draw.randint(1, 6)):
        folders.append(draw.choice(folders) / f"f{number}")
        folders[-1].mkdir(parents=True)
    for number in range(draw.randint(1, 8)):
        (draw.choice(folders) / f"{draw.choice('abc')}{number}.png").write_bytes(b"x")
    for number in range(draw.randint(0, 8)):
        everything = [*folders, *root.rglob("*")]
        (draw.choice(folders) / f"l{number}{draw.choice(['', '.png'])}").symlink_to(draw.choice(everything))

    def reachable(folder: Path, seen: set[Path]) -> set[Path]:
        here = folder.resolve()
        if here in seen:
            return set()
        seen.add(here)
        files: set[Path] = set()
        for entry in here.iterdir():
            files |= reachable(entry, seen) if entry.is_dir() else {entry.resolve()}
        return files

    scan = find_images([root])
    assert sorted(path.resolve() for path in scan.files) == sorted(reachable(root, set()))
    own = {path for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    assert own <= set(scan.files)
    shutil.rmtree(root)


def test_given_files_keep_their_names(tmp_path: Path, png: bytes) -> None:
    write_file(
        tmp_path, {"notes.txt": b"x", ".hidden.png": png, "a.png.heatmap.png": png, "sub/b.png": png, "sub/c": png}
    )
    named = [tmp_path / name for name in ("notes.txt", ".hidden.png", "a.png.heatmap.png")]
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    named.append(tmp_path / "gone.png")
    assert find_images(named).files == named
    # A file that is given by name and is also in a given folder counts once.
    scan = find_images([tmp_path / "sub" / "c", tmp_path / "sub", tmp_path / "sub"])
    assert scan.files == [tmp_path / "sub" / "c", tmp_path / "sub" / "b.png"]
    assert scan.passed_over == {"repeated": 2}
    with pytest.raises(UsageError, match="does not exist"):
        find_images([tmp_path / "nowhere.png"])


def test_the_error_for_a_folder_without_images_counts_its_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"contains no image: the folder is empty"):
        find_images([tmp_path])
    write_file(tmp_path, {"archive.zip": b"PK\x03\x04", "notes": b"x"})
    with pytest.raises(UsageError, match=r"contains no image: passed over: 1 × archives .*; 1 × other files"):
        find_images([tmp_path])


@pytest.mark.parametrize("through_a_link", [False, True])
def test_an_unreadable_folder_is_an_error(
    through_a_link: bool, tmp_path: Path, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_file(tmp_path / "in", {"a.png": png})
    closed = (tmp_path if through_a_link else folder) / "closed"
    write_file(closed, {"b.png": png})
    if through_a_link:
        (folder / "link").symlink_to(closed)
    scandir: Callable[..., Any] = os.scandir

    def refuse(path: str) -> Any:
        if os.path.realpath(path) == str(closed):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    # The superuser may read everything, so the error of the system is simulated.
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(LrclrError, match=r"the folder .*(closed|link) cannot be read: Permission denied") as error:
        find_images([folder])
    assert error.value.exit_code == 1
