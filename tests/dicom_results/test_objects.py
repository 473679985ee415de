"""DICOM objects of predictions conform to the standard and contain the predictions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from PIL import Image

from lrclr._version import __version__
from lrclr.dicom_results import FINDING_CODES, KINDS, DicomSource, ResultBuilder, ResultModel, finding_code

# Private: the names of measurements and of the procedure are not public.
from lrclr.dicom_results._codes import PROCEDURE, attention_code
from lrclr.images import read_image
from lrclr.inference import draw_heatmap
from lrclr.samples import SAMPLES
from lrclr.text import Finding, FindingSet
from tests.dicom_results import conformance

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.dicom_results import Kind
    from lrclr.inference import Prediction

Objects = dict[tuple[str, "Kind"], "Path"]
NAMES = [sample.name for sample in SAMPLES]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_objects_conform_to_the_standard(name: str, kind: Kind, objects: Objects) -> None:
    # A private coding scheme is allowed. dciodvfy warns about each of its codes.
    assert not [line for line in conformance.findings_of(objects[name, kind]) if "99LRCLR" not in line]


@pytest.mark.parametrize("name", NAMES)
def test_report_contains_the_prediction(
    name: str, objects: Objects, predictions: dict[str, Prediction], model: ResultModel
) -> None:
    """The report is read back by highdicom's own parser of the template."""
    prediction, source = predictions[name], pydicom.dcmread(_path(name))
    report = conformance.report_of(objects[name, "sr"])
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE",
        "PRELIMINARY",
        "UNVERIFIED",
    )
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "StudyDate"):
        assert report[keyword].value == source[keyword].value
    groups = report.content.get_image_measurement_groups()
    assert [group.finding_type.value for group in groups] == [finding_code(f.name).value for f in prediction.findings]
    for group, finding in zip(groups, prediction.findings, strict=True):
        (measurement,) = group.get_measurements()
        assert (measurement.name.meaning, measurement.unit.value) == ("Zero-shot probability", "1")
        assert measurement.value == pytest.approx(finding.probability, rel=1e-5)
        (image,) = group.source_images
        assert image.referenced_sop_instance_uid == source.SOPInstanceUID
    texts = _texts(report)
    for part in ("lrclr", __version__, f"bundle-sha256={model.bundle_sha256}", f"alpha={prediction.alpha:.6g}"):
        assert part in texts
    assert any(text.startswith("RESEARCH USE ONLY") for text in texts)


@pytest.fixture
def of_ensemble(predictions: dict[str, Prediction]) -> Prediction:
    """The prediction of a single network with spreads, as those of an ensemble."""
    prediction = predictions["normal"]
    findings = (replace(each, probability_spread=0.01 * (1 + place)) for place, each in enumerate(prediction.findings))
    return replace(prediction, findings=tuple(findings))


def test_report_of_an_ensemble_contains_the_spread(of_ensemble: Prediction, model: ResultModel, tmp_path: Path) -> None:
    file = tmp_path / "report.dcm"
    file.write_bytes(ResultBuilder(model).build("sr", _source("normal"), of_ensemble))
    assert not [line for line in conformance.findings_of(file) if "99LRCLR" not in line]
    report = conformance.report_of(file)
    groups = report.content.get_image_measurement_groups()
    for group, finding in zip(groups, of_ensemble.findings, strict=True):
        mean, spread = group.get_measurements()
        assert (mean.name.value, mean.derivation.meaning) == ("ZSPROBABILITY", "Mean")
        assert mean.value == pytest.approx(finding.probability, rel=1e-5)
        assert (spread.name.value, spread.unit.value) == ("ZSSPREAD", "1")
        assert (spread.derivation.value, spread.derivation.scheme_designator) == ("386136009", "SCT")
        assert spread.value == pytest.approx(finding.probability_spread, rel=1e-5)
    assert any("mean of the members of an ensemble" in text for text in _texts(report))
    assert "Spread of the members' zero-shot probabilities" in conformance.dcmtk("dsrdump", file)


def test_presentation_state_of_an_ensemble_contains_the_spread(
    of_ensemble: Prediction, model: ResultModel, tmp_path: Path
) -> None:
    file = tmp_path / "state.dcm"
    file.write_bytes(ResultBuilder(model).build("gsps", _source("normal"), of_ensemble))
    assert not conformance.findings_of(file)
    assert "Test passed" in conformance.dcmtk("dcmpschk", file)
    (annotation,) = pydicom.dcmread(file).GraphicAnnotationSequence
    texts = [text.UnformattedTextValue for text in annotation.TextObjectSequence]
    first = of_ensemble.findings[0]
    assert any(f"{first.name} {first.probability:.2f} ± {first.probability_spread:.2f}" in text for text in texts)


def test_report_contains_the_warnings(predictions: dict[str, Prediction], model: ResultModel) -> None:
    prediction = replace(predictions["normal"], warnings=("turned", "colour"))
    content = ResultBuilder(model).build("sr", _source("normal"), prediction)
    (text,) = [text for text in _texts(pydicom.dcmread(_buffer(content))) if text.startswith("Warnings")]
    assert "turned (the picture seems to be turned by a quarter); colour (the picture has colours)" in text


@pytest.mark.parametrize("name", NAMES)
def test_report_contains_the_regions(name: str, objects: Objects, predictions: dict[str, Prediction]) -> None:
    prediction = predictions[name]
    patches = {region.patch for region in prediction.regions}
    groups = conformance.report_of(objects[name, "sr"]).content.get_planar_roi_measurement_groups()
    assert len(groups) == len(patches)
    importance = 0.0
    for group in groups:
        outline = group.roi.value
        assert outline.shape == (5, 2)
        assert (outline[0] == outline[-1]).all()
        assert (outline >= 0).all()
        assert (outline <= [prediction.width, prediction.height]).all()
        values = {each.name.value: each.value for each in group.get_measurements()}
        importance += values.pop("IMPORTANCE")
        assert set(values) == {attention_code(finding.name).value for finding in prediction.findings}
        boxes = {region.box: region.patch for region in prediction.regions}
        box = (*outline[0], *outline[2])
        (patch,) = {patch for each, patch in boxes.items() if np.allclose(_clipped(each, prediction), box, atol=1e-3)}
        for finding in prediction.findings:
            places = [place for place, region in enumerate(prediction.regions) if region.patch == patch]
            expected = sum(finding.region_attention[place] for place in places)
            assert values[attention_code(finding.name).value] == pytest.approx(expected, rel=1e-5)
    assert importance == pytest.approx(sum(region.importance for region in prediction.regions), rel=1e-4)


def test_report_of_an_untrained_head_has_no_attention(model: ResultModel, predictions: dict[str, Prediction]) -> None:
    prediction = replace(predictions["normal"], fusion_trained=False, alpha=0.0)
    report = _read(ResultBuilder(model).build("sr", _source("normal"), prediction))
    assert any("never trained" in text for text in _texts(report))
    assert "Region attention" not in str(report)


def test_dcmtk_can_read_the_report(objects: Objects) -> None:
    text = conformance.dcmtk("dsrdump", objects["effusion", "sr"])
    for part in ("UNVERIFIED", 'NUM:(,,"Zero-shot probability")', "60046008,SCT", "POLYLINE", "RESEARCH USE ONLY"):
        assert part in text
    page = conformance.dcmtk("dsr2html", objects["effusion", "sr"])
    assert "Imaging Measurement Report" in page


def test_dcmtk_accepts_the_presentation_state(objects: Objects) -> None:
    assert "Test passed" in conformance.dcmtk("dcmpschk", objects["effusion", "gsps"])


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_presentation_state_leaves_the_grey_levels(
    photometric: str, model: ResultModel, predictions: dict[str, Prediction], tmp_path: Path
) -> None:
    """dcmtk renders the same picture with the state and without it."""
    image, state = tmp_path / "image.dcm", tmp_path / "state.dcm"
    dataset = pydicom.dcmread(_path("normal"))
    dataset.decompress(generate_instance_uid=False)
    dataset.PhotometricInterpretation = photometric
    dataset.PresentationLUTShape = "INVERSE" if photometric == "MONOCHROME1" else "IDENTITY"
    dataset.save_as(image)
    source = DicomSource.read(image.read_bytes())
    state.write_bytes(ResultBuilder(model).build("gsps", source, predictions["normal"]))
    conformance.dcmtk("dcmp2pgm", image, tmp_path / "without.pgm")
    conformance.dcmtk("dcmp2pgm", "-p", state, image, tmp_path / "with.pgm")
    pictures = [np.asarray(Image.open(tmp_path / f"{name}.pgm"), float).ravel() for name in ("without", "with")]
    assert np.corrcoef(pictures)[0, 1] > 0.999


@pytest.mark.parametrize("name", NAMES)
def test_presentation_state_draws_the_boxes(name: str, objects: Objects, predictions: dict[str, Prediction]) -> None:
    state = pydicom.dcmread(objects[name, "gsps"])
    (annotation,) = state.GraphicAnnotationSequence
    assert len(annotation.GraphicObjectSequence) == len({region.patch for region in predictions[name].regions})
    (series,) = state.ReferencedSeriesSequence
    (image,) = series.ReferencedImageSequence
    assert image.ReferencedSOPInstanceUID == pydicom.dcmread(_path(name)).SOPInstanceUID
    texts = [text.UnformattedTextValue for text in annotation.TextObjectSequence]
    assert any("RESEARCH USE ONLY" in text for text in texts)


@pytest.mark.parametrize("name", NAMES)
def test_capture_contains_the_heat_map(name: str, objects: Objects, predictions: dict[str, Prediction]) -> None:
    capture = pydicom.dcmread(objects[name, "sc"])
    assert (capture.Modality, capture.BurnedInAnnotation) == ("OT", "YES")
    assert capture.file_meta.TransferSyntaxUID == pydicom.uid.JPEG2000Lossless
    title = "RESEARCH USE ONLY - lrclr, findings and selected regions"
    drawn = np.asarray(draw_heatmap(read_image(_path(name)), predictions[name], title=title))
    np.testing.assert_array_equal(pydicom.pixels.pixel_array(capture), drawn)
    # The text is part of the pixels: without a title, the pixels differ.
    assert (np.asarray(draw_heatmap(read_image(_path(name)), predictions[name])) != drawn).any()
    assert objects[name, "sc"].stat().st_size < 1_000_000


def test_the_same_prediction_has_the_same_uids(model: ResultModel, predictions: dict[str, Prediction]) -> None:
    prediction = predictions["normal"]
    first_content, second_content = (ResultBuilder(model).build("sr", _source("normal"), prediction) for _ in range(2))
    first, second = _read(first_content), _read(second_content)
    assert first.SOPInstanceUID == second.SOPInstanceUID
    # highdicom records the time at which it took part in this sequence.
    times = {"ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime"}
    times.add("ContributingEquipmentSequence")
    differing = {element.keyword for element in first if second[element.tag] != element}
    assert differing <= times


def test_different_requests_have_different_uids(model: ResultModel, predictions: dict[str, Prediction]) -> None:
    """The UID must depend on everything that the content depends on."""
    findings = FindingSet((Finding("Edema", ("edema",), ("no edema",)),))
    models = {
        "same": model,
        "bundle": replace(model, bundle_sha256="0" * 64),
        "findings": replace(model, findings=findings),
        "prompts": replace(model, findings=FindingSet((Finding("Edema", ("oedema",), ("no edema",)),))),
        "exact": replace(model, exact=True),
    }
    uids = {ResultBuilder(each).uid(kind, _source("normal"), 0.4) for each in models.values() for kind in KINDS}
    builder = ResultBuilder(model)
    uids |= {builder.uid("sr", _source("normal"), 0.3), builder.uid("sr", _source("effusion"), 0.4)}
    assert len(uids) == len(models) * len(KINDS) + 2
    assert all(len(uid) <= 64 and pydicom.uid.UID(uid).is_valid for uid in uids)


def test_any_name_of_a_finding_gives_a_valid_code(model: ResultModel, predictions: dict[str, Prediction]) -> None:
    names = ["small left apical pneumothorax", "small left apical effusion", "a\\b", "胸水", "x" * 100, "\N{BELL}", " "]
    codes = [code for name in names for code in (finding_code(name), attention_code(name))]
    assert len({code.value for code in codes}) == len(codes)
    assert all(len(code.value) <= 16 and 0 < len(code.meaning) <= 64 for code in codes)
    prediction = predictions["normal"]
    renamed = tuple(replace(each, name=name) for each, name in zip(prediction.findings, names, strict=False))
    content = ResultBuilder(model).build("sr", _source("normal"), replace(prediction, findings=renamed))
    assert len(conformance.report_of(_buffer(content)).content.get_image_measurement_groups()) == len(renamed)


def test_codes_of_snomed_ct_have_their_check_digits() -> None:
    """SCTIDs end with a digit by Verhoeff's scheme, which finds every single wrong digit and every swap of two."""
    permutation = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)

    def times(one: int, other: int) -> int:
        # The dihedral group of order 10.
        if one < 5:
            return (one + other) % 5 if other < 5 else 5 + (one + other) % 5
        return 5 + (one - other) % 5 if other < 5 else (one - other) % 5

    def check(code: str) -> int:
        total = 0
        for place, digit in enumerate(reversed(code)):
            value = int(digit)
            for _ in range(place):
                value = permutation[value]
            total = times(total, value)
        return total

    codes = [code.value for code in (*FINDING_CODES.values(), PROCEDURE) if code.scheme == "SCT"]
    assert len(codes) == 9
    assert [check(code) for code in codes] == [0] * 9
    assert check("95436003") != 0


def _path(name: str) -> Path:
    return next(sample.path("dicom") for sample in SAMPLES if sample.name == name)


def _source(name: str) -> DicomSource:
    return DicomSource.read(_path(name).read_bytes())


def _buffer(content: bytes) -> pydicom.filebase.DicomBytesIO:
    return pydicom.filebase.DicomBytesIO(content)


def _read(content: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(_buffer(content))


def _texts(report: pydicom.Dataset) -> set[str]:
    return {str(element.value) for element in report.iterall() if element.keyword == "TextValue"}


def _clipped(box: tuple[float, ...], prediction: Prediction) -> tuple[float, ...]:
    limits = (prediction.width, prediction.height) * 2
    return tuple(min(max(side, 0.0), limit) for side, limit in zip(box, limits, strict=True))


def test_threads_can_build_at_the_same_time(
    model: ResultModel, predictions: dict[str, Prediction], objects: Objects
) -> None:
    builder, picture = ResultBuilder(model), read_image(_path("consolidation"))

    def build(_: int) -> bytes:
        content = builder.build("sc", _source("consolidation"), predictions["consolidation"], picture)
        return bytes(_read(content).PixelData)

    with ThreadPoolExecutor(4) as pool:
        contents = set(pool.map(build, range(8)))
    assert contents == {pydicom.dcmread(objects["consolidation", "sc"]).PixelData}
