"""Result of an evaluation: numbers for JSON and for all reports."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lrclr._files import write_whole
from lrclr.reports import Estimate

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Estimate", "Evaluation", "Example", "FindingQuality", "Grounding", "MeanQuality"]

SCHEMA_VERSION = 1
_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class FindingQuality:
    """Recognition of one finding.

    Attributes:
        name: the finding.
        positives, negatives: numbers of images.
        left_out: number of images with an uncertain label or without a label.
        undefined: the reason why the figures below are ``None``; "" if they are defined.
        auroc, average_precision: figures of the combined score.
        auroc_global, auroc_local: figures of the global and of the local score.
        threshold: probability from which the finding counts as present, chosen on validation; ``None`` without
            validation.
        f1, sensitivity, specificity: figures at that threshold.
        calibration_error: expected calibration error of the probabilities, with 15 bins of equal width.
        calibration_error_scaled: the same with the calibration fitted on validation.
        roc: ``(false positive rate, true positive rate)``, at most 200 points.
        reliability: ``(mean probability, share of positives, images)`` for each bin with images, with the fitted
            calibration if there is one.
    """

    name: str
    positives: int
    negatives: int
    left_out: int
    undefined: str
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
    """Means over the findings for which the figure is defined."""

    findings: int
    auroc: Estimate
    average_precision: Estimate
    auroc_global: Estimate
    auroc_local: Estimate
    f1: Estimate


@dataclass(frozen=True, slots=True)
class Grounding:
    """Localisation of a finding, over the images that have the finding and a mask or box of it.

    Attributes:
        name: the finding, or "mean".
        images: number of images.
        pointing: share of images in which the patch with the most region attention touches the mask.
        pointing_rollout: the same for the patch of greatest importance, which does not depend on the finding.
        pointing_chance: share of all patches that touch the mask, as the mean over images.
        hit_rate: share of images in which at least one selected region touches the mask.
        hit_rate_chance: the same for as many different patches drawn at random.
        mass: region attention inside the mask. A patch that is partly covered counts by its covered share.
        mass_rollout: the same for importance, normalised over the regions.
        mass_chance: share of the input that the mask covers.
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


@dataclass(frozen=True, slots=True)
class Example:
    """An image of the gallery, for memory and the HTML page only. It is not written to JSON.

    Attributes:
        finding: the finding.
        kind: "best", "missed" (present, with a low probability) or "false alarm".
        probability: probability of the finding.
        picture: PNG file of the radiograph with its heat map beside it.
    """

    finding: str
    kind: str
    probability: float
    picture: bytes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Evaluation of one model on the images of one dataset. Research use only.

    Attributes:
        model: kind ("checkpoint" or "bundle"), hash, precision, engine.
        data: hash of the dataset, split, images, images that could not be read, rows left out.
        settings: bootstrap resamples, seed, preset, splits.
        environment: versions and machine.
        alpha: weight of the local score.
        alpha_from: origin of `alpha`: "model", "given" or "validation".
        alpha_sweep: ``(alpha, mean AUROC on validation)``; empty without validation.
        score_scale, score_bias: calibration fitted on validation, for findings that are not in `finding_calibration`;
            ``None`` without validation.
        finding_calibration: scale and bias fitted on validation, by finding.
        not_calibrated: the reason why a finding is not in `finding_calibration`; under "" the reason for
            the missing `score_scale`.
        findings: one for each finding, in order.
        mean: means over findings.
        grounding: one for each finding with masks, then "mean"; empty without masks.
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

    def to_json(self) -> str:
        """The evaluation as JSON, with its schema version. Floats are rounded to six decimals."""
        return json_text({"schema": SCHEMA_VERSION, **asdict(self)})

    def save_json(self, path: Path) -> None:
        """Write `to_json` to a file. After an error the file is unchanged."""
        write_whole(path, self.to_json().encode())


def json_text(content: dict[str, Any]) -> str:
    """A report as JSON."""
    return json.dumps(_rounded(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, _DECIMALS)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value
