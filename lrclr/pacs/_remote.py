"""Images of a DICOMweb server as a source of `lrclr.archive.score`."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lrclr.archive import Item, Source
from lrclr.dicom_results import MANUFACTURER
from lrclr.errors import ImageError, ServerError

# Private: parsing of files that may be hostile has no public name.
from lrclr.images._dicom import inflated, looks_like_dicom
from lrclr.images._guard import attempt
from lrclr.pacs._web import is_uid, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.images import ReadLimits
    from lrclr.pacs._query import Parameters, Query
    from lrclr.pacs._web import DicomwebClient

# Images of one frame that may be radiographs.
IMAGE_CLASSES: Final = {
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography",
    "1.2.840.10008.5.1.4.1.1.1.1": "Digital X-Ray, for presentation",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "Digital X-Ray, for processing",
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture",
}
_STUDY, _SERIES, _INSTANCE, _CLASS = "0020000D", "0020000E", "00080018", "00080016"
_MODALITY, _MANUFACTURER, _DESCRIPTION = "00080060", "00080070", "0008103E"
# Searches at once.
_SEARCHES: Final = 4


@dataclass(frozen=True)
class WebImages:
    """Reads images by names of the form ``study/series/instance``, which are UIDs.

    Attributes:
        client: of the server.
    """

    client: DicomwebClient

    def read(self, name: str) -> bytes:
        """The DICOM file.

        Raises:
            ServerError: the server sends something else. See also `DicomwebClient.retrieve`.
        """
        study, series, instance = name.split("/")
        content = self.client.retrieve(study, series, instance)
        if not looks_like_dicom(content):
            raise ServerError("the image cannot be retrieved", why="the server's answer is not a DICOM file")
        if _instance_of(content, self.client.options.limits) not in {instance, None}:
            raise ServerError("the image cannot be retrieved", why="the server sent another one")
        return content


def _instance_of(content: bytes, limits: ReadLimits) -> str | None:
    """SOP instance UID of a DICOM file; None if it cannot be read, which is found out when the image is decoded."""
    from pydicom import dcmread

    def step() -> str | None:
        stream = BytesIO(inflated(content, limits))
        uid = dcmread(stream, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID")
        return None if uid is None else str(uid)

    try:
        return attempt(step, failure="its header cannot be read")
    except ImageError:
        return None


def find_web_images(client: DicomwebClient, query: Query) -> Source:
    """Search a server for images. Results that lrclr itself made are left out, and are counted in `passed_over`.

    The search goes from studies to series to instances, which every server of DICOMweb can do.

    Raises:
        ServerError: the server refuses, or did not answer.
    """
    passed_over: Counter[str] = Counter()
    studies = {_uid(each, _STUDY): None for keys in query.studies() for each in client.search("/studies", keys)}
    names: set[str] = set()

    def below(study: str) -> tuple[list[str], Counter[str]]:
        passed: Counter[str] = Counter()
        found = [
            f"{study}/{series}/{instance}"
            for series in _series(client, query, study, passed)
            for instance in _instances(client, query, f"/studies/{study}/series/{series}/instances", passed)
        ]
        return found, passed

    with ThreadPoolExecutor(_SEARCHES, thread_name_prefix="lrclr-search") as pool:
        for found, passed in pool.map(below, studies):
            names.update(found)
            passed_over += passed
    items = tuple(Item(name, None) for name in sorted(names))
    return Source(Path(), items, passed_over=passed_over, remote=WebImages(client))


def _series(client: DicomwebClient, query: Query, study: str, passed: Counter[str]) -> Iterator[str]:
    seen = set()
    for keys in query.series():
        for each in client.search(f"/studies/{study}/series", [*keys, *_fields("Manufacturer", "SeriesDescription")]):
            uid = _uid(each, _SERIES)
            # A server may ignore a key that it does not know (PS3.18, section 8.3.4.1).
            if uid in seen or value_of(each, _MODALITY) not in {dict(keys)["Modality"], None}:
                continue
            seen.add(uid)
            description = str(value_of(each, _DESCRIPTION) or "")
            if value_of(each, _MANUFACTURER) == MANUFACTURER and description.startswith("lrclr "):
                passed["heatmap"] += 1
            else:
                yield uid


def _instances(client: DicomwebClient, query: Query, path: str, passed: Counter[str]) -> Iterator[str]:
    seen = set()
    for keys in query.instances():
        for each in client.search(path, [*keys, *_fields("SOPClassUID")]):
            uid = _uid(each, _INSTANCE)
            if uid in seen:
                continue
            seen.add(uid)
            if value_of(each, _CLASS) in {*IMAGE_CLASSES, None}:
                yield uid
            else:
                passed["other"] += 1


def _fields(*keywords: str) -> Parameters:
    return [("includefield", keyword) for keyword in keywords]


def _uid(answer: dict[str, Any], tag: str) -> str:
    value = value_of(answer, tag)
    if not is_uid(value):
        raise ServerError("the server's answer to a search lacks a UID")
    return str(value)
