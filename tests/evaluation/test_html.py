"""The page of an evaluation: whole, closed to the world, and true to every figure."""

from __future__ import annotations

import base64
import html
import io
import re
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from lrclr.evaluation._compare import Comparison, Difference
from lrclr.evaluation._html import save_html
from lrclr.evaluation._result import Estimate, Evaluation, Example, FindingQuality, Grounding, MeanQuality

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NAMES = ("Pleural Effusion", "Cardiomegaly", "Consolidation", "Pneumothorax", "Nodule", "Lung Lesion")
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src="https://example.org/x" onerror=alert(1)>',
    "</svg></style><b>$x_1^2$ & 100 %",
    "--><!-- ]]> &lt;i&gt; \u202egnorw",
    "肺炎 Пневмония ذات الرئة",
    "x" * 200,
)
VOID = {"img", "meta", "br"}
NONE = Estimate(None)


class Numbers:
    """Figures that are all different, so that none can stand for another."""

    def __init__(self, seed: int) -> None:
        self._draws = np.random.default_rng(seed)

    def value(self, low: float = 0.55, high: float = 0.95) -> float:
        return round(float(self._draws.uniform(low, high)), 6)

    def estimate(self, middle: float | None = None, width: float = 0.06) -> Estimate:
        middle = self.value() if middle is None else middle
        below, above = self._draws.uniform(0.3 * width, width, 2)
        return Estimate(middle, max(0.0, round(middle - below, 6)), min(1.0, round(middle + above, 6)))


def quality(name: str, numbers: Numbers, *, validated: bool) -> FindingQuality:
    rates = np.linspace(0, 1, 60)
    roc = tuple((float(x), float(y)) for x, y in zip(rates, rates ** numbers.value(0.15, 0.5), strict=True))
    means = np.linspace(0.08, 0.92, 9)
    bins = tuple((round(float(m), 6), numbers.value(0.0, 1.0), int(4 + 700 * (m - 0.9) ** 4)) for m in means)
    cut = (numbers.value(0.4, 0.6), numbers.estimate(), numbers.estimate(), numbers.estimate())
    threshold, f1, sensitivity, specificity = cut if validated else (None, NONE, NONE, NONE)
    return FindingQuality(
        name=name,
        positives=131,
        negatives=1042,
        left_out=27,
        undefined="",
        auroc=numbers.estimate(),
        average_precision=numbers.estimate(),
        auroc_global=numbers.estimate(numbers.value(0.47, 0.8)),
        auroc_local=numbers.estimate(),
        threshold=threshold,
        f1=f1,
        sensitivity=sensitivity,
        specificity=specificity,
        calibration_error=numbers.value(0.1, 0.4),
        calibration_error_scaled=numbers.value(0.01, 0.1) if validated else None,
        roc=roc,
        reliability=bins,
    )


def undefined(name: str) -> FindingQuality:
    nothing = dict.fromkeys(("auroc", "average_precision", "auroc_global", "auroc_local"), NONE)
    decisions = dict.fromkeys(("f1", "sensitivity", "specificity"), NONE)
    return FindingQuality(
        name, 0, 1188, 12, "no image has it", **nothing, threshold=None, **decisions,
        calibration_error=None, calibration_error_scaled=None, roc=(), reliability=(),
    )  # fmt: skip


def grounding(name: str, numbers: Numbers) -> Grounding:
    def low() -> Estimate:
        return numbers.estimate(numbers.value(0.1, 0.3))

    return Grounding(
        name, 88, numbers.estimate(), low(), numbers.value(0.05, 0.15), numbers.estimate(), numbers.value(0.3, 0.5),
        numbers.estimate(), low(), numbers.value(0.02, 0.1),
    )  # fmt: skip


def evaluation(names: Sequence[str] = NAMES, *, validated: bool = True, masks: bool = True) -> Evaluation:
    """A made-up evaluation whose last finding is undefined."""
    numbers = Numbers(7)
    findings = (*(quality(name, numbers, validated=validated) for name in names[:-1]), undefined(names[-1]))
    means = [numbers.estimate(width=0.03) for _ in range(4)]
    located = [grounding(name, numbers) for name in (*names[:-1], "mean")] if masks else []
    data: dict[str, Any] = {
        "manifest_sha256": "77ab" * 16, "split": "test", "images": 1200, "patients": 803, "unreadable": 2,
        "unreadable_lines": [17, 512], "rows_left_out": 4,
    }  # fmt: skip
    if validated:
        data["validation"] = {"manifest_sha256": "77ab" * 16, "split": "validation", "images": 400, "unreadable": 0}
    return Evaluation(
        model={
            "kind": "bundle", "sha256": "3f2a9c01b7d4e650" * 4, "checkpoint_sha256": "c0ffee00" * 8, "precision": "fp16",
            "engine": "onnxruntime (CPUExecutionProvider)", "fusion_trained": True, "alpha": 0.4,
        },
        data=data,
        settings={
            "resamples": 1000, "seed": 0, "resampled": "patients", "resamples_without_a_class": {names[1]: 3},
            "preset": None, "threshold": "f1", "score_scale_in_effect": 1.0, "not_labelled": ["Fracture"],
            "published": {"source": "CheXzero's ensemble on CheXpert's test set", "auroc": {names[0]: 0.932}},
        },
        environment={"lrclr": "0.1.0", "python": "3.11.7", "machine": "Linux x86_64, 2 cores", "numpy": "2.3.1"},
        alpha=0.4,
        alpha_from="validation" if validated else "model",
        alpha_sweep=tuple((i / 10, 0.84 - 0.3 * (i / 10 - 0.4) ** 2 + 1e-6) for i in range(11)) if validated else (),
        score_scale=21.73 if validated else None,
        findings=findings,
        mean=MeanQuality(len(findings) - 1, *means, numbers.estimate() if validated else NONE),
        grounding=tuple(located),
    )  # fmt: skip


def comparison(names: Sequence[str] = NAMES) -> Comparison:
    numbers = Numbers(11)
    other = {"kind": "checkpoint", "sha256": "9d41" * 16, "precision": "fp32", "engine": "torch (cpu)", "alpha": 0.0}
    differences = []
    for figure, shown in (("auroc", (*names, "mean")), ("pointing", (*names[1:3], "mean"))):
        for name in shown:
            gap = numbers.value(-0.05, 0.15)
            estimate = Estimate(gap, round(gap - 0.0312, 6), round(gap + 0.0278, 6))
            differences.append(Difference(name, figure, 700, numbers.value(), numbers.value(), estimate))  # type: ignore[arg-type]
    return Comparison({"kind": "bundle"}, other, 1196, 1000, 0, tuple(differences))


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (566, 320), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def examples(names: Sequence[str] = NAMES) -> list[Example]:
    kinds = ("best", "best", "best", "missed", "missed", "false alarm")
    return [Example(name, kind, 0.91 - 0.07 * n, picture(30 * n)) for name in names[:2] for n, kind in enumerate(kinds)]
