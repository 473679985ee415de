"""Measures the time that decoding takes: ``python -m benchmarks.decoding BUNDLE [-o FOLDER]``.

The ways to read a file take turns, and ratios are taken round by round. `BUNDLE` answers for the images; ``lrclr export
default`` makes one. The machine should be idle otherwise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.decoding.files import FORMATS, make_files
from benchmarks.decoding.folder import memory, throughput
from benchmarks.decoding.reading import WAYS, exact, fast
from benchmarks.measure import alone, environment, interleaved, page
from lrclr import ZeroShotClassifier
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


_PARTS = ("formats", "probabilities", "folder")
_GOALS = {"png": 2.5, "png 16 bit": 2.5, "jpeg": 2.5, "jpeg colour": 2.5, "dicom raw": 3, "dicom rle": 5}
_GOALS |= {"dicom jpeg 2000": 10}  # times as fast as the baseline


def formats(
    files: dict[str, list[Path]], spec: PreprocessSpec, *, rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """For each format: times, ratios, and the difference of the fast from the exact way in grey levels."""
    results: dict[str, Any] = {}
    for name, paths in files.items():
        path = paths[0]
        ways = {way: partial(read, path, spec) for way, read in WAYS.items()}
        timings = interleaved(ways, rounds=rounds, warmup=1, clock=clock)
        differences = [_levels(spec, exact(one, spec), fast(one, spec)) for one in paths]
        results[name] = {
            "bytes": path.stat().st_size,
            "median_ms": {way: round(timings.median_ms(way), 2) for way in WAYS},
            "fast_over_baseline": [round(one, 3) for one in timings.ratio("baseline", "fast")],
            "fast_over_exact": [round(one, 3) for one in timings.ratio("exact", "fast")],
            "largest_difference": round(max(float(one.max()) for one in differences), 2),
            "mean_difference": round(max(float(one.mean()) for one in differences), 3),
            "seconds": timings.to_dict(),
        }
    return results


def probabilities(files: dict[str, list[Path]], classifier: ZeroShotClassifier) -> dict[str, float]:
    """The largest difference of any finding's probability, fast against exact, by format."""
    spec = classifier.spec.preprocess
    largest = {}
    for name, paths in files.items():
        ways = [np.stack([read(path, spec) for path in paths]) for read in (exact, fast)]
        whole, reduced = (classifier.answer_pixels(pixels).probability for pixels in ways)
        largest[name] = float(np.abs(whole - reduced).max())
    return largest


def _levels(spec: PreprocessSpec, one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    unit = np.array(spec.std, np.float32).reshape(3, 1, 1) * (255 if spec.kind == "clip" else 1)
    return np.asarray(np.abs(one - other) * unit, np.float32)


def main() -> None:
    """Measure, and write JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="bundle that answers for the images")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/decoding"), help="folder")
    parser.add_argument("--rounds", type=int, default=11, help="rounds of turns")
    parser.add_argument("--samples", type=int, default=4, help="pictures in each format")
    parser.add_argument("--parts", nargs="+", choices=[*_PARTS, "memory"], default=_PARTS, help="parts to measure")
    parser.add_argument(
        "--only", nargs="+", choices=FORMATS, default=FORMATS, help="formats; others keep their results"
    )
    parser.add_argument("--files", type=int, default=10_000, help="number of files in the part memory")
    parser.add_argument("--processor-time", action="store_true", help="measure processor time, for a busy machine")
    parser.add_argument("--work", type=Path, help="folder of the files, which are made once")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    clock = time.process_time if given.processor_time else time.perf_counter
    machine = {**environment(), "isal": find_spec("isal") is not None, "clock": clock.__name__}
    with alone(), tempfile.TemporaryDirectory() as temporary:
        folder = given.work or Path(temporary)
        if "memory" in given.parts:
            small = make_files(Path(temporary), 4, (250, 205))
            _update(given.output / "memory.json", machine, memory=memory(given.bundle, small, count=given.files))
        if "folder" in given.parts:
            files = make_files(folder, given.samples)
            _update(given.output / "folder.json", machine, folder=throughput(given.bundle, files, rounds=given.rounds))
        if {"formats", "probabilities"} & set(given.parts):
            files = {name: paths for name, paths in make_files(folder, given.samples).items() if name in given.only}
        if "formats" in given.parts:
            for recipe, rounds in ((PreprocessSpec.clip(224), given.rounds), (PreprocessSpec.chexzero(224), 3)):
                measured = formats(files, recipe, rounds=rounds, clock=clock)
                # Written after each step, so that an interrupted run keeps its finished steps.
                _update(given.output / "formats.json", machine, **{f"{recipe.kind}_224": measured})
        if "probabilities" in given.parts:
            classifier = ZeroShotClassifier.from_bundle(given.bundle, threads=2)
            largest = probabilities(files, classifier)
            _update(given.output / "formats.json", machine, largest_difference_of_a_probability=largest)
    parts = {name: _read(given.output / f"{name}.json") for name in ("formats", "folder", "memory")}
    (given.output / "table.md").write_text(page("decoding.md", goals=_GOALS, **parts), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """The content of a file of results; empty if there is none."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content


def _update(path: Path, machine: dict[str, Any], **parts: dict[str, Any]) -> None:
    """Put parts into a file of results; the results of other formats stay."""
    content = {**_read(path), "environment": machine}
    for name, part in parts.items():
        content[name] = {**content.get(name, {}), **part}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
