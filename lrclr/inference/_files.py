"""Prediction for many image files. Decoding and computing overlap; a bad file does not affect the other files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lrclr.errors import ImageError, LrclrError
from lrclr.images import ReadLimits, read_image
from lrclr.inference._decoding import BATCH_SIZE, DecodedImage, decoded_batches
from lrclr.input_checks import check_refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.inference._classifier import ZeroShotClassifier
    from lrclr.inference._results import Prediction
    from lrclr.text import FindingSet


@dataclass(frozen=True)
class FileResult:
    """The prediction for a file, or the error that it gave.

    Attributes:
        path: path of the file, as given by the caller.
        prediction: None if there is an error.
        error: None if there is a prediction.
        image: the image in full, uint8 ``[H, W]`` or ``[H, W, 3]``, if the caller wants it and there is a prediction.
        heatmap: a PNG file drawn by a server, if the caller wants it.
        exact: whether every pixel was decoded; see `lrclr.images.read_for_model`.
    """

    path: Path
    prediction: Prediction | None = None
    error: LrclrError | None = None
    image: NDArray[np.uint8] | None = None
    heatmap: bytes | None = None
    exact: bool = False

    def unless_refused(self, refused: Collection[str]) -> FileResult:
        """This result; if the prediction has one of these warnings, an error instead of the prediction.

        Args:
            refused: codes of `lrclr.input_checks`.
        """
        try:
            check_refused(self.prediction.warnings if self.prediction is not None else (), refused)
        except ImageError as error:
            return FileResult(self.path, error=error, exact=self.exact)
        return self


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
    """Predict the findings of files. Results are yielded in order, as soon as they are ready.

    Memory does not grow with the number of files.

    Args:
        classifier: the model.
        paths: image files.
        findings: what to predict; the model's own findings if not given.
        alpha: weight of the local score in [0, 1], instead of the model's.
        batch_size: images that the image encoder takes at once.
        workers: threads that decode; None for one per core. At most two batches wait.
        frame: which frame to read of files with several frames.
        limits: on the size of files and images.
        exact: decode every pixel; see `lrclr.images.read_for_model`.
        images: put each image into its result, in full, to draw a heat map on. Each file is then read a second time,
            one at a time. Predictions do not change.

    Yields:
        One result for each file. A file that cannot be read has its error in the result.
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
    # Read here and not in the decoding threads: the full images of all waiting files could take too much memory.
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
            answer = replace(prediction, remarks=one.remarks, warnings=one.warnings)
            results[position] = FileResult(batch[position][0], answer, exact=exact)
    yield from (results[position] for position in range(len(batch)))
