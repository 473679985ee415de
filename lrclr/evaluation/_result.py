"""Results of an evaluation: numbers that are written to JSON and shown by the reports."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from lrclr.reports import Estimate

SCHEMA_VERSION = 1
_DECIMALS = 6
_EXACT = frozenset(
    {"threshold", "p", "p_family", "score_scale", "score_bias", "finding_calibration", "calibration_in_effect"}
)


@dataclass(frozen=True, slots=True)
class FindingQuality:
    """Recognition of one finding.

    Attributes:
        name: the finding.
        positives, negatives: numbers of images; uncertain and unlabelled ones are `left_out`.
        undefined: why the figures below are ``None``; "" if they are defined.
        no_interval: why they have no intervals; "" if both classes are of enough patients.
        auroc, average_precision: figures of the combined score.
        auroc_global, auroc_local: AUROC of the global and the local score alone.
        threshold: probability above which the finding counts as present, chosen on validation; ``None`` without it.
        f1, sensitivity, specificity: figures at that threshold.
        calibration_error: expected calibration error of the probabilities, 15 bins of equal width.
        calibration_error_scaled: the same with the calibration fitted on validation.
        roc: ``(false positive rate, true positive rate)``, at most 200 points.
        reliability: ``(mean probability, share of positives, images)`` of each non-empty bin, with the fitted
            calibration if there is one.
    """

    name: str
    positives: int
    negatives: int
    left_out: int
    undefined: str
    no_interval: str
    auroc: Estimate
    average_precision: Estimate
    auroc_global: Estimate
    auroc_local: Estimate
    threshold: float | None
    f1: Estimate
    sensitivity: Estimate
    specificity: Estimate
    calibration_error: float | None
    calibration_error_scaled: float | None
    roc: tuple[tuple[float, float], ...]
    reliability: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True, slots=True)
class MeanQuality:
    """Means over the findings for which a figure is defined: `findings`, and of F1 `f1_findings`."""

    findings: int
    auroc: Estimate
    average_precision: Estimate
    auroc_global: Estimate
    auroc_local: Estimate
    f1: Estimate
    f1_findings: int


@dataclass(frozen=True, slots=True)
class Grounding:
    """Grounding of one finding, over the images that have it and a mask or box of it.

    Attributes:
        name: the finding, or "mean".
        images: number of images.
        pointing: share of images in which the patch with the most region attention touches the mask.
        pointing_rollout: the same for the patch of greatest importance, which does not depend on the finding.
        pointing_chance: share of patches that touch the mask, mean over images.
        hit_rate: share of images in which at least one selected region touches the mask.
        hit_rate_chance: the same for as many different random patches.
        mass: region attention inside the mask; a patch counts by the share that the mask covers.
        mass_rollout: the same for importance, normalised over the regions.
        mass_chance: share of the input that the mask covers.
        no_interval: why the figures have no intervals; "" if the images are of enough patients.
    """

    name: str
    images: int
    pointing: Estimate
    pointing_rollout: Estimate
    pointing_chance: float | None
    hit_rate: Estimate
    hit_rate_chance: float | None
    mass: Estimate
    mass_rollout: Estimate
    mass_chance: float | None
    no_interval: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """An image for the gallery. It is in memory and in the HTML page only, not in JSON.

    Attributes:
        finding: the finding.
        kind: "best", "missed" (with the finding, low probability) or "false alarm".
        probability: the model's probability.
        picture: PNG bytes of the radiograph beside its heat map.
    """

    finding: str
    kind: str
    probability: float
    picture: bytes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on the images of one dataset. Research use only.

    Attributes:
        model: kind ("checkpoint" or "bundle"), hash, precision, engine.
        data: hash of the dataset, split, images, patients (``None`` if the dataset does not give them), unreadable
            images, rows left out.
        settings: bootstrap resamples, seed, preset, splits.
        environment: versions and machine.
        alpha: weight of the local score in effect, and ``alpha_from``: "model", "given" or "validation".
        alpha_sweep: ``(alpha, mean AUROC on validation)``; empty without validation.
        score_scale, score_bias: fitted on validation for findings without own values; ``None`` without a fit.
        finding_calibration: scale and bias fitted on validation, by finding.
        not_calibrated: reasons for findings without own values; under "" the reason for missing shared values.
        calibration_kept: findings that keep their earlier scale and bias: those without labels, and those with earlier
            values of their own whose fit was refused.
        notes: what a user has to know beside the figures: rows and findings that do not count, what was not fitted.
        findings: figures of each finding, in order.
        mean: means over findings.
        grounding: figures of each finding with masks, then "mean"; empty without masks.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    environment: dict[str, str]
    alpha: float
    alpha_from: str
    alpha_sweep: tuple[tuple[float, float], ...]
    score_scale: float | None
    findings: tuple[FindingQuality, ...]
    mean: MeanQuality
    grounding: tuple[Grounding, ...]
    score_bias: float | None = None
    finding_calibration: dict[str, tuple[float, float]] = field(default_factory=dict)
    not_calibrated: dict[str, str] = field(default_factory=dict)
    calibration_kept: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def raise_undefined(self) -> None:
        """Raise if the evaluation has no result.

        Raises:
            LrclrError: no AUROC is defined, and nothing is located.
        """
        if not self.mean.findings and not self.grounding:
            raise LrclrError(
                "the evaluation has no result",
                why="no finding has images with it and images without it, and none has masks or boxes",
                fix="Label images without a finding with 0, or evaluate more images.",
            )

    def to_json(self) -> str:
        """The evaluation as JSON, with its schema version.

        Figures are rounded to six decimals, so that evaluations can be compared with `diff`. Thresholds, scales, biases
        and p-values are not rounded.
        """
        return json_text({"schema": SCHEMA_VERSION, **asdict(self)})


def json_text(content: dict[str, Any]) -> str:
    """A report as JSON."""
    return json.dumps(_rounded(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, dict):
        return {key: each if key in _EXACT else _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
