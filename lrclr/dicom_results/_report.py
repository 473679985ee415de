"""A structured report: TID 1500 "Measurement Report" in Comprehensive SR.

The report has no Image Library (TID 1600): highdicom refuses to make one for images without PatientOrientation or
ImagerPixelSpacing, which are common in computed radiography. The image is referenced by every group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lrclr._version import __version__
from lrclr.dicom_results._codes import (
    IMPORTANCE,
    PROBABILITY,
    PROCEDURE,
    REGION,
    SCHEME,
    SPREAD,
    attention_code,
    finding_code,
)
from lrclr.dicom_results._regions import decimal, patch_regions
from lrclr.dicom_results._source import MANUFACTURER
from lrclr.dicom_results._uids import hashed_uid
from lrclr.input_checks import described

if TYPE_CHECKING:
    from lrclr.dicom_results._codes import FindingCode
    from lrclr.dicom_results._source import DicomSource
    from lrclr.inference import FindingResult, Prediction

MODEL_NAME: Final = "lrclr zero-shot"
NOTE: Final = (
    "RESEARCH USE ONLY. Not a medical device. Not for diagnosis. The zero-shot probability compares prompts for a "
    "finding with prompts against it. It was calibrated on other images, if at all, and is not the probability of "
    "disease."
)
_WARNED: Final = "Warnings: the image is probably not what the model is for:"
_ENSEMBLE: Final = (
    "Each probability is the mean of the members of an ensemble; its spread is their standard deviation, and not an "
    "interval of the probability. Regions are those of one member."
)
_UNTRAINED: Final = "The fusion head was never trained. Attention of findings on regions is left out."


def build_report(
    source: DicomSource, prediction: Prediction, *, bundle_sha256: str, uids: dict[str, str], series_number: int
) -> Any:
    """The report as a `pydicom.Dataset`.

    Args:
        source: the image.
        prediction: the answer for it.
        bundle_sha256: hash of the bundle's manifest.
        uids: UIDs of the ``series`` and the ``instance``.
        series_number: number of the series.
    """
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes

    image = source.dataset
    algorithm = sr.AlgorithmIdentification(
        name="lrclr",
        version=__version__,
        parameters=[
            f"bundle-sha256={bundle_sha256}",
            f"alpha={prediction.alpha:.6g}",
            f"fusion_trained={prediction.fusion_trained}",
        ],
    )
    groups = [
        *_finding_groups(source, prediction, algorithm, uids["instance"]),
        *_region_groups(source, prediction, algorithm, uids["instance"]),
    ]
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=hashed_uid("device", __version__, bundle_sha256),
            name="lrclr",
            manufacturer_name=MANUFACTURER,
            model_name=MODEL_NAME,
            serial_number=bundle_sha256[:16],
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_code(PROCEDURE),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    content[0].ContentSequence.append(_notes(prediction))
    report = sr.ComprehensiveSR(
        evidence=[image],
        content=content[0],
        series_instance_uid=uids["series"],
        series_number=series_number,
        sop_instance_uid=uids["instance"],
        instance_number=image.InstanceNumber,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[
            CodingSchemeIdentificationItem(
                SCHEME, name="lrclr private concepts", version=__version__, responsible_organization="lrclr"
            )
        ],
    )
    report.SeriesDescription = "lrclr findings, RESEARCH USE ONLY"
    report.ManufacturerModelName, report.SoftwareVersions = MODEL_NAME, __version__
    report.DeviceSerialNumber = bundle_sha256[:16]
    return report


def _finding_groups(source: DicomSource, prediction: Prediction, algorithm: Any, instance: str) -> list[Any]:
    """One group (TID 1501) a finding."""
    from highdicom import sr

    frames = None if source.frame is None else [source.frame]
    return [
        sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=hashed_uid(instance, "finding", finding.name), identifier=f"finding {finding.name}"
            ),
            finding_type=_code(finding_code(finding.name)),
            algorithm_id=algorithm,
            measurements=_probability(finding),
            source_images=[
                sr.SourceImageForMeasurementGroup.from_source_image(source.dataset, referenced_frame_numbers=frames)
            ],
        )
        for finding in prediction.findings
    ]


def _region_groups(source: DicomSource, prediction: Prediction, algorithm: Any, instance: str) -> list[Any]:
    """One group (TID 1410, a planar region of interest) a selected patch."""
    from highdicom import sr

    frames = None if source.frame is None else [source.frame]
    groups = []
    for number, region in enumerate(patch_regions(prediction), 1):
        measurements = [_measurement(IMPORTANCE, region.importance)]
        measurements += [_measurement(attention_code(name), value) for name, value in region.attention.items()]
        groups.append(
            sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=sr.TrackingIdentifier(
                    uid=hashed_uid(instance, "region", str(region.patch)),
                    identifier=f"region {number} (patch {region.patch})",
                ),
                # SCOORD has no rectangle.
                referenced_region=sr.ImageRegion(
                    sr.GraphicTypeValues.POLYLINE,
                    region.outline,
                    source_image=sr.SourceImageForRegion.from_source_image(
                        source.dataset, referenced_frame_numbers=frames
                    ),
                ),
                finding_type=_code(REGION),
                algorithm_id=algorithm,
                measurements=measurements,
            )
        )
    return groups


def _probability(finding: FindingResult) -> list[Any]:
    """The probability; of an ensemble the mean, and the standard deviation.

    Both are derived values in TID 300 then, with the derivations of CID 7464. The spread has a concept of its own, so
    that a reader that ignores derivations does not take it for the probability.
    """
    if finding.probability_spread is None:
        return [_measurement(PROBABILITY, finding.probability)]
    from pydicom.sr.codedict import codes

    return [
        _measurement(PROBABILITY, finding.probability, derivation=codes.cid7464.Mean),
        _measurement(SPREAD, finding.probability_spread, derivation=codes.cid7464.StandardDeviation),
    ]


def _measurement(concept: FindingCode, value: float, derivation: Any = None) -> Any:
    """A ratio: the value has no unit (UCUM 1)."""
    from highdicom import sr
    from pydicom.sr.coding import Code

    unit = Code("1", "UCUM", "no units")
    return sr.Measurement(name=_code(concept), value=decimal(value), unit=unit, derivation=derivation)


def _notes(prediction: Prediction) -> Any:
    """Comments, in the container that TID 1500 has for qualitative evaluations."""
    from highdicom import sr
    from pydicom.sr.coding import Code

    container = sr.ContainerContentItem(
        name=Code("C0034375", "UMLS", "Qualitative Evaluations"), relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    texts = [NOTE] if prediction.fusion_trained else [NOTE, _UNTRAINED]
    if any(finding.probability_spread is not None for finding in prediction.findings):
        texts.append(_ENSEMBLE)
    if prediction.warnings:
        texts.append(f"{_WARNED} {described(prediction.warnings)}.")
    comments = [
        sr.TextContentItem(
            name=Code("121106", "DCM", "Comment"), value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS
        )
        for text in texts
    ]
    container.ContentSequence = sr.ContentSequence(comments, is_root=False)
    return container


def _code(concept: FindingCode) -> Any:
    from pydicom.sr.coding import Code

    return Code(concept.value, concept.scheme, concept.meaning)
