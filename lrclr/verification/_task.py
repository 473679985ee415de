"""The task gate: a bundle must recognise findings as well as its checkpoint.

It uses packaged radiographs of the phantom data set, whose findings are known by construction. A checkpoint that does
not recognise them, such as one with random weights, has no task gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Final

import numpy as np

from lrclr.verification._result import GateResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from lrclr.inference import Prediction, ZeroShotClassifier

LEAST_AUROC: Final = 0.65
"""A checkpoint with a lower mean AUROC does not recognise the findings of these images."""


@dataclass(frozen=True)
class TaskImages:
    """N radiographs and their findings.

    Attributes:
        images: ``[N, H, W]`` uint8.
        labels: ``[N, F]`` bool.
        findings: F names.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.bool_]
    findings: tuple[str, ...]


@cache
def task_images() -> TaskImages:
    """The packaged images."""
    with resources.files("lrclr").joinpath("data", "task.npz").open("rb") as file, np.load(file) as arrays:
        return TaskImages(arrays["images"], arrays["labels"], tuple(arrays["findings"].tolist()))


def auroc(labels: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Area under the ROC curve; a tie counts one half. NaN where a class is absent."""
    positive, negative = np.asarray(scores[labels], np.float64), np.sort(np.asarray(scores[~labels], np.float64))
    if not len(positive) or not len(negative):
        return math.nan
    below, upto = (np.searchsorted(negative, positive, side) for side in ("left", "right"))
    return float((below + upto).sum() / (2 * len(positive) * len(negative)))


def task_auroc(classifier: ZeroShotClassifier) -> float:
    """Mean AUROC over the findings that both the model and the packaged images have; NaN if there are none."""
    return task_auroc_of(classifier.spec.findings.names, classifier.predict)


def task_auroc_of(
    names: Sequence[str], predict: Callable[[Sequence[NDArray[np.uint8]]], Sequence[Prediction]]
) -> float:
    """As `task_auroc`, for any function that predicts findings of these names, in this order."""
    task = task_images()
    known = {name.casefold(): column for column, name in enumerate(task.findings)}
    shared = [(place, known[name.casefold()]) for place, name in enumerate(names) if name.casefold() in known]
    if not shared:
        return math.nan
    predictions = predict(list(task.images))
    probability = np.array([[finding.probability for finding in each.findings] for each in predictions])
    return float(np.mean([auroc(task.labels[:, column], probability[:, place]) for place, column in shared]))


def task_gate(measure: Callable[[], float], reference: float, tolerance: float) -> list[GateResult]:
    """Compare a classifier's AUROC with the checkpoint's; no gate if the checkpoint's is below `LEAST_AUROC`.

    Args:
        measure: returns `task_auroc` of the classifier.
        reference: `task_auroc` of the checkpoint in PyTorch.
        tolerance: the largest difference.
    """
    if not reference >= LEAST_AUROC:
        return []
    value = measure()
    note = f"mean AUROC {value:.4f}, PyTorch's {reference:.4f}, {len(task_images().images)} phantom radiographs"
    return [GateResult("task AUROC difference", "findings", abs(value - reference), tolerance, "max", note)]
