"""Many image files through one classifier. Decoding and computing overlap; a bad file does not affect the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lrclr.errors import LrclrError
from lrclr.images import ReadLimits, read_image
from lrclr.inference._decoding import BATCH_SIZE, DecodedImage, decoded_batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.inference._classifier import ZeroShotClassifier
    from lrclr.inference._results import Prediction
    from lrclr.text import FindingSet

__all__ = ["FileResult", "predict_files"]


@dataclass(frozen=True)
class FileResult:
    """A file's answer, or why there is none.

    Attributes:
        path: as it was given.
        prediction: the answer, if there is one.
        error: what was wrong with the file, if anything was.
        image: the image in full, ``[H, W]`` or ``[H, W, 3]``, if there is an answer and it was asked for.
        heatmap: a PNG file, if a server was asked for one.
        exact: whether the file was to be read in full; see `lrclr.images.read_for_model`.
    """

    path: Path
    prediction: Prediction | None = None
    error: LrclrError | None = None
    image: NDArray[np.uint8] | None = None
    heatmap: bytes | None = None
    exact: bool = False


def predict_files(  # noqa: PLR0913
    classifier: ZeroShotClassifier,
    paths: Sequence[Path],
    *,
    findings: FindingSet | None = None,
    alpha: float | None = None,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    frame: int | None = None,
    limits: ReadLimits | None = None,
    exact: bool = False,
    images: bool = False,
) -> Iterator[FileResult]:
    """Answer for files, in order, as the answers come.

    Memory does not grow with their number.

    Args:
        classifier: what answers.
        paths: image files.
        findings: what to ask for; the bundle's own if not given.
        alpha: weight of the local score, instead of the bundle's.
        batch_size: images that the image encoder sees at once.
        workers: threads that decode; ``None`` for one a core. At most two batches wait decoded.
        frame: which frame to read of files that hold several.
        limits: on what is read.
        exact: read every file in full; see `lrclr.images.read_for_model`.
        images: put each image into its result, in full: what a heat map is drawn on. It takes a second reading, one
            image at a time, and changes no answer.

    Yields:
        One result a file. A file that cannot be read has its error in the result and takes no other down.
    """
    bounds = limits or ReadLimits()
    batches = decoded_batches(
        paths,
        classifier.spec.preprocess,
        batch_size=batch_size,
        workers=workers,
        frame=frame,
        limits=bounds,
        exact=exact,
    )
    for batch in batches:
        for result in _answer(classifier, batch, findings, alpha, exact=exact):
            yield _with_image(result, frame, bounds) if images else result


def _with_image(result: FileResult, frame: int | None, limits: ReadLimits) -> FileResult:
    # Read now and not when it was decoded: full pictures of all files that wait would take memory without bound.
    if result.prediction is None:
        return result
    try:
        return replace(result, image=read_image(result.path, frame=frame, limits=limits))
    except LrclrError as error:
        return replace(result, prediction=None, error=error)


def _answer(
    classifier: ZeroShotClassifier,
    batch: Sequence[tuple[Path, DecodedImage | LrclrError]],
    findings: FindingSet | None,
    alpha: float | None,
    *,
    exact: bool,
) -> Iterator[FileResult]:
    results: dict[int, FileResult] = {}
    decoded: dict[int, DecodedImage] = {}
    for position, (path, outcome) in enumerate(batch):
        if isinstance(outcome, LrclrError):
            results[position] = FileResult(path, error=outcome, exact=exact)
        else:
            decoded[position] = outcome
    if decoded:
        predictions = classifier.predict_pixels(
            np.stack([one.pixel_values for one in decoded.values()]),
            [one.size for one in decoded.values()],
            findings,
            alpha,
        )
        for (position, one), prediction in zip(decoded.items(), predictions, strict=True):
            answer = replace(prediction, remarks=one.remarks)
            results[position] = FileResult(batch[position][0], answer, exact=exact)
    yield from (results[position] for position in range(len(batch)))
