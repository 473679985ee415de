"""Writes a rendered radiograph as DICOM, with synthetic identifiers, reproducibly."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Storage", "dataset_of", "shown"]

BITS = 12
WHITE = 2**BITS - 1
PATIENT_NAME, PATIENT_ID = "LRCLR^Synthetic", "SYNTHETIC"
STUDY_DATE = "20000101"  # made up, like all that names a study here
DESCRIPTION = "Synthetic radiograph, research only"

# CID 4010, DX View.
_VIEWS = {"PA": ("272479007", "SCT", "postero-anterior"), "AP": ("399348003", "SCT", "antero-posterior")}
_SOP_CLASSES = {
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",  # Digital X-Ray Image Storage - For Presentation
    "OT": "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture Image Storage
}


@dataclass(frozen=True, slots=True)
class Storage:
    """How pixels are stored and shown.

    Attributes:
        modality: "DX" for a digital radiograph, "OT" for a secondary capture.
        transfer_syntax: UID of the encoding of the pixels.
        window: stored values (of MONOCHROME2) that are shown as black and white; None for the whole range.
        inverted: MONOCHROME1, in which the greatest stored value is black.
        slope, intercept: modality rescale, which a secondary capture may have and a digital radiograph may not.
    """

    modality: Literal["DX", "OT"] = "DX"
    transfer_syntax: str = ExplicitVRLittleEndian
    window: tuple[int, int] | None = (0, WHITE)
    inverted: bool = False
    slope: float = 1.0
    intercept: float = 0.0

    def __post_init__(self) -> None:
        if self.modality == "DX" and (self.slope, self.intercept) != (1.0, 0.0):
            raise ValueError("a digital radiograph for presentation must not have a rescale")
        if self.inverted and (self.slope != 1.0 or self.window not in {None, (0, WHITE)}):
            raise ValueError("an inverted picture must use the full range")


def shown(stored: NDArray[np.uint16], window: tuple[int, int] | None) -> NDArray[np.uint8]:
    """The 8-bit picture that a viewer shows of 12-bit values (0 is black) with the window."""
    low, high = window or (0, WHITE)
    scaled = np.clip((stored.astype(np.float64) - low) / (high - low), 0, 1)
    return np.asarray(np.rint(scaled * 255), np.uint8)


def dataset_of(
    stored: NDArray[np.uint16], storage: Storage, *, name: str, projection: Literal["AP", "PA"], pixel_mm: float
) -> Dataset:
    """The complete DICOM file of a picture.

    Args:
        stored: 12-bit values, 0 is black, ``[rows, columns]``.
        storage: how they are stored.
        name: name of the sample, from which the UIDs are derived.
        projection: the view position.
        pixel_mm: distance between pixels in the middle of the body.
    """
    rows, columns = stored.shape
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = UID(_SOP_CLASSES[storage.modality])
    ds.file_meta.MediaStorageSOPInstanceUID = _uid(name, "instance")
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID = _uid("implementation")
    ds.file_meta.ImplementationVersionName = "LRCLR_PHANTOM"
    content: dict[str, Any] = {
        "SOPClassUID": ds.file_meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": ds.file_meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": _uid(name, "study"),
        "SeriesInstanceUID": _uid(name, "series"),
        "ImageType": ["DERIVED", "PRIMARY", ""] if storage.modality == "DX" else ["DERIVED", "SECONDARY"],
        "Modality": storage.modality,
        "PatientName": PATIENT_NAME,
        "PatientID": PATIENT_ID,
        "StudyDate": STUDY_DATE,
        "StudyTime": "000000",
        "StudyID": "1",
        **dict.fromkeys(("PatientBirthDate", "PatientSex"), ""),
        **dict.fromkeys(("ReferringPhysicianName", "AccessionNumber", "Manufacturer"), ""),
        "StudyDescription": DESCRIPTION,
        "SeriesDescription": f"{DESCRIPTION}: {name}",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "PatientOrientation": ["L", "F"],
        "BodyPartExamined": "CHEST",
        "BurnedInAnnotation": "NO",
        "LossyImageCompression": "00",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME1" if storage.inverted else "MONOCHROME2",
        "Rows": rows,
        "Columns": columns,
        "BitsAllocated": 16,
        "BitsStored": BITS,
        "HighBit": BITS - 1,
        "PixelRepresentation": 0,
        "RescaleSlope": storage.slope,
        "RescaleIntercept": storage.intercept,
        "RescaleType": "US",
    }
    if storage.modality == "DX":
        content |= {
            "ViewPosition": projection,
            "ViewCodeSequence": [_view(projection)],
            "PositionerType": "",
            "PresentationIntentType": "FOR PRESENTATION",
            "PresentationLUTShape": "INVERSE" if storage.inverted else "IDENTITY",
            "PixelIntensityRelationship": "LOG",
            "PixelIntensityRelationshipSign": 1 if storage.inverted else -1,
            "ImageLaterality": "U",
            "ImagerPixelSpacing": [pixel_mm, pixel_mm],
            "DetectorType": "",
            "AcquisitionContextSequence": [],
            "AnatomicRegionSequence": [_code("51185008", "SCT", "Chest")],
        }
    else:
        content["ConversionType"] = "SYN"
    if storage.window is not None or storage.modality == "DX":
        # A digital radiograph for presentation must have a window or a VOI LUT (PS3.3 C.8.11.5).
        # The LINEAR function of PS3.3 C.11.2.1.2.1 reaches black at c - 0.5 - (w - 1) / 2 and white (w - 1) above.
        low, high = (storage.slope * value + storage.intercept for value in storage.window or (0, WHITE))
        content |= {"WindowCenter": (low + high) / 2 + 0.5, "WindowWidth": high - low + 1, "VOILUTFunction": "LINEAR"}
    for keyword, value in content.items():
        setattr(ds, keyword, value)
    pixels = (WHITE - stored if storage.inverted else stored).astype("<u2")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    if storage.transfer_syntax != ExplicitVRLittleEndian:
        ds.compress(storage.transfer_syntax, generate_instance_uid=False)
    return ds


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _view(projection: Literal["AP", "PA"]) -> Dataset:
    item = _code(*_VIEWS[projection])
    item.ViewModifierCodeSequence = []
    return item


def _uid(*parts: str) -> UID:
    """A UID derived from the parts, in the range for UUIDs of DICOM PS3.5 B.2."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, '/'.join(('lrclr', 'samples', *parts))).int}")
