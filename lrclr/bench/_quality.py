"""How right a target is, judged on the very object that is timed, by the gates that a bundle has to pass."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.bench._result import Quality
from lrclr.bundle import Bundle
from lrclr.errors import UsageError
from lrclr.evaluation._models import is_bundle
from lrclr.gates import LEAST_AUROC, GateResult, Golden, Tolerances, run_gates, task_auroc_of
from lrclr.gates._measure import region_gap
from lrclr.scoring import ScoreCalibration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.bench._targets import Target
    from lrclr.checkpoints import ReadOptions
    from lrclr.findings import FindingSet

__all__ = ["Reference", "judge", "own_references", "reference_from"]


@dataclass(frozen=True)
class Reference:
    """Inputs and what PyTorch makes of them in float32.

    Attributes:
        name: in words.
        golden: the inputs and the answers.
        findings: whose prompts are the first of `golden`.
        scoring: ``alpha`` and calibration that the answers had.
        tolerances: None for those of the target's precision.
        checkpoint_sha256: of the weights.
    """

    name: str
    golden: Golden
    findings: FindingSet
    scoring: dict[str, Any]
    tolerances: Tolerances | None
    checkpoint_sha256: str


def reference_from(path: str, reading: ReadOptions | None = None) -> Reference:
    """The golden values of a bundle; or a checkpoint, run in torch now.

    Args:
        path: of either.
        reading: options of `load_checkpoint`.

    Raises:
        LrclrError: it cannot be read.
    """
    if is_bundle(path):
        return _of_bundle(Bundle(path), "the reference bundle’s golden values")
    from lrclr.checkpoints import load_checkpoint
    from lrclr_export.golden import golden_from_checkpoint

    checkpoint = load_checkpoint(path, **(reading or {}))
    calibration = ScoreCalibration.from_dict(checkpoint.config.to_dict())
    scoring = {"alpha": checkpoint.config.effective_alpha, **calibration.to_dict()}
    golden = golden_from_checkpoint(checkpoint)
    return Reference("the checkpoint in torch, fp32", golden, checkpoint.findings, scoring, None, checkpoint.sha256)


def own_references(targets: Sequence[Target]) -> dict[str, Reference]:
    """By the hash of a manifest: what the bundles among the targets carry. A server of one of them is judged by it."""
    return {
        target.spec.sha256: _of_bundle(target.bundle, "the bundle’s golden values")
        for target in targets
        if target.bundle is not None
    }


def judge(target: Target, reference: Reference | None) -> Quality:
    """Measure how far a target is from its reference.

    Args:
        target: what is judged.
        reference: None if there is none; then only the carried radiographs are.

    Raises:
        UsageError: the reference has other weights.
    """
    auroc = task_auroc_of(target.spec.findings.names, target.predict)
    of_task = {
        "auroc": None if math.isnan(auroc) else auroc,
        "auroc_images": 0 if math.isnan(auroc) else _task_images(),
    }
    if reference is None:
        itself = target.spec.kind == "checkpoint"
        return Quality("it is the reference itself" if itself else "nothing", "not compared", **of_task)  # type: ignore[arg-type]
    if reference.checkpoint_sha256 != target.spec.checkpoint_sha256:
        raise UsageError(
            f"the reference has other weights than the {target.info.label}",
            why="its answers would differ by right",
            fix="Give the checkpoint that it was exported from.",
        )
    golden, engine = reference.golden, target.engine
    limits = reference.tolerances or _tolerances(target)
    gates = run_gates(engine, golden, reference.findings, reference.scoring, limits)
    gates += _task_gate(auroc, float(golden.task_auroc), limits)
    refused = tuple(str(gate) for gate in gates if not gate.passed)
    index = engine.run("image_encoder", {"pixel_values": golden.pixel_values})["region_index"]
    quality = Quality(
        reference=reference.name,
        verdict="wrong" if refused else "good",
        refused=refused,
        gates=len(gates),
        cosine=_value(gates, "cosine", "image_encoder.image_embedding"),
        centred_cosine=_value(gates, "centred cosine", "image_encoder.image_embedding"),
        text_cosine=_value(gates, "cosine", "text_encoder.text_embedding"),
        region_agreement=region_gap(index, golden.rollout)[1],
        probability_error=_value(gates, "absolute error", "probabilities"),
        auroc_reference=None if math.isnan(golden.task_auroc) else float(golden.task_auroc),
    )
    return replace(quality, **of_task)  # type: ignore[arg-type]


def _of_bundle(bundle: Bundle, name: str) -> Reference:
    manifest = bundle.manifest
    limits = {key: value for key, value in manifest.tolerances.items() if key != "overridden"}
    golden = Golden.load(bundle.golden_path)
    sha256 = str(manifest.checkpoint["sha256"])
    return Reference(name, golden, bundle.findings, manifest.scoring, Tolerances(**limits), sha256)


def _tolerances(target: Target) -> Tolerances:
    if target.bundle is None:
        return Tolerances.for_precision(target.spec.precision)
    own = _of_bundle(target.bundle, "").tolerances
    assert own is not None  # noqa: S101 - for the type checker
    return own


def _task_gate(auroc: float, reference: float, limits: Tolerances) -> list[GateResult]:
    if not reference >= LEAST_AUROC:
        return []
    return [GateResult("task AUROC difference", "findings", abs(auroc - reference), limits.task_auroc, "max")]


def _task_images() -> int:
    from lrclr.gates._task import task_images

    return len(task_images().images)


def _value(gates: Sequence[GateResult], gate: str, subject: str) -> float | None:
    """None where it was not reached, because a graph gave NaN, or is none."""
    for each in gates:
        if (each.gate, each.subject) == (gate, subject):
            return each.value if np.isfinite(each.value) else None
    return None
