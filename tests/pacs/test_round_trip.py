"""Results go into a real Orthanc and come back as they were, by DICOMweb and by C-STORE."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import pydicom
import pytest

# Private: how an address is written has no public name.
from lrclr._addresses import Address
from lrclr.dicom_results import KINDS, DicomSource, ResultBuilder, ResultModel
from lrclr.images import read_image
from lrclr.pacs import DicomwebClient, DimseDestination, WebDestination
from tests.dicom_results import conformance
from tests.pacs.studies import study

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.dicom_results import Kind
    from lrclr.inference import ZeroShotClassifier
    from tests.pacs.orthanc import Orthanc


def results(classifier: ZeroShotClassifier, content: bytes) -> dict[Kind, tuple[str, bytes]]:
    """Objects of every kind for an image."""
    source, picture = DicomSource.read(content), read_image(content)
    (prediction,) = classifier.predict([picture])
    builder = ResultBuilder(ResultModel(classifier.spec.sha256, classifier.spec.findings))
    return {
        kind: (builder.uid(kind, source, prediction.alpha), builder.build(kind, source, prediction, picture))
        for kind in KINDS
    }


@pytest.mark.parametrize("way", ["STOW-RS", "C-STORE"])
def test_every_kind_comes_back_as_it_was(
    way: str, classifier: ZeroShotClassifier, target: Orthanc, tmp_path: Path
) -> None:
    content = study(301 if way == "STOW-RS" else 302)
    sent, image = results(classifier, content), pydicom.dcmread(BytesIO(content))
    client = DicomwebClient(target.web)
    destination = (
        WebDestination(client) if way == "STOW-RS" else DimseDestination("ORTHANC", Address("127.0.0.1", target.dicom))
    )
    for _ in range(2):
        # The second time changes nothing.
        destination.store(sent)
    listed = client.search(f"/studies/{image.StudyInstanceUID}/instances", [])
    assert sorted(each["00080018"]["Value"][0] for each in listed) == sorted(uid for uid, _ in sent.values())
    for kind, (uid, before) in sent.items():
        series = str(pydicom.dcmread(BytesIO(before)).SeriesInstanceUID)
        after = client.retrieve(image.StudyInstanceUID, series, uid)
        one, other = (pydicom.dcmread(BytesIO(each)) for each in (before, after))
        assert one == other
        for name, each in (("before", before), ("after", after)):
            file = tmp_path / f"{kind}-{name}.dcm"
            file.write_bytes(each)
            assert not conformance.errors_of(file)
            read_by_others(kind, file, str(image.SOPInstanceUID))


def read_by_others(kind: Kind, file: Path, source: str) -> None:
    """highdicom and dcmtk read the object. highdicom has no reader of presentation states."""
    if kind == "sr":
        report = conformance.report_of(file)
        groups = report.content.get_image_measurement_groups()
        assert {image.referenced_sop_instance_uid for group in groups for image in group.source_images} == {source}
        assert report.content.get_planar_roi_measurement_groups()
        assert source in conformance.dcmtk("dsrdump", "+Pu", file) + conformance.dcmtk("dcmdump", file)
    elif kind == "sc":
        import highdicom

        assert highdicom.imread(file).get_frame(1).shape[2] == 3
        assert source in conformance.dcmtk("dcmdump", file)
    else:
        assert "Test passed" in conformance.dcmtk("dcmpschk", file)
        assert source in conformance.dcmtk("dcmdump", file)
