"""Random scores with a known AUROC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.stats import norm

from lrclr.evaluation import Scores
from lrclr.evaluation._scores import ModelAnswers
from lrclr.inference import Answers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Sample = tuple[NDArray[np.int8], Floats, NDArray[np.int64]]

__all__ = ["binormal", "equal_models", "patients_of"]

_INFO: Final[dict[str, Any]] = {
    "exact": False,
    "kind": "checkpoint", "sha256": "", "checkpoint_sha256": "", "precision": "fp32", "engine": "none",
    "fusion_trained": False, "alpha": 0.0, "score_scale": 1.0, "patch_size": 16, "preprocess": {},
}  # fmt: skip


def patients_of(images: int, each: int) -> NDArray[np.int64]:
    """Number of the patient of each image; every patient has `each` images, the last one the rest."""
    return np.arange(images) // each


def binormal(  # noqa: PLR0913 - one parameter for each property of the data
    draw: np.random.Generator,
    area: float,
    positives: int,
    negatives: int,
    *,
    each: int = 1,
    correlation: float = 0.0,
    spread: float = 1.0,
    mixed: bool = False,
) -> Sample:
    """Label, score and patient of each image; scores are normal in both classes.

    Args:
        draw: random generator.
        area: the true AUROC.
        positives, negatives: images of each class.
        each: images of a patient.
        correlation: correlation of the scores of one patient's images.
        spread: standard deviation of the positives' scores; that of the negatives' is 1.
        mixed: whether patients with positive images have negative ones too.
    """
    label = np.repeat(np.array([1, 0], np.int8), [positives, negatives])
    group = patients_of(positives + negatives, each)
    if mixed:
        group[positives:] = patients_of(negatives, each)
    elif each > 1:
        group[positives:] = patients_of(negatives, each) + group[positives - 1] + 1
    patient = draw.normal(size=int(group.max()) + 1)[group]
    noise = np.sqrt(correlation) * patient + np.sqrt(1.0 - correlation) * draw.normal(size=len(label))
    shift = norm.ppf(area) * np.sqrt(1.0 + spread**2)
    return label, np.where(label == 1, shift + spread * noise, noise), group


def equal_models(
    draw: np.random.Generator, *, findings: int = 14, images: int = 600, each: int = 2, shared: float = 0.6
) -> tuple[Scores, Scores]:
    """Two models with the same AUROC for every finding, and correlated scores.

    Args:
        draw: random generator.
        findings: number of findings; the rarest has 5 positive images, the commonest a third.
        images: number of images.
        each: images of a patient.
        shared: correlation of the two models' scores.
    """
    group = patients_of(images, each)
    positives = np.geomspace(5, images // 3, findings).round().astype(int)
    areas = np.linspace(0.7, 0.97, findings)
    labels = np.zeros((images, findings), np.int8)
    for f, count in enumerate(positives):
        labels[draw.permutation(images)[:count], f] = 1
    signal = labels * norm.ppf(areas) * np.sqrt(2.0)
    common = draw.normal(size=signal.shape)
    own = [np.sqrt(1.0 - shared) * draw.normal(size=signal.shape) for _ in range(2)]
    one, other = (_scores(labels, signal + np.sqrt(shared) * common + noise, group) for noise in own)
    return one, other


def _scores(labels: NDArray[np.int8], gap: Floats, group: NDArray[np.int64]) -> Scores:
    images, findings = labels.shape
    zero = np.zeros_like(gap)
    nothing = np.zeros((images, 1), np.int64)
    answers = Answers(zero, gap, zero, zero, zero, zero[..., None], nothing, nothing)  # type: ignore[arg-type]
    return Scores(
        findings=tuple(f"finding {f}" for f in range(findings)),
        line=np.arange(images),
        image=np.arange(images).astype(str),
        group=group,
        labels=labels,
        sizes=np.ones((images, 2), np.int64),
        failures=(),
        models=(ModelAnswers(_INFO, answers),),
        alpha=0.0,
        calibration=np.tile([1.0, 0.0], (findings, 1)),
    )
