"""The DICOM image that a result refers to: what of its header goes into the result, with invalid values left out."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Self

from lrclr.errors import ImageError, LrclrError, MissingExtraError, UsageError
from lrclr.images._dicom import looks_like_dicom
from lrclr.images._guard import attempt

MANUFACTURER: Final = "lrclr"
_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
# PS3.3: attributes of type 2 in the modules Patient and General Study. A result has them, if need be empty.
_TYPE_2: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_IF_PRESENT: Final = (
    *("StudyDescription", "IssuerOfPatientID", "BodyPartExamined"),
    *("PatientIdentityRemoved", "DeidentificationMethod", "LongitudinalTemporalInformationModified"),
)
# Copied as they are: what a presentation state takes over from its image.
_DISPLAY: Final = (
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PatientOrientation"),
)
_OTHERS: Final = (
    *("SpecificCharacterSet", "DeidentificationMethodCodeSequence", "Modality", "Manufacturer"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "InstanceNumber"),
)
_READ: Final = (*_UIDS, *_TYPE_2, *_IF_PRESENT, *_DISPLAY, *_OTHERS)
# SOP classes whose images may hold several frames: secondary capture, angiography, tomosynthesis, CT, MR, ultrasound.
_OF_FRAMES: Final = re.compile(
    r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(7\.[1-4]|12\.[12](\.1)?|13\.1\.[1-5]|2\.1|3\.1|4\.1|20)"
)
_TIME: Final = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


class ResultRefusedError(LrclrError):
    """No DICOM result can be made for an image. Its prediction is not affected."""


class NotDicomError(ResultRefusedError, UsageError):
    """The image is not a DICOM file, so that there is no study for a result to belong to."""


@dataclass(frozen=True)
class DicomSource:
    """The image that a result refers to.

    Attributes:
        dataset: a `pydicom.Dataset` in UTF-8 with patient, study and display attributes; without pixel data. Absent or
            invalid attributes of type 2 are there and empty.
        frame: number of the frame that was predicted, from 1, if the SOP class is one of images with several frames.
        remarks: what was left out: names of attributes, never their values.
    """

    dataset: Any
    frame: int | None = None
    remarks: tuple[str, ...] = ()

    @classmethod
    def read(cls, data: bytes, *, frame: int | None = None) -> Self:
        """Read the header of a DICOM file that `lrclr.images` has read already, and so found within its limits.

        Args:
            data: the file.
            frame: which frame was predicted, from 0; None if the file holds one.

        Raises:
            NotDicomError: it is another format.
            ResultRefusedError: the header lacks what a result must refer to, or cannot be read.
            MissingExtraError: highdicom is not installed.
        """
        _require_highdicom()
        if not looks_like_dicom(data):
            raise NotDicomError(
                "there is no DICOM result for this image",
                why="it is not a DICOM file, and a result must belong to a patient and a study",
                fix="Give the DICOM file.",
            )
        try:
            return attempt(lambda: cls._of(_header(data), frame), failure="its attributes cannot be read")
        except ImageError as error:
            raise _refusal(error.what) from None

    @classmethod
    def _of(cls, header: Any, frame: int | None) -> Self:
        for keyword in _UIDS:
            # A component with a leading zero is not valid, and is copied: a result must have the study's own UID.
            if not re.fullmatch(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*", _text(header, keyword) or ""):
                raise _refusal(f"{keyword} is missing or not a UID, and a result must refer to it")
        if not _is_code(_text(header, "Modality") or ""):
            raise _refusal("Modality is missing or not valid")
        dataset, remarks = _cleaned(header)
        frames = _number(header, "NumberOfFrames") or 1
        if _OF_FRAMES.fullmatch(str(dataset.SOPClassUID)):
            dataset.NumberOfFrames = frames
            return cls(dataset, (frame or 0) + 1, remarks)
        if frames > 1:
            raise _refusal(f"it holds {frames} frames, but its SOP class is one of single images")
        return cls(dataset, None, remarks)

    @property
    def uid(self) -> str:
        """SOP instance UID."""
        return str(self.dataset.SOPInstanceUID)

    @property
    def study(self) -> str:
        """Study instance UID."""
        return str(self.dataset.StudyInstanceUID)

    @property
    def is_own_result(self) -> bool:
        """Whether lrclr wrote the image itself: a heat map that a PACS gives back."""
        return bool(self.dataset.get("Manufacturer") == MANUFACTURER)


def _require_highdicom() -> None:
    try:
        import highdicom  # noqa: F401
    except ImportError:
        raise MissingExtraError("highdicom", "dicom-results", "writing DICOM results") from None


def _refusal(why: str) -> ResultRefusedError:
    return ResultRefusedError("there is no DICOM result for this image", why=why)


def _header(data: bytes) -> Any:
    from pydicom import dcmread

    header = dcmread(BytesIO(data), force=True, stop_before_pixels=True, specific_tags=list(_READ))
    # Elements are parsed when they are first looked at; a damaged one must not be met later.
    for keyword in _READ:
        _text(header, keyword)
    return header


def _cleaned(header: Any) -> tuple[Any, tuple[str, ...]]:
    """A data set of what results take over, and remarks about what they do not."""
    from pydicom.dataset import Dataset

    clean, remarks = Dataset(), []
    clean.SpecificCharacterSet = "ISO_IR 192"
    for keyword in (*_UIDS, "Modality"):
        setattr(clean, keyword, _text(header, keyword))
    for keyword in (*_TYPE_2, *_IF_PRESENT):
        value = _text(header, keyword)
        valid = value is not None and (not value or _CHECKS.get(keyword, _is_text)(value))
        if not valid and keyword in header:
            wrong = "does not fit the character set of the file" if "\ufffd" in (value or "") else "is not valid"
            remarks.append(f"{keyword} {wrong} and is left {'empty' if keyword in _TYPE_2 else 'out'}")
        if valid or keyword in _TYPE_2:
            setattr(clean, keyword, value if valid else "")
    for keyword in _DISPLAY:
        if keyword in header:
            clean[keyword] = header[keyword]
    if "DeidentificationMethodCodeSequence" in header:
        clean["DeidentificationMethodCodeSequence"] = header["DeidentificationMethodCodeSequence"]
    for keyword in ("Rows", "Columns", "SamplesPerPixel"):
        clean_number = _number(header, keyword)
        if clean_number is not None:
            setattr(clean, keyword, clean_number)
    clean.InstanceNumber = _number(header, "InstanceNumber") or 1
    clean.Manufacturer = _text(header, "Manufacturer") or ""
    return clean, tuple(remarks)


def _text(header: Any, keyword: str) -> str | None:
    """An attribute as text; None where it is absent or cannot be decoded."""
    try:
        value = header.get(keyword)
        if value is None:
            return "" if keyword in header else None
        if isinstance(value, bytes):
            # Of another VR, such as UN, which pydicom gives to a text of more than 64 KiB.
            return None
        # Several values, as no attribute here may have, are one text with backslashes.
        return "\\".join(str(each) for each in value) if isinstance(value, list) else str(value)
    except Exception:  # noqa: BLE001 - on a damaged element pydicom raises nearly anything
        return None


def _number(header: Any, keyword: str) -> int | None:
    text = _text(header, keyword)
    return int(text) if text and re.fullmatch(r"\d{1,9}", text) else None


def _is_text(value: str) -> bool:
    # pydicom puts U+FFFD in the place of bytes that have no meaning in the character set. Such a name or identifier
    # would be that of another patient.
    return "\ufffd" not in value and all(each.isprintable() for each in value)


def _is_code(value: str) -> bool:
    return re.fullmatch(r"[A-Z0-9 _]{1,16}", value) is not None


def _is_date(value: str) -> bool:
    if not re.fullmatch(r"\d{8}", value):
        return False
    try:
        dt.date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return False
    return True


def _is_time(value: str) -> bool:
    if not _TIME.fullmatch(value):
        return False
    hours, minutes, seconds = int(value[:2]), int(value[2:4] or 0), int(value[4:6] or 0)
    # 60 is a leap second (PS3.5, section 6.2).
    return hours < 24 and minutes < 60 and seconds <= 60


_CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "PatientBirthDate": _is_date,
    "StudyDate": _is_date,
    "StudyTime": _is_time,
    "PatientSex": lambda value: value in {"M", "F", "O"},
    "PatientIdentityRemoved": lambda value: value in {"YES", "NO"},
    "LongitudinalTemporalInformationModified": lambda value: value in {"UNMODIFIED", "MODIFIED", "REMOVED"},
    "BodyPartExamined": _is_code,
}
