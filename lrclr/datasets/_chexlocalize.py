"""CheXlocalize's ground-truth segmentations. Written from its documentation; not run on a real copy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from lrclr._files import replace_directory
from lrclr.datasets._cells import BadRowError
from lrclr.datasets._chexpert import chexpert_places
from lrclr.datasets._dataset import SKIP, raise_bad_rows
from lrclr.datasets._imported import Imported, first_file, require_folder
from lrclr.datasets._lines import check_regular
from lrclr.datasets._rle import decode_rle
from lrclr.datasets._rows import ABSENT, PRESENT, Row, RowProblem
from lrclr.errors import UsageError

_MAX_BYTES: Final = 2**30
_KEY: Final = re.compile(r"(patient\d+)_(study\d+)_(view\d+_(?:frontal|lateral))")
_SPLITS: Final = {"val": ("validation", ("valid", "val")), "test": ("test", ("test",))}
# CheXlocalize's names that differ from CheXpert's.
_RENAMED: Final = {"Airspace Opacity": "Lung Opacity"}


@contextmanager
def import_chexlocalize(
    sources: Sequence[Path],
    images: Path,
    masks: Path,
    *,
    all_views: bool = False,
    overwrite: bool = False,
    skip_bad_rows: bool = False,
) -> Iterator[Imported]:
    """Rows of CheXlocalize: one an image, with a mask for each finding. A finding with an empty mask is absent.

    The folder of masks appears when the block ends without an error, so that it does not appear without the dataset
    that is written in the block.

    Args:
        sources: ``gt_segmentations_val.json`` or ``gt_segmentations_test.json``; the name gives the split.
        images: CheXpert's images in full size: the folder ``CheXpert-v1.0`` or ``CheXpert``, or the one above it.
        masks: folder to write the masks to, as PNG; written whole or not at all.
        all_views: include lateral images.
        overwrite: whether an existing folder of masks may be replaced.
        skip_bad_rows: leave out bad rows; otherwise they are an error, and no masks are written.

    Raises:
        UsageError: a source cannot be read or is not a segmentation, or `masks` must not be written.
        LrclrError: a row cannot be used and `skip_bad_rows` is False; or the disk is full or not writable.
    """
    require_folder(images)
    rows: list[Row] = []
    problems: list[RowProblem] = []
    laterals = 0
    findings: dict[str, None] = {}
    contents = [(source, *_split(source), _read(source)) for source in sources]
    folder = Path(masks)
    expected = {key for *_, content in contents for key in content}
    with replace_directory(folder, expected=expected, overwrite=overwrite) as staging:
        for source, split, places, content in contents:
            for number, (key, entries) in enumerate(content.items(), start=1):
                match = _KEY.fullmatch(key)
                if match and "lateral" in key and not all_views:
                    laterals += 1
                    continue
                try:
                    if match is None or not isinstance(entries, dict):
                        raise BadRowError("its key is not patient_study_view, or its value is not an object")
                    file = _image(images, places, match)
                    kept, labels = _write_masks(entries, _size(file), staging / key)
                except BadRowError as error:
                    problems.append(RowProblem(number, f"{source.name}: {error}"))
                    continue
                findings.update(dict.fromkeys(labels))
                located = {name: (folder / key / mask, None) for name, mask in kept.items()}
                rows.append(Row(number, file, None, labels, split, match[1], masks=located))
        if not skip_bad_rows:
            raise_bad_rows(", ".join(str(source) for source in sources), problems, len(rows), fix=SKIP)
        notes = [f"{laterals} lateral images left out"] if laterals else []
        yield Imported(rows, tuple(findings), problems, notes)


def _read(source: Path) -> dict[str, Any]:
    check_regular(source)
    if source.stat().st_size > _MAX_BYTES:
        raise UsageError(f"{source} is longer than {_MAX_BYTES} bytes")
    try:
        content = json.loads(source.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source} is not JSON") from error
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{source} holds no segmentations", why="it is not an object of images")
    return content


def _split(source: Path) -> tuple[str, tuple[str, ...]]:
    for word, split in _SPLITS.items():
        if word in source.stem.lower():
            return split
    raise UsageError(f"the name of {source} gives no split", fix="The published name contains 'val' or 'test'.")


def _image(images: Path, places: Sequence[str], match: re.Match[str]) -> Path:
    names = [f"{place}/{match[1]}/{match[2]}/{match[3]}.jpg" for place in places]
    file = first_file(path for name in names for path in chexpert_places(name, images))
    if file is None:
        raise BadRowError("its image file does not exist")
    return file


def _size(file: Path) -> tuple[int, int]:
    try:
        with Image.open(file) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise BadRowError("its image cannot be read") from None


def _write_masks(
    entries: dict[str, object], size: tuple[int, int], folder: Path
) -> tuple[dict[str, str], dict[str, int]]:
    """Write the masks that are not empty; returns file names by finding, and the labels."""
    decoded: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}
    labels: dict[str, int] = {}
    for published, entry in entries.items():
        name = _RENAMED.get(published, published)
        if not re.fullmatch(r"[A-Za-z][A-Za-z ]{1,60}", name):
            raise BadRowError("the name of a finding is not made of letters")
        mask = decode_rle(entry)
        if mask.shape != size:
            raise BadRowError("a mask has another size than its image; full-size CheXpert is needed")
        labels[name] = PRESENT if mask.any() else ABSENT
        if labels[name] == PRESENT:
            decoded[name] = mask
    folder.mkdir()
    files = {name: f"{name.replace(' ', '_')}.png" for name in decoded}
    for name, mask in decoded.items():
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(folder / files[name], optimize=False)
    return files, labels
