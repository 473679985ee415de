"""`predict_files` on many files: its speed against decoding alone and encoding alone, and its memory."""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil  # type: ignore[import-untyped, unused-ignore]

from benchmarks.decoding.reading import fast
from benchmarks.measure import interleaved
from lrclr import ZeroShotClassifier
from lrclr._prefetch import batches_ahead
from lrclr._processors import processors
from lrclr.inference import predict_files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["memory", "throughput"]

_BATCH, _FILES = 8, 48


def throughput(bundle: Path, files: dict[str, list[Path]], *, rounds: int) -> dict[str, Any]:
    """Speed on a folder of mixed files: decoded alone, encoded alone, and both.

    It is measured with one core for each of the two, and with all cores for both, where they compete for the cores.
    """
    turns = [path for each in zip(*files.values(), strict=True) for path in each]
    mixed = list(itertools.islice(itertools.cycle(turns), _FILES))
    results: dict[str, Any] = {"files": _FILES, "batch": _BATCH}
    for name, cores in (("a core each", 1), ("all cores for both", processors())):
        classifier = ZeroShotClassifier.from_bundle(bundle, threads=cores)
        pixels = np.stack([fast(path, classifier.spec.preprocess) for path in mixed[:_BATCH]])
        candidates: dict[str, Callable[[], None]] = {
            "decode": partial(_decode, mixed, classifier, cores),
            "encode": partial(_encode, pixels, classifier),
            "both": partial(_answer, mixed, classifier, cores),
        }
        timings = interleaved(candidates, rounds=rounds, warmup=1)
        slower = max(("decode", "encode"), key=timings.median_ms)
        results[name] = {
            "images_per_second": {each: round(_FILES * 1e3 / timings.median_ms(each), 1) for each in timings.seconds},
            "slower": slower,
            "share_of_the_slower": [round(one, 3) for one in timings.ratio(slower, "both")],
            "seconds": timings.to_dict(),
        }
    return results


def _decode(paths: list[Path], classifier: ZeroShotClassifier, workers: int) -> None:
    read = partial(fast, spec=classifier.spec.preprocess)
    for batch in batches_ahead(paths, read, batch_size=_BATCH, workers=workers):
        if not all(isinstance(one, np.ndarray) for _, one in batch):
            raise RuntimeError("a file of this benchmark cannot be read")


def _encode(pixels: NDArray[np.float32], classifier: ZeroShotClassifier) -> None:
    for _ in range(_FILES // len(pixels)):
        classifier.answer_pixels(pixels)


def _answer(paths: list[Path], classifier: ZeroShotClassifier, workers: int) -> None:
    for result in predict_files(classifier, paths, batch_size=_BATCH, workers=workers):
        if result.error is not None:
            raise result.error


def memory(bundle: Path, files: dict[str, list[Path]], *, count: int) -> dict[str, Any]:
    """Resident memory while `predict_files` reads `count` files, which are the same few again and again."""
    classifier = ZeroShotClassifier.from_bundle(bundle, threads=1)
    paths = list(itertools.islice(itertools.cycle(path for each in files.values() for path in each), count))
    process, began = psutil.Process(), time.perf_counter()
    resident: dict[int, float] = {}
    for number, result in enumerate(predict_files(classifier, paths, workers=1), start=1):
        if result.error is not None:
            raise result.error
        if number % (count // 20) == 0:
            resident[number] = round(process.memory_info().rss / 2**20, 1)
    return {"files": count, "seconds": round(time.perf_counter() - began, 1), "resident_mib_after": resident}
