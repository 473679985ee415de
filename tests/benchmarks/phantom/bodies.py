"""A synthetic body, the CT that it would come from, and helpers for the tests of the phantom data set."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np

from benchmarks.phantom import ct

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE, SPACING = (80, 60, 90), 4.0
NUMBERS = {name: number for number, name in enumerate([*ct.LUNGS["left"], *ct.LUNGS["right"], "heart"], start=10)}
_SOFT_HU, _LUNG_HU = 40, -840

WORDS = {
    "Pleural Effusion": "pleural effusion|pleural fluid",
    "Consolidation": "consolidat",
    "Atelectasis": "atelecta|collapse",
    "Cardiomegaly": "cardiomegaly|enlarge",
    "Pneumothorax": "pneumothorax",
    "Lung Lesion": "nodul|lesion",
    "Edema": "edema",
}
_NEGATED = re.compile(r"^(No |There is no |Without |Negative )")


def ellipsoid(centre: tuple[int, int, int], radii: tuple[int, int, int]) -> NDArray[np.bool_]:
    grid = np.ogrid[tuple(slice(n) for n in SHAPE)]
    return np.asarray(sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1)


def hounsfield_units_and_labels() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Hounsfield units and labels of two lungs and a heart. Axes: head to foot, front to back, right to left."""
    hu, labels = np.full(SHAPE, -1000, np.float32), np.zeros(SHAPE, np.uint8)
    hu[:, 5:55, 5:85] = _SOFT_HU
    down = np.arange(SHAPE[0])[:, None, None]
    for side, column in (("right", 25), ("left", 65)):
        lung = ellipsoid((40, 30, column), (28, 20, 15))
        hu[lung] = _LUNG_HU
        for index, name in enumerate(ct.LUNGS[side]):
            labels[lung & (down >= 10 + index * 20)] = NUMBERS[name]
    heart = ellipsoid((50, 25, 50), (10, 10, 10))
    hu[heart], labels[heart] = _SOFT_HU, NUMBERS["heart"]
    return hu, labels


def made_up_body() -> ct.Phantom:
    hu, labels = hounsfield_units_and_labels()
    return ct.Phantom(ct.attenuation_from_hu(hu), labels, NUMBERS, SPACING)


def write_ct(folder: Path) -> None:
    """Write the same body as files for `ct.load_phantom`. Axes: right, front, head."""
    affine = np.diag([SPACING, SPACING, SPACING, 1.0])
    hu, labels = hounsfield_units_and_labels()
    for name, volume in (("cxr", hu.astype(np.int16)), ("mask", labels)):
        nib.save(nib.Nifti1Image(volume.T[::-1, ::-1, ::-1], affine), folder / f"{name}.nii.gz")
    rows = "".join(f"{name},{number}\n" for name, number in NUMBERS.items())
    (folder / "structures.csv").write_text(f"structure,id\n{rows}", encoding="utf-8")


def stated_findings(report: str) -> tuple[set[str], set[str]]:
    """The findings that a report states as present, and those that it denies."""
    present: set[str] = set()
    denied: set[str] = set()
    for sentence in re.findall(r"[^.]+\.", report):
        named = {name for name, words in WORDS.items() if re.search(words, sentence, re.IGNORECASE)}
        (denied if _NEGATED.match(sentence.strip()) else present).update(named)
    return present, denied


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file of a folder. For a data set, run-dependent measurements are left out."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if "dataset.json" in files:
        facts = json.loads(files["dataset.json"])
        facts.pop("measured")
        files["dataset.json"] = json.dumps(facts).encode()
    return files
