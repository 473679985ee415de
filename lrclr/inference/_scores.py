"""From scores to probabilities, in NumPy. Every command computes probabilities with these functions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrclr.errors import FindingsError, NonFiniteError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from lrclr.text import FindingSet

Floats = NDArray[np.float32]
_SCALE, _BIAS, _FINDINGS = CALIBRATION_KEYS = ("score_scale", "score_bias", "finding_calibration")
# Not among the keys: it belongs to the network, and no fit replaces it.
_THRESHOLD = "score_threshold"
# Of the softmax over a finding's prompts: CLIP's, before training.
_TEMPERATURE = 0.07


@dataclass(frozen=True)
class ScoreCalibration:
    """From scores to probabilities: the logistic function of ``scale * gap + bias``.

    The gap is the mean score of a finding's positive prompts less that of its negative prompts; of a finding without
    negative prompts less the threshold. A scale of 1 and a bias of 0 are CheXzero's protocol, the softmax over the
    cosines of a pair. The scale of a network's own logits makes it that network's softmax; a threshold besides makes
    the probability of a single prompt that of SigLIP's sigmoid. `lrclr evaluate --store` writes fitted values (Platt
    scaling).

    Attributes:
        scale: above 0.
        bias: added to the scaled gap.
        findings: name to ``(scale, bias)``, for findings with their own values.
        threshold: score at which a single prompt is as likely as not: of SigLIP, ``-logit_bias / exp(logit_scale)``.
            None for a network that cannot judge a prompt alone.

    Raises:
        UsageError: a value is not finite, or a scale is not above 0.
    """

    scale: float = 1.0
    bias: float = 0.0
    findings: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UsageError(f"a threshold of {self.threshold} cannot be used", fix="It must be a number.")
        for scale, bias in ((self.scale, self.bias), *self.findings.values()):
            if not (math.isfinite(scale) and math.isfinite(bias) and scale > 0.0):
                raise UsageError(
                    f"a calibration with scale {scale} and bias {bias} cannot be used",
                    fix="A scale is a number above 0, and a bias a number.",
                )

    @classmethod
    def from_dict(cls, scoring: Mapping[str, Any]) -> ScoreCalibration:
        """The calibration in a bundle's ``scoring`` or a checkpoint's configuration; without a bias, it is 0.

        Raises:
            UsageError: it is not what `to_dict` writes.
        """
        try:
            return cls(
                float(scoring[_SCALE]),
                float(scoring.get(_BIAS) or 0.0),
                {str(name): (float(a), float(b)) for name, (a, b) in (scoring.get(_FINDINGS) or {}).items()},
                None if scoring.get(_THRESHOLD) is None else float(scoring[_THRESHOLD]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                "a calibration cannot be read",
                why=f"{_SCALE} and {_BIAS} must be numbers, and {_FINDINGS} a table of a scale and a bias by finding",
            ) from error

    def refitted(
        self, shared: tuple[float, float] | None, own: Mapping[str, tuple[float, float]], kept: Collection[str] = ()
    ) -> ScoreCalibration:
        """This calibration with fitted scales and biases.

        Args:
            shared: those of findings without their own; None leaves them unchanged.
            own: those of findings, by name.
            kept: findings that keep the values that they have, also where they have the shared ones.
        """
        present = (self.scale, self.bias)
        scale, bias = shared or present
        earlier = {name: self.findings.get(name, present) for name in kept}
        findings = {name: pair for name, pair in earlier.items() if pair != (scale, bias)} | dict(own)
        return ScoreCalibration(scale, bias, findings, self.threshold)

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types. A bias of 0, an empty table of findings and a threshold of None are left out."""
        table: dict[str, Any] = {_SCALE: self.scale}
        if self.bias:
            table[_BIAS] = self.bias
        if self.findings:
            table[_FINDINGS] = {name: list(pair) for name, pair in self.findings.items()}
        if self.threshold is not None:
            table[_THRESHOLD] = self.threshold
        return table

    def of(self, asked: FindingSet, own: FindingSet) -> tuple[Floats, Floats]:
        """Return scale and bias, each ``[F]``.

        Args:
            asked: the F findings to predict.
            own: the model's findings. A finding whose prompts differ from the model's has the shared values, since it
                was not calibrated.
        """
        known = {finding: self.findings[finding.name] for finding in own.findings if finding.name in self.findings}
        pairs = [known.get(finding, (self.scale, self.bias)) for finding in asked.findings]
        scale, bias = np.array(pairs, np.float32).T
        return scale, bias

    def probabilities(self, score: Floats, asked: FindingSet, own: FindingSet) -> Floats:
        """Return the probabilities of findings: the logistic function of ``scale * gap + bias``.

        Args:
            score: ``[B, P]``, one column for each prompt of `asked`.
            asked: the F findings to predict.
            own: the model's findings; see `of`.

        Returns:
            float32 ``[B, F]``.

        Raises:
            NonFiniteError: a score is NaN or infinite.
            FindingsError: as `finding_scores`.
        """
        if not np.isfinite(score).all():
            raise NonFiniteError("a score is not finite", fix="Check the image and run `lrclr verify` on the bundle.")
        positive, negative = finding_scores(score, asked, self.threshold)
        scale, bias = self.of(asked, own)
        result: Floats = logistic(scale * (positive - negative) + bias).astype(np.float32)
        return result


def logistic(values: NDArray[Any]) -> NDArray[Any]:
    """Return the logistic function, in the form that neither overflows nor loses small probabilities."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -values)))


def global_score(image_embedding: Floats, text_embedding: Floats) -> Floats:
    """Return the cosines ``[B, P]`` of unit vectors ``[B, D]`` and ``[P, D]``."""
    # Without `@`: threads of NumPy's BLAS spin for some 25 ms after a product and take the cores from the next graph,
    # in this process and in other processes. It cost half of a server's speed in a measurement.
    scores: Floats = np.einsum("bd,pd->bp", image_embedding, text_embedding)
    return scores


def check_alpha(alpha: float) -> None:
    """Raise UsageError if the weight of the local score is not in [0, 1]."""
    if not 0.0 <= alpha <= 1.0:
        raise UsageError(f"alpha is {alpha}", fix="It must be between 0 and 1.")


def combined_score(global_: Floats, local: Floats, alpha: float) -> Floats:
    """Return ``(1 - alpha) * global + alpha * local``, all ``[B, P]``.

    Raises:
        UsageError: `alpha` is not in [0, 1].
    """
    check_alpha(alpha)
    # At alpha = 0, NaN in the score of an untrained head must not reach the result: NaN times 0 is NaN.
    return global_.copy() if alpha == 0.0 else (1.0 - alpha) * global_ + alpha * local


def finding_scores(score: Floats, findings: FindingSet, threshold: float | None = None) -> tuple[Floats, Floats]:
    """Return the mean score of each finding's positive and negative prompts, each ``[B, F]``.

    Args:
        score: ``[B, P]``, of all prompts.
        findings: F findings.
        threshold: the score that a finding without negative prompts has for them; see `ScoreCalibration`.

    Raises:
        FindingsError: a finding has no negative prompts, and no threshold is given.
    """
    check_negatives(findings, threshold)
    positive = _means_of_groups(score, findings.positive_index)
    negative = np.full(positive.shape, threshold or 0.0, np.float32)
    some = [number for number, index in enumerate(findings.negative_index) if len(index)]
    if some:
        negative[:, some] = _means_of_groups(score, [findings.negative_index[number] for number in some])
    return positive, negative


def check_negatives(findings: FindingSet, threshold: float | None) -> None:
    """Raise FindingsError as `finding_scores` does."""
    alone = [finding.name for finding in findings.findings if not finding.negative]
    if alone and threshold is None:
        raise FindingsError(
            f"the finding {alone[0]!r} has no negative prompts",
            why="this network was not trained to judge a prompt alone",
            fix='Give it negative prompts, such as negative = ["no {}"].',
        )


def attention_of_groups(attention: Floats, local: Floats, groups: Sequence[NDArray[np.int64]]) -> Floats:
    """Return the region attention of each group of prompts: the mean of theirs, weighted by how well each of them fits.

    Prompts may exclude each other, such as those that name a side: where the finding is on the right, the prompt with
    "left" looks at the wrong place. Therefore the weights are the softmax of the prompts' local scores over a
    temperature. They do not depend on alpha and on the calibration.

    Args:
        attention: ``[B, P, R]``, of all prompts.
        local: ``[B, P]``, local scores of all prompts.
        groups: for each of G groups the numbers of its prompts, at least one.

    Returns:
        ``[B, G, R]``, which sums to 1 over the regions as `attention` does.
    """
    columns, sizes, starts = _joined(groups)
    logits = local[:, columns] / _TEMPERATURE
    weights = np.exp(logits - np.repeat(np.maximum.reduceat(logits, starts, axis=1), sizes, axis=1))
    weights /= np.repeat(np.add.reduceat(weights, starts, axis=1), sizes, axis=1)
    result: Floats = np.add.reduceat(attention[:, columns] * weights[..., None], starts, axis=1, dtype=np.float32)
    return result


def _means_of_groups(values: Floats, groups: Sequence[NDArray[np.int64]]) -> Floats:
    """Return the mean of each group of columns of ``[B, P]``: ``[B, G]``."""
    columns, sizes, starts = _joined(groups)
    means: Floats = np.divide(np.add.reduceat(values[:, columns], starts, axis=1), sizes, dtype=np.float32)
    return means


def _joined(groups: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the columns of all groups one after the other, the size of each group, and where it starts."""
    sizes = np.array([len(index) for index in groups])
    return np.concatenate(groups), sizes, np.cumsum(sizes) - sizes
