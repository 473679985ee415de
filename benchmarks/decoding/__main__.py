"""What decoding costs: ``python -m benchmarks.decoding BUNDLE [-o FOLDER]``.

The ways to read a file take turns, and ratios are taken round by round. `BUNDLE` is what answers: ``lrclr export
default`` makes one. For numbers that mean something, nothing else may run.
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
from benchmarks.decoding.report import write_report
from benchmarks.measure import environment, interleaved
from lrclr import ZeroShotClassifier
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


_PARTS = ("formats", "probabilities", "folder")


def formats(
    files: dict[str, list[Path]], spec: PreprocessSpec, *, rounds: int, clock: Callable[[], float]
) -> dict[str, Any]:
    """For each format: times, ratios, and by how many grey levels the fast way differs from the exact one."""
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
    parser.add_argument("bundle", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/decoding"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--parts", nargs="+", choices=[*_PARTS, "memory"], default=_PARTS)
    parser.add_argument("--only", nargs="+", choices=FORMATS, default=FORMATS, help="formats; the others are kept")
    parser.add_argument("--files", type=int, default=10_000, help="of the part memory")
    parser.add_argument("--processor-time", action="store_true", help="of the formats: on a machine that is not idle")
    parser.add_argument("--work", type=Path, help="a folder to make the files in, and to find them in again")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    clock = time.process_time if given.processor_time else time.perf_counter
    machine = {**environment(), "isal": find_spec("isal") is not None, "clock": clock.__name__}
    with tempfile.TemporaryDirectory() as temporary:
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
                # Written after each step: a run that is cut off leaves what it has.
                _update(given.output / "formats.json", machine, **{f"{recipe.kind}_224": measured})
        if "probabilities" in given.parts:
            classifier = ZeroShotClassifier.from_bundle(given.bundle, threads=2)
            largest = probabilities(files, classifier)
            _update(given.output / "formats.json", machine, largest_difference_of_a_probability=largest)
    write_report(given.output)


def _update(path: Path, machine: dict[str, Any], **parts: dict[str, Any]) -> None:
    """Put parts into a file of results, beside what is there of other formats."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    content["environment"] = machine
    for name, part in parts.items():
        content[name] = {**content.get(name, {}), **part}
    _write(path, content)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
