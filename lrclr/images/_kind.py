"""Finds out from the first bytes of a file whether lrclr can read it as an image."""

from __future__ import annotations

import struct
from typing import Final

from lrclr.images._dicom import looks_like_dicom
from lrclr.images._raster import SIGNATURES

HEAD_BYTES: Final = 4096
IMAGE: Final = "image"
# Entries that a scan of a folder skips: the key in results, and the text for users.
PASSED_OVER: Final = {
    "dicom_without_image": "DICOM objects without an image (reports, presentation states, DICOMDIR)",
    "unread_format": "images in formats that lrclr does not read (BMP, GIF, JPEG 2000, WebP, HEIF, NIfTI)",
    "archive": "archives (zip and the like are not opened)",
    "empty": "empty files",
    "hidden": "hidden files and folders",
    "heatmap": "heat maps that `lrclr predict` wrote",
    "broken_link": "broken links",
    "repeated": "files and folders reached again through a link",
    "special": "devices, pipes and sockets",
    "folder": "folders that match the pattern",
    "other": "other files",
}

_ARCHIVES: Final = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"Rar!", b"\xfd7zXZ\x00", b"BZh",
                    b"\x28\xb5\x2f\xfd")  # fmt: skip
_TAR: Final = (257, b"ustar")
_UNREAD: Final = (
    (0, b"GIF8"),
    (0, b"\x00\x00\x00\x0cjP  "),
    (0, b"\xff\x4f\xff\x51"),
    (0, b"\x00\x00\x00\x0cJXL "),
    (0, b"8BPS"),
    (0, b"NRRD"),
    (8, b"WEBP"),
    (4, b"ftyphei"),
    (4, b"ftypmif1"),
    (4, b"ftypavif"),
    (344, b"n+1\x00"),
    (344, b"ni1\x00"),
)

_SOP_CLASS_TAGS: Final = frozenset({(0x0002, 0x0002), (0x0008, 0x0016)})
_LAST_TAG: Final = (0x0008, 0x0016)
_UNDEFINED_LENGTH: Final = 0xFFFFFFFF
_LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
# Storage SOP classes without pixel data (DICOM PS3.6, Annex A). Every other class, such as a private one or one of a
# later edition, counts as an image: if it has no pixels, reading it gives an error.
_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_WITHOUT_IMAGE: Final = frozenset(
    {
        "1.2.840.10008.1.3.10",  # DICOMDIR
        "1.2.840.10008.5.1.1.27",
        *(f"1.2.840.10008.5.1.4.{number}" for number in ("34", "38", "39", "43", "44", "45")),
        # Spectroscopy; overlays, curves and waveforms, LUTs, presentation states.
        *(_STORAGE + part for part in ("4.2", "8", "9", "10", "11", "129")),
        # Registrations, fiducials, surfaces, tracts, value mappings; measurements of the eye.
        *(_STORAGE + part for part in ("66.1", "66.2", "66.3", "66.5", "66.6", "67", "68")),
        *(_STORAGE + part for part in ("77.1.5.3", "78", "79", "80")),
        # Structured reports and key objects, annotations, encapsulated PDF, protocols, inventories, threat reports.
        *(_STORAGE + part for part in ("88", "90", "91", "104", "131", "200", "201", "501.3")),
        # Radiotherapy, except RT Image, RT Dose and the two classes of Enhanced RT Image.
        *(f"{_STORAGE}481.{number}" for number in (*range(3, 23), 25)),
    }
)  # fmt: skip
_RAW_DATA: Final = _STORAGE + "66"  # alone: a segmentation, 66.4, has pixels


def kind_of(head: bytes) -> str:
    """Return the kind of a file.

    Args:
        head: the first `HEAD_BYTES` bytes of the file, or all of them.

    Returns:
        `IMAGE` for a PNG, JPEG, TIFF or DICOM file with an image, else a key of `PASSED_OVER`.
    """
    if not head:
        return "empty"
    if looks_like_dicom(head):
        return "dicom_without_image" if _has_no_image(_sop_class(head)) else IMAGE
    if head.startswith(tuple(SIGNATURES)):
        return IMAGE
    if head.startswith(_ARCHIVES) or head.startswith(_TAR[1], _TAR[0]):
        return "archive"
    if any(head.startswith(magic, offset) for offset, magic in _UNREAD) or (head[:2] == b"BM" and not any(head[6:10])):
        return "unread_format"
    return "other"


def _has_no_image(sop_class: str) -> bool:
    parts = sop_class.split(".")
    return sop_class == _RAW_DATA or any(
        ".".join(parts[:count]) in _WITHOUT_IMAGE for count in range(6, len(parts) + 1)
    )


def _sop_class(head: bytes) -> str:
    """Read the SOP class of a DICOM file from its file meta information or its data set; "" if `head` lacks it.

    pydicom would take twenty times as long, and is an optional dependency.
    """
    offset = 132 if head[128:132] == b"DICM" else 0
    order = ">" if head[offset : offset + 2] == b"\x00\x08" else "<"
    while offset + 12 <= len(head):
        tag = struct.unpack_from(f"{order}HH", head, offset)
        vr = head[offset + 4 : offset + 6]
        if not (vr.isalpha() and vr.isupper()):
            # In implicit VR, these bytes belong to the length. Two capital letters would be a length beyond `head`.
            length, value = struct.unpack_from(f"{order}I", head, offset + 4)[0], offset + 8
        elif vr in _LONG_VRS:
            length, value = struct.unpack_from(f"{order}I", head, offset + 8)[0], offset + 12
        else:
            length, value = struct.unpack_from(f"{order}H", head, offset + 6)[0], offset + 8
        if length == _UNDEFINED_LENGTH or tag > _LAST_TAG:
            return ""
        offset = value + length
        text = head[value:offset].strip(b"\x00 ").decode("ascii", errors="replace")
        if tag in _SOP_CLASS_TAGS and text:
            return text
    return ""
