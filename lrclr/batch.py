"""Many image files through one classifier: decoding overlaps computing, and a bad file stops nobody else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lrclr._ahead import batches_ahead
from lrclr.errors import LrclrError, UsageError
from lrclr.images import ReadLimits, read_image, read_reduced
from lrclr.images._read import read_whole
from lrclr.preprocess import preprocess

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.classifier import ZeroShotClassifier
    from lrclr.findings import FindingSet
    from lrclr.results import Prediction

__all__ = ["SUFFIXES", "FileResult", "find_images", "predict_files"]

HEATMAP_SUFFIX = ".heatmap.png"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom"})


@dataclass(frozen=True)
class FileResult:
    """A file's answer, or why there is none.

    Attributes:
        path: as it was given.
        prediction: the answer, if there is one.
        error: what was wrong with the file, if anything was.
        image: the image in full, ``[H, W]`` or ``[H, W, 3]``, if there is an answer and it was asked for.
        heatmap: a PNG file, if a server was asked for one.
    """

    path: Path
    prediction: Prediction | None = None
    error: LrclrError | None = None
    image: NDArray[np.uint8] | None = None
    heatmap: bytes | None = None


@dataclass(frozen=True)
class _Decoded:
    pixel_values: NDArray[np.float32]
    size: tuple[int, int]
    image: NDArray[np.uint8] | None
    remarks: tuple[str, ...]


def find_images(paths: Iterable[Path]) -> list[Path]:
    """Files as they are, folders as the images below them: by suffix, or without one as DICOM often is; sorted.

    Of a folder, heat maps that `lrclr predict` wrote there are left out: they are no radiographs.

    Raises:
        UsageError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UsageError(f"there is no file or folder {path}")
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in (*SUFFIXES, "")
                and not file.name.startswith(".")
                and not file.name.endswith(HEATMAP_SUFFIX)
                and file.is_file()
            )
            if not inside:
                raise UsageError(f"there is no image in {path}", why=f"looked for {', '.join(sorted(SUFFIXES))}")
            found += inside
        else:
            found.append(path)
    return found


def predict_files(  # noqa: PLR0913
    classifier: ZeroShotClassifier,
    paths: Sequence[Path],
    *,
    findings: FindingSet | None = None,
    alpha: float | None = None,
    batch_size: int = 8,
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
        exact: read every file in full, as `read_image` does, and not as `read_reduced`, which decodes JPEG 2000 several
            times faster and moves what the encoder sees by half a grey level on average at most.
        images: put each image into its result, in full: what a heat map is drawn on. It takes a second reading, and
            changes no answer.

    Yields:
        One result a file. A file that cannot be read has its error in the result and takes no other down.
    """
    spec = classifier.spec.preprocess
    bounds = limits or ReadLimits()

    def decode(path: Path) -> _Decoded:
        if exact:
            read = read_whole(path, frame=frame, limits=bounds)
        else:
            read = read_reduced(path, spec, frame=frame, limits=bounds)
        full = read_image(path, frame=frame, limits=bounds) if images else None
        return _Decoded(preprocess(read, spec), (read.height, read.width), full, read.remarks)

    for batch in batches_ahead(paths, decode, batch_size=batch_size, workers=workers):
        yield from _answer(classifier, batch, findings, alpha)


def _answer(
    classifier: ZeroShotClassifier,
    batch: Sequence[tuple[Path, _Decoded | LrclrError]],
    findings: FindingSet | None,
    alpha: float | None,
) -> Iterator[FileResult]:
    results: dict[int, FileResult] = {}
    decoded: dict[int, _Decoded] = {}
    for position, (path, outcome) in enumerate(batch):
        if isinstance(outcome, LrclrError):
            results[position] = FileResult(path, error=outcome)
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
            results[position] = FileResult(batch[position][0], answer, image=one.image)
    yield from (results[position] for position in range(len(batch)))
