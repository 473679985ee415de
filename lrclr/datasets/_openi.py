"""Open-i (Indiana University, NLMCXR). Run on all 3,955 real reports; not run on real images."""

from __future__ import annotations

import re
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lrclr.datasets._cells import BadRowError
from lrclr.datasets._imported import Imported, require_folder
from lrclr.datasets._lines import check_regular, table_rows
from lrclr.datasets._reports import choose_section, without_xs
from lrclr.datasets._rows import ABSENT, PRESENT, Row, RowProblem
from lrclr.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lrclr.datasets._reports import Section

_MAX_REPORT: Final = 2**20
_SUFFIXES: Final = (".png", ".jpg", ".dcm")
_FRONTAL: Final = frozenset({"PA", "AP", "FRONTAL"})
# Heads of the MeSH and RadLex terms that two readers assigned to each report, in lower case.
_TERMS: Final[dict[str, str]] = {
    "normal": "No Finding",
    **dict.fromkeys(("cardiomegaly",), "Cardiomegaly"),
    **dict.fromkeys(("nodule", "mass"), "Lung Lesion"),
    **dict.fromkeys(("opacity", "airspace disease", "infiltrate"), "Lung Opacity"),
    **dict.fromkeys(("pulmonary edema",), "Edema"),
    **dict.fromkeys(("consolidation",), "Consolidation"),
    **dict.fromkeys(("pneumonia",), "Pneumonia"),
    **dict.fromkeys(("pulmonary atelectasis",), "Atelectasis"),
    **dict.fromkeys(("pneumothorax", "hydropneumothorax"), "Pneumothorax"),
    **dict.fromkeys(("pleural effusion",), "Pleural Effusion"),
    **dict.fromkeys(("fractures, bone",), "Fracture"),
    **dict.fromkeys(("catheters, indwelling", "implanted medical device", "medical device"), "Support Devices"),
    **dict.fromkeys(("tube, inserted",), "Support Devices"),
}
OPENI_FINDINGS: Final = tuple(dict.fromkeys(_TERMS.values()))
_UNINDEXED: Final = frozenset({"no indexing", "technical quality of image unsatisfactory"})


@dataclass(frozen=True, slots=True)
class OpeniReport:
    """One report.

    Attributes:
        name: name of its file.
        uid: identifier of the report; each report is of another patient.
        sections: text by label in lower case ("findings", "impression", "indication", "comparison"), without marks of
            the de-identification; empty sections are left out.
        terms: MeSH major terms, such as "Pulmonary Atelectasis/base/left".
        images: identifiers of its images.
    """

    name: str
    uid: str
    sections: Mapping[str, str]
    terms: tuple[str, ...]
    images: tuple[str, ...]


def read_openi_reports(source: Path) -> Iterator[OpeniReport | RowProblem]:
    """Reports of a folder or a ``.tgz``, which is read as a stream and not unpacked to disk.

    Yields:
        A report, or its problem with its number from 1.

    Raises:
        UsageError: the source cannot be read, or is not an archive.
        MissingExtraError: defusedxml is not installed.
    """
    try:
        from defusedxml.ElementTree import fromstring
    except ImportError:
        raise MissingExtraError("defusedxml", "evaluate", "reading Open-i reports") from None
    for number, (name, data) in enumerate(_xml_files(source), start=1):
        try:
            yield _report(name, data, fromstring)
        except BadRowError as error:
            yield RowProblem(number, f"{name}: {error}")


def openi_labels(terms: tuple[str, ...]) -> dict[str, int]:
    """Labels from MeSH major terms. Findings without a term are absent; a report that was not indexed has no labels."""
    heads = {term.partition("/")[0].strip().lower() for term in terms}
    if not heads or heads & _UNINDEXED:
        return {}
    present = {_TERMS[head] for head in heads if head in _TERMS}
    return {finding: PRESENT if finding in present else ABSENT for finding in OPENI_FINDINGS}


def import_openi(
    source: Path,
    images: Path,
    *,
    metadata: Path | None = None,
    section: Section = "impression",
    all_views: bool = False,
) -> Imported:
    """Rows of Open-i: one an image, with its report and labels from the MeSH terms. The set has no splits.

    Args:
        source: ``NLMCXR_reports.tgz`` or the folder of its XML files.
        images: folder of ``<image id>.png``.
        metadata: table of views: ``imageid`` and ``View Position`` (torchxrayvision's
            ``nlmcxr_dicom_metadata.csv.gz``) or ``filename`` and ``projection`` (``indiana_projections.csv``).
        section: part of the report; if it is missing, another part is taken, and the notes count that.
        all_views: include lateral images; otherwise only the frontal ones, for which `metadata` is needed.

    Raises:
        UsageError: a source or a table is missing or not the expected one, or the views are not known.
        MissingExtraError: defusedxml is not installed.
    """
    require_folder(images)
    if metadata is None and not all_views:
        raise UsageError(
            "the reports do not give the view of an image",
            fix="Name a table of views with --metadata, or take every view with --all-views.",
        )
    view_of = _views(metadata) if metadata is not None else {}
    there = {file.name: file for file in images.iterdir()}
    rows: list[Row] = []
    problems: list[RowProblem] = []
    counts: Counter[str] = Counter()
    for number, report in enumerate(read_openi_reports(source), start=1):
        if isinstance(report, RowProblem):
            problems.append(report)
            continue
        text = choose_section(report.sections, section)
        labels = openi_labels(report.terms)
        counts["reports without images"] += not report.images
        for image in report.images:
            view = view_of.get(_image_key(image), "").upper()
            if not all_views and view not in _FRONTAL:
                counts["lateral images left out" if view else "images whose view is not known left out"] += 1
                continue
            file = next((there[image + suffix] for suffix in _SUFFIXES if image + suffix in there), None)
            if file is None:
                problems.append(RowProblem(number, f"{report.name}: an image file does not exist"))
                continue
            counts[f"images with report from {text.section if text else 'none'}"] += 1
            rows.append(Row(number, file, text.text if text else None, labels, "", report.uid))
    notes = [f"{count} {what}" for what, count in counts.items() if count]
    return Imported(rows, OPENI_FINDINGS, problems, notes)


def _report(name: str, data: bytes, fromstring: Any) -> OpeniReport:
    from defusedxml import DefusedXmlException

    if len(data) > _MAX_REPORT:
        raise BadRowError(f"longer than {_MAX_REPORT} bytes")
    try:
        root = fromstring(data, forbid_dtd=True)
    # ParseError is a SyntaxError; an unknown encoding raises LookupError or ValueError.
    except (SyntaxError, LookupError, ValueError, DefusedXmlException):
        raise BadRowError("not XML, or XML with declarations that are not allowed") from None
    sections: dict[str, str] = {}
    for element in root.iter("AbstractText"):
        text = without_xs("".join(element.itertext()))
        if text:
            sections[element.get("Label", "").lower()] = text
    uid = root.find("uId")
    identifier = uid.get("id", "") if uid is not None else ""
    if root.tag != "eCitation" or not identifier:
        raise BadRowError("not an Open-i report")
    terms = tuple(term for element in root.iter("major") if (term := "".join(element.itertext()).strip()))
    images = tuple(element.get("id", "") for element in root.iter("parentImage"))
    if not all(re.fullmatch(r"[\w.-]+", image) for image in images):
        raise BadRowError("the identifier of an image is not a file name")
    return OpeniReport(name, identifier, sections, terms, images)


def _xml_files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for file in sorted(source.rglob("*.xml")):
            with file.open("rb") as stream:
                yield file.name, stream.read(_MAX_REPORT + 1)
        return
    check_regular(source)
    try:
        with tarfile.open(source, "r|*") as archive:
            for member in archive:
                stream_of = archive.extractfile(member) if member.isfile() and member.name.endswith(".xml") else None
                if stream_of is not None:
                    yield member.name.rpartition("/")[2], stream_of.read(_MAX_REPORT + 1)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise UsageError(f"{source} cannot be read", why="it is damaged or not a tar archive") from error


def _views(table: Path) -> dict[str, str]:
    views: dict[str, str] = {}
    for _, cells in table_rows(table, ()):
        name = cells.get("imageid") or cells.get("filename") or ""
        views[_image_key(name)] = (cells.get("View Position") or cells.get("projection") or "").strip()
    if not any(views.values()):
        raise UsageError(
            f"{table} has no views",
            why="it has neither 'imageid' and 'View Position' nor 'filename' and 'projection'",
        )
    return views


def _image_key(name: str) -> str:
    """``1_IM-0001-3001`` in ``CXR1_1_IM-0001-3001``, ``CXR1_IM-0001-3001`` and ``1_IM-0001-3001.dcm.png``."""
    found = re.search(r"(\d+)_(IM-[\d-]+)", name)
    return f"{found[1]}_{found[2]}" if found else name
