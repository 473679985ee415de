"""The heat map as a Secondary Capture image, JPEG 2000 lossless."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr._version import __version__
from lrclr.dicom_results._report import MODEL_NAME
from lrclr.dicom_results._source import MANUFACTURER
from lrclr.inference import draw_heatmap

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from lrclr.dicom_results._source import DicomSource
    from lrclr.inference import Prediction

TITLE: Final = "RESEARCH USE ONLY - lrclr, findings and selected regions"


def build_heatmap(
    source: DicomSource,
    prediction: Prediction,
    picture: NDArray[np.uint8],
    *,
    bundle_sha256: str,
    uids: dict[str, str],
    series_number: int,
) -> Any:
    """The secondary capture as a `pydicom.Dataset`.

    Args:
        source: the image.
        prediction: the answer for it.
        picture: uint8 ``[H, W]`` or ``[H, W, 3]``, the image in full.
        bundle_sha256: hash of the bundle's manifest.
        uids: UIDs of the ``series`` and the ``instance``.
        series_number: number of the series.
    """
    from highdicom.sc import SCImage
    from pydicom.dataset import Dataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    image = source.dataset
    drawn = draw_heatmap(picture, prediction, title=TITLE).convert("RGB")
    capture = SCImage.from_ref_dataset(
        image,
        np.asarray(drawn),
        "RGB",
        8,
        "PATIENT",
        series_instance_uid=uids["series"],
        series_number=series_number,
        sop_instance_uid=uids["instance"],
        instance_number=image.InstanceNumber,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "F"),
    )
    capture.file_meta.TransferSyntaxUID = JPEG2000Lossless
    capture.PhotometricInterpretation = "YBR_RCT"
    capture.PixelData = encapsulate([_jpeg_2000(drawn)])
    capture["PixelData"].is_undefined_length = True
    # The picture holds several panels and text: it has no orientation of its own.
    capture.PatientOrientation = None
    capture.Modality, capture.ConversionType = "OT", "WSD"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    capture.BurnedInAnnotation = "YES"
    capture.BodyPartExamined = image.get("BodyPartExamined") or "CHEST"
    capture.SeriesDescription = "lrclr heat map, RESEARCH USE ONLY"
    capture.DerivationDescription = f"lrclr {__version__}, bundle {bundle_sha256[:16]}, research use only"
    capture.ManufacturerModelName, capture.SoftwareVersions = MODEL_NAME, __version__
    capture.DeviceSerialNumber = bundle_sha256[:16]
    reference, purpose = Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    if source.frame is not None:
        reference.ReferencedFrameNumber = source.frame
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    reference.PurposeOfReferenceCodeSequence = [purpose]
    capture.SourceImageSequence = [reference]
    return capture


def _jpeg_2000(picture: Image.Image) -> bytes:
    """A lossless codestream, by Pillow.

    The encoder of pylibjpeg-openjpeg, which highdicom takes, ends the process when two threads use it at once
    (pylibjpeg-openjpeg 2.6.0).
    """
    stream = BytesIO()
    picture.save(stream, "JPEG2000", no_jp2=True, irreversible=False, mct=1)
    return stream.getvalue()
