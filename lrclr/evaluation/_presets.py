"""Evaluation protocols of other projects, to reproduce their tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from lrclr.errors import UsageError
from lrclr.inference import ScoreCalibration
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import FindingSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.inference import ModelSpec


@dataclass(frozen=True)
class Preset:
    """A protocol.

    Attributes:
        name: name of the preset.
        findings: findings with their prompts.
        alpha: weight of the local score.
        score_scale: factor on a score before the softmax.
        preprocess: kind of preprocessing.
        threshold: criterion of the thresholds.
        published: published AUROC by finding.
        source: source of these figures.
    """

    name: str
    findings: FindingSet
    alpha: float
    score_scale: float
    preprocess: str
    threshold: str
    published: Mapping[str, float]
    source: str

    def applied(self, spec: ModelSpec) -> ModelSpec:
        """The model with the preprocessing and scoring of this protocol."""
        size = spec.preprocess.image_size
        preprocess = PreprocessSpec.chexzero(size) if self.preprocess == "chexzero" else PreprocessSpec.clip(size)
        return replace(spec, preprocess=preprocess, alpha=self.alpha, calibration=ScoreCalibration(self.score_scale))


_PUBLISHED: Final = {
    "Atelectasis": 0.812,
    "Cardiomegaly": 0.913,
    "Consolidation": 0.890,
    "Edema": 0.899,
    "Pleural Effusion": 0.932,
}


def _chexzero(name: str, findings: FindingSet) -> Preset:
    return Preset(
        name=name,
        findings=findings,
        alpha=0.0,
        # CheXzero takes the softmax of cosines without CLIP's logit scale.
        score_scale=1.0,
        preprocess="chexzero",
        threshold="mcc",
        published=_PUBLISHED,
        source="CheXzero's published figures, of its ensemble on CheXpert's test set; not measured here",
    )


PRESETS: Final[dict[str, Preset]] = {
    "chexzero": _chexzero("chexzero", FindingSet.default()),
    "chexzero-5": _chexzero("chexzero-5", FindingSet.from_names(tuple(_PUBLISHED))),
}
"""CheXzero's 14 findings, and the five of the CheXpert competition."""


def preset_named(name: str | None) -> Preset | None:
    """The preset with a name; None for None.

    Raises:
        UsageError: the preset is unknown.
    """
    if name is None:
        return None
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}", fix=f"Choose {' or '.join(PRESETS)}.")
    return PRESETS[name]
