"""Results of sources with missing or invalid attributes conform to the standard, or are refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from lrclr.dicom_results import DicomSource, NotDicomError, ResultBuilder, ResultFolders, ResultRefusedError
from lrclr.samples import SAMPLES
from tests.dicom_results import conformance

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.dicom_results import ResultModel
    from lrclr.inference import Prediction

Change = Callable[[pydicom.Dataset], None]
SECRET = "Zzyzx"
TYPE_2: tuple[str, ...] = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
)
TYPE_2 += ("AccessionNumber", "ReferringPhysicianName")


def without(*keywords: str) -> Change:
    def change(dataset: pydicom.Dataset) -> None:
        for keyword in keywords:
            delattr(dataset, keyword)

    return change


def raw(keyword: str, value: bytes, *, character_set: str | list[str] | None = None) -> Change:
    """Set bytes that pydicom does not check."""

    def change(dataset: pydicom.Dataset) -> None:
        if character_set is not None:
            dataset.SpecificCharacterSet = character_set
        tag = pydicom.tag.Tag(keyword)
        vr = pydicom.datadict.dictionary_VR(tag)
        padded = value + b" " * (len(value) % 2)
        dataset[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(padded), padded, 0, False, True)

    return change


def combined(*changes: Change) -> Change:
    def change(dataset: pydicom.Dataset) -> None:
        for each in changes:
            each(dataset)

    return change


# Sources from which conforming results can be built.
CORRECTED_SOURCES: dict[str, Change] = {
    **{f"no {keyword}": without(keyword) for keyword in TYPE_2},
    "none of type 2": without(*TYPE_2),
    "no character set": lambda dataset: dataset.pop("SpecificCharacterSet", None),
    "no body part, no orientation": without("BodyPartExamined", "PatientOrientation"),
    "empty orientation": raw("PatientOrientation", b""),
    "no pixel spacing": without("ImagerPixelSpacing"),
    "no instance number": without("InstanceNumber"),
    "odd instance number": raw("InstanceNumber", b"-5"),
    "odd date": raw("StudyDate", b"2020.01.02"),
    "no such day": raw("StudyDate", b"20230231"),
    "odd birth date": raw("PatientBirthDate", b"UNKNOWN"),
    "odd time": raw("StudyTime", b"25:61"),
    "odd sex": raw("PatientSex", b"X"),
    "odd age": raw("PatientAge", b"62"),
    "odd body part": raw("BodyPartExamined", b"thorax pa, erect\\\\x"),
    "unknown character set": raw("PatientName", b"Doe^Jane", character_set="ISO_IR 999"),
    "bytes outside the character set": raw("PatientName", b"D\xff\xfe^J", character_set="ISO_IR 192"),
    "Latin 1": raw("PatientName", "Müller^Jürgen".encode("latin-1"), character_set="ISO_IR 100"),
    "Japanese": lambda dataset: dataset.update(
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"}
    ),
    "control characters": raw("StudyDescription", b"a\x00b\x07"),
    # highdicom warns of it, and quotes it; warnings are errors in the tests.
    "a name of one component": raw("PatientName", SECRET.encode()),
    "no window": without("WindowCenter", "WindowWidth"),
    "history and comments": combined(
        raw("AdditionalPatientHistory", b"x" * 20_000), raw("PatientComments", b"\xff\xff"), raw("PatientSize", b"1,80")
    ),
    "private and unknown elements": lambda dataset: dataset.add_new(0x00091001, "UN", b"\x00" * 5000),
}
REFUSED_SOURCES: dict[str, tuple[Change, str]] = {
    "no instance UID": (without("SOPInstanceUID"), "SOPInstanceUID"),
    "no study UID": (without("StudyInstanceUID"), "StudyInstanceUID"),
    "empty series UID": (raw("SeriesInstanceUID", b""), "SeriesInstanceUID"),
    "a UID of letters": (raw("StudyInstanceUID", SECRET.encode()), "StudyInstanceUID"),
    "two UIDs": (raw("StudyInstanceUID", b"1.2\\1.3"), "StudyInstanceUID"),
    "no class": (without("SOPClassUID"), "SOPClassUID"),
    "unknown class": (raw("SOPClassUID", b"1.2.3.4"), "highdicom"),
    "no modality": (without("Modality"), "Modality"),
    "three frames of a class of one": (raw("NumberOfFrames", b"3"), "3 frames"),
    "our own heat map": (raw("Manufacturer", b"lrclr"), "lrclr wrote"),
}


@pytest.fixture(scope="module")
def prediction(predictions: dict[str, Prediction]) -> Prediction:
    """The prediction of the sample, with two findings: reports of all findings take four times as long."""
    return replace(predictions["normal"], findings=predictions["normal"].findings[:2])


def test_an_attribute_of_another_vr_is_left_empty(model: ResultModel, prediction: Prediction) -> None:
    """A text of more than 64 KiB has the VR UN. Python's notation of its bytes must not become a patient's name."""
    source = DicomSource.read(sample_after(lambda dataset: dataset.update({"PatientName": "Doe" * 30_000})))
    assert "PatientName is not valid and is left empty" in source.remarks
    assert not pydicom.dcmread(BytesIO(ResultBuilder(model).build("sr", source, prediction))).PatientName


@pytest.mark.parametrize("case", CORRECTED_SOURCES)
def test_a_source_is_corrected(case: str, model: ResultModel, prediction: Prediction, tmp_path: Path) -> None:
    data = sample_after(CORRECTED_SOURCES[case])
    source = DicomSource.read(data)
    study = pydicom.dcmread(SAMPLES[0].path("dicom")).StudyInstanceUID
    file = tmp_path / "result.dcm"
    for kind in ("sr", "gsps"):
        file.write_bytes(ResultBuilder(model).build(kind, source, prediction))
        assert not conformance.errors_of(file)
        result = pydicom.dcmread(file)
        assert result.StudyInstanceUID == study
        assert result.SpecificCharacterSet == "ISO_IR 192"
    assert not any(SECRET in remark for remark in source.remarks)


# pydicom warns while the test reads the result.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientID", "P" * 70),
        ("AccessionNumber", "A" * 20),
        ("StudyInstanceUID", "1.02.3"),
        ("SOPInstanceUID", "1.2.0003"),
    ],
)
def test_an_identifier_that_is_not_valid_is_copied(
    keyword: str, value: str, model: ResultModel, prediction: Prediction
) -> None:
    """A result without it would belong to another patient or study."""
    source = DicomSource.read(sample_after(raw(keyword, value.encode())))
    for kind in ("sr", "gsps"):
        result = pydicom.dcmread(BytesIO(ResultBuilder(model).build(kind, source, prediction)))
        found = {str(each.value) for each in result.iterall() if each.keyword in {keyword, f"Referenced{keyword}"}}
        assert value in found


@pytest.mark.parametrize("case", REFUSED_SOURCES)
def test_a_source_is_refused_with_a_reason(case: str, model: ResultModel, prediction: Prediction) -> None:
    change, word = REFUSED_SOURCES[case]
    with pytest.raises(ResultRefusedError, match=word) as caught:
        ResultBuilder(model).build("sr", DicomSource.read(sample_after(change)), prediction)
    assert SECRET not in str(caught.value)
    # The parser's own error could quote values.
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("case", "name"), [("Latin 1", "Müller^Jürgen"), ("Japanese", "Yamada^Tarou=山田^太郎"), ("odd date", None)]
)
def test_patient_names_are_kept(case: str, name: str | None, model: ResultModel, prediction: Prediction) -> None:
    source = DicomSource.read(sample_after(CORRECTED_SOURCES[case]))
    result = pydicom.dcmread(BytesIO(ResultBuilder(model).build("sr", source, prediction)))
    assert result.PatientName == (name or "LRCLR^Synthetic")
    assert ("StudyDate is not valid and is left empty" in source.remarks) == (case == "odd date")


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_other_formats_give_no_dicom_results(format_: str) -> None:
    stream = BytesIO()
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(stream, format_)
    with pytest.raises(NotDicomError, match="not a DICOM file") as caught:
        DicomSource.read(stream.getvalue())
    assert caught.value.exit_code == 2


def test_a_frame_of_a_multi_frame_object_is_referenced(model: ResultModel, prediction: Prediction) -> None:
    def frames(dataset: pydicom.Dataset) -> None:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7.3"
        dataset.NumberOfFrames = 3

    builder = ResultBuilder(model)
    sources = [DicomSource.read(sample_after(frames), frame=frame) for frame in (0, 2)]
    reports = [pydicom.dcmread(BytesIO(builder.build("sr", source, prediction))) for source in sources]
    assert reports[0].SOPInstanceUID != reports[1].SOPInstanceUID
    numbers = [element.value for element in reports[1].iterall() if element.keyword == "ReferencedFrameNumber"]
    assert set(numbers) == {3}


def test_colour_has_no_presentation_state(model: ResultModel, prediction: Prediction) -> None:
    def colour(dataset: pydicom.Dataset) -> None:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"

    source = DicomSource.read(sample_after(colour))
    with pytest.raises(ResultRefusedError, match="in colour"):
        ResultBuilder(model).build("gsps", source, prediction)
    ResultBuilder(model).build("sr", source, prediction)


@settings(max_examples=25)
@given(
    st.sampled_from([*TYPE_2, "Modality", "BodyPartExamined", "StudyDescription", "WindowCenter"]),
    st.binary(max_size=20),
)
def test_any_bytes_are_corrected_or_refused(keyword: str, value: bytes) -> None:
    with warnings.catch_warnings():
        # pydicom warns while the test writes the file.
        warnings.simplefilter("ignore")
        data = sample_after(raw(keyword, value))
    try:
        source = DicomSource.read(data)
    except ResultRefusedError:
        return
    for element in source.dataset:
        str(element.value)


def test_the_writer_continues_after_a_refused_source(
    model: ResultModel, prediction: Prediction, tmp_path: Path
) -> None:
    folders = ResultFolders(ResultBuilder(model), {"sr": tmp_path / "sr", "sc": tmp_path / "sc"})
    assert folders.write(SAMPLES[0].path("png"), prediction)
    for _ in range(2):
        assert not folders.write(SAMPLES[0].path("dicom"), prediction)
    assert (folders.written, len(folders.refused)) == (4, 1)
    assert [len(list((tmp_path / kind).iterdir())) for kind in ("sr", "sc")] == [1, 1]


def sample_after(change: Change) -> bytes:
    """The smallest sample as an uncompressed file, after a change."""
    dataset: Any = pydicom.dcmread(SAMPLES[0].path("dicom"))
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.PixelData = b"\0\0"
    dataset["PixelData"].is_undefined_length = False
    stream = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(dataset)
        pydicom.dcmwrite(stream, dataset, enforce_file_format=False, force_encoding=False)
    return stream.getvalue()
