"""The region boxes as a Grayscale Softcopy Presentation State, which a viewer draws over the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrclr._version import __version__
from lrclr.dicom_results._codes import plain_meaning
from lrclr.dicom_results._regions import patch_regions
from lrclr.dicom_results._report import MODEL_NAME
from lrclr.dicom_results._source import MANUFACTURER, ResultRefusedError
from lrclr.dicom_results._uids import hashed_uid

if TYPE_CHECKING:
    from lrclr.dicom_results._source import DicomSource
    from lrclr.inference import Prediction

_LISTED = 20


def build_presentation(
    source: DicomSource, prediction: Prediction, *, bundle_sha256: str, uids: dict[str, str], series_number: int
) -> Any:
    """The presentation state as a `pydicom.Dataset`; arguments as of `build_report`.

    Raises:
        ResultRefusedError: the image is in colour.
    """
    from highdicom import PresentationLUTTransformation, pr
    from highdicom.color import CIELabColor

    image = source.dataset
    if image.get("SamplesPerPixel", 1) != 1 or not str(image.get("PhotometricInterpretation", "")).startswith("MONO"):
        raise ResultRefusedError(
            "there is no presentation state for this image", why="it is in colour, and the state is for grey images"
        )
    boxes, texts = [], []
    for number, region in enumerate(patch_regions(prediction), 1):
        boxes.append(
            pr.GraphicObject(
                pr.GraphicTypeValues.POLYLINE,
                region.outline,
                units=pr.AnnotationUnitsValues.PIXEL,
                tracking_id=f"region {number}",
                tracking_uid=hashed_uid(uids["instance"], "region", str(region.patch)),
            )
        )
        texts.append(
            pr.TextObject(
                f"{number}: {region.importance:.3f}",
                units=pr.AnnotationUnitsValues.PIXEL,
                anchor_point=tuple(region.outline[0]),
                anchor_point_visible=False,
            )
        )
    texts.append(
        pr.TextObject(
            _listing(prediction), units=pr.AnnotationUnitsValues.DISPLAY, bounding_box=(0.01, 0.01, 0.45, 0.35)
        )
    )
    layer = pr.GraphicLayer(
        "LRCLR", order=1, description="lrclr regions, research use only", display_color=CIELabColor(80, -40, 60)
    )
    annotation = pr.GraphicAnnotation(
        referenced_images=[image],
        graphic_layer=layer,
        referenced_frame_number=source.frame,
        graphic_objects=boxes or None,
        text_objects=texts,
    )
    # A state replaces what the image says of its grey levels. With IDENTITY, 0 is black, and a MONOCHROME1 image, in
    # which 0 is white, would be shown inverted (PS3.3, section C.11.6).
    shape = "INVERSE" if image.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"
    state = pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        presentation_lut_transformation=PresentationLUTTransformation(shape),
        series_instance_uid=uids["series"],
        series_number=series_number,
        sop_instance_uid=uids["instance"],
        instance_number=image.InstanceNumber,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MODEL_NAME,
        software_versions=__version__,
        device_serial_number=bundle_sha256[:16],
        content_label="LRCLR_REGIONS",
        content_description="lrclr regions, RESEARCH USE ONLY",
        graphic_layers=[layer],
        graphic_annotations=[annotation],
        content_creator_name="lrclr^",
    )
    state.SeriesDescription = "lrclr regions, RESEARCH USE ONLY"
    state.BodyPartExamined = image.get("BodyPartExamined") or "CHEST"
    return state


def _listing(prediction: Prediction) -> str:
    ranked = sorted(prediction.findings, key=lambda finding: -finding.probability)[:_LISTED]
    lines = []
    for finding in ranked:
        spread = "" if finding.probability_spread is None else f" ± {finding.probability_spread:.2f}"
        lines.append(f"{plain_meaning(finding.name)} {finding.probability:.2f}{spread}")
    return "\r\n".join([f"RESEARCH USE ONLY - lrclr {__version__}", *lines])
