"""Makes one radiograph of the phantom data set from its split, seed and number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from scipy import ndimage

from benchmarks.phantom.cases import FINDINGS, Case, draw_case, put_in
from benchmarks.phantom.project import camera_of, project, shadow
from benchmarks.phantom.render import Detector, View, expose
from benchmarks.phantom.reports import write_report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.phantom.ct import Mask, Phantom
    from benchmarks.phantom.project import Camera

__all__ = ["SPLITS", "Picture", "Split", "describe", "make_picture", "streams"]

Split = Literal["train", "validation", "test", "external", "mixed", "mixed-validation"]
SPLITS: tuple[Split, ...] = get_args(Split)

_FIELD_MM = 350.0  # edge of the square field at zoom 1
# A thin film of air in front of a lung and behind it is not visible.
_LEAST_MM = {"Pneumothorax": 20.0}
_LETTERS = {"L": "10000 10000 10000 10000 10000 10000 11111", "R": "11110 10001 10001 11110 10100 10010 10001"}


Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Machine:
    """Ranges from which the geometry and the detector of an image are drawn.

    Attributes:
        turn_deg: largest pitch, yaw and roll of the body.
        tilt_deg: tilt of the tube.
        front: share of images with the source in front of the patient.
        photons: decimal logarithms of `Detector.photons`.
        zoom, distance, scatter, blur_mm, balance, edges, gamma: as in `View` and `Detector`.
    """

    turn_deg: tuple[float, float, float]
    tilt_deg: float
    front: float
    zoom: Range
    distance: Range
    photons: Range
    scatter: Range
    blur_mm: Range
    balance: Range
    edges: Range
    gamma: Range


UPRIGHT = Machine(
    turn_deg=(4, 5, 3),
    tilt_deg=0,
    front=0.3,
    zoom=(0.97, 1.12),
    distance=(1500, 2000),
    photons=(4.5, 6),
    scatter=(0.05, 0.25),
    blur_mm=(0.2, 0.9),
    balance=(0.4, 0.7),
    edges=(0.2, 0.8),
    gamma=(1.0, 1.5),
)
"""Upright machine of the images of the training."""

MOBILE = Machine(
    turn_deg=(7, 6, 5),
    tilt_deg=0,
    front=1,
    zoom=(0.94, 1.08),
    distance=(1000, 1500),
    photons=(4.2, 5.3),
    scatter=(0.15, 0.35),
    blur_mm=(0.4, 1.2),
    balance=(0.5, 0.85),
    edges=(0.1, 0.6),
    gamma=(0.85, 1.3),
)
"""Mobile machine, of which half of the mixed images are."""

EXTERNAL = Machine(
    turn_deg=(7, 7, 5),
    tilt_deg=5,
    front=1,
    zoom=(0.92, 1.0),
    distance=(900, 1200),
    photons=(3.9, 4.7),
    scatter=(0.25, 0.45),
    blur_mm=(0.6, 1.4),
    balance=(0.65, 0.95),
    edges=(0, 0.3),
    gamma=(0.75, 1.0),
)
"""Another mobile machine, of the external images."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A finished image. ``pixels`` and ``mask`` are uint8 of one shape; bit k of the mask is ``FINDINGS[k]``."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    report: str
    case: Case


def streams(seed: int, split: Split, index: int) -> tuple[np.random.Generator, ...]:
    """Independent random generators for case, body, picture and report, different for each image of each split."""
    root = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index))
    return tuple(np.random.default_rng(child) for child in root.spawn(4))


def describe(split: Split, seed: int, index: int) -> tuple[Case, str]:
    """The findings of image ``index`` of a split, and its report, without rendering it."""
    of_case, _, _, of_report = streams(seed, split, index)
    case = draw_case(of_case)
    return case, write_report(case, of_report)


def make_picture(
    phantom: Phantom, split: Split, seed: int, index: int, size: int = 224, *, without: str | None = None
) -> Picture:
    """Draw, render and describe image ``index`` of a split; `without` names a finding that is left out of the body."""
    _, of_body, of_picture, _ = streams(seed, split, index)
    case, report = describe(split, seed, index)
    inside = Case(tuple(item for item in case.items if item.name != without))
    body, regions = put_in(phantom, inside, of_body)
    machine = _machine(of_picture, split)
    far = machine is EXTERNAL
    rows, columns = _frame(of_picture, size) if far else (size, size)
    view = _view(of_picture, (rows, columns), _FIELD_MM / size, machine)
    stretch = tuple(of_picture.uniform(low, high) for low, high in ((0.9, 1.08), (0.85, 1.15), (0.93, 1.07)))
    bend = _bend(of_picture, view)
    factors = (stretch[0], stretch[1], stretch[2])
    camera = camera_of(view, phantom.labels.shape, phantom.spacing, stretch=factors, bend=bend)
    detector = _detector(of_picture, machine)
    grey = expose(project(body.attenuation, camera), view.pixel_mm / view.zoom, detector, of_picture)
    mask = np.zeros(view.size, np.uint8)
    for name, region in regions.items():
        mask |= _seen(name, region, camera).astype(np.uint8) << FINDINGS.index(name)
    if far:
        grey, mask = _as_external(grey, mask, size, of_picture)
    return Picture(np.rint(grey * 255).astype(np.uint8), mask, report, case)


def _seen(name: str, region: Mask, camera: Camera) -> Mask:
    marked = shadow(region, camera, _LEAST_MM.get(name, 2.0))
    # A finding that is too thin for its threshold still has a place.
    return marked if marked.any() else shadow(region, camera, 0.5)


def _machine(rng: np.random.Generator, split: Split) -> Machine:
    if split == "external":
        return EXTERNAL
    return MOBILE if split in {"mixed", "mixed-validation"} and rng.random() < 0.5 else UPRIGHT


def _view(rng: np.random.Generator, size: tuple[int, int], pixel_mm: float, machine: Machine) -> View:
    pitch, yaw, roll = rng.uniform(-1, 1, 3) * machine.turn_deg
    return View(
        size,
        pixel_mm,
        pivot=(rng.uniform(0.455, 0.5), 0.5, rng.uniform(0.49, 0.53)),
        pitch_deg=pitch - machine.tilt_deg,
        yaw_deg=yaw,
        roll_deg=roll,
        zoom=rng.uniform(*machine.zoom),
        distance=rng.uniform(*machine.distance),
        direction="AP" if machine.front == 1 or rng.random() < machine.front else "PA",
    )


def _detector(rng: np.random.Generator, machine: Machine) -> Detector:
    return Detector(
        photons=10 ** rng.uniform(*machine.photons),
        scatter=rng.uniform(*machine.scatter),
        blur_mm=rng.uniform(*machine.blur_mm),
        balance=rng.uniform(*machine.balance),
        edges=rng.uniform(*machine.edges),
        window=(rng.uniform(0.2, 3), rng.uniform(98.5, 99.9)),
        gamma=rng.uniform(*machine.gamma),
    )


def _bend(rng: np.random.Generator, view: View) -> NDArray[np.float32]:
    """Smooth displacements of up to about 8 mm, for other shapes of the chest."""
    knots = rng.uniform(-8, 8, (2, 4, 4))
    at = np.meshgrid(*(np.linspace(0, 3, count) for count in view.size), indexing="ij")
    return np.stack([ndimage.map_coordinates(plane, at, order=3, mode="nearest") for plane in knots]).astype(np.float32)


def _frame(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """Rows and columns of a field that is cropped in one direction."""
    short = round(size * rng.uniform(0.84, 1.0))
    return (short, size) if rng.random() < 0.5 else (size, short)


def _as_external(
    grey: NDArray[np.float32], mask: NDArray[np.uint8], size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Apply another tone curve, a burnt-in side marker, and black bars up to the square."""
    grey = grey + rng.uniform(-0.12, 0.12) * np.sin(2 * np.pi * grey) / 2
    letter = "L" if rng.random() < 0.5 else "R"
    glyph = np.array([[dot == "1" for dot in line] for line in _LETTERS[letter].split()])
    glyph = np.kron(glyph, np.ones((max(1, size // 90),) * 2, bool))
    rows, columns = grey.shape
    top, aside = int(rows * rng.uniform(0.03, 0.1)), int(columns * rng.uniform(0.03, 0.08))
    # The patient's right is on the left of the picture.
    left = aside if letter == "R" else columns - aside - glyph.shape[1]
    part = grey[top : top + glyph.shape[0], left : left + glyph.shape[1]]
    part[glyph[: part.shape[0], : part.shape[1]]] = 1.0
    bars = [((size - count) // 2, size - count - (size - count) // 2) for count in grey.shape]
    return np.clip(np.pad(grey, bars), 0, 1).astype(np.float32), np.pad(mask, bars)
