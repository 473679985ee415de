"""Quality of a target: the gates of a bundle, run on the engine that is timed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lrclr.auto import is_bundle
from lrclr.bench._result import Quality
from lrclr.bundle import Bundle, Golden
from lrclr.errors import UsageError
from lrclr.inference import ModelSpec
from lrclr.verification import (
    Tolerances,
    region_gap,
    run_gates,
    task_auroc_of,
    task_gate,
    task_images,
    verify,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.bench._targets import Target
    from lrclr.checkpoints import ReadOptions
    from lrclr.verification import GateResult


@dataclass(frozen=True)
class Reference:
    """Inputs and PyTorch's answers in float32.

    Attributes:
        name: name of the reference, in words.
        golden: inputs and answers.
        model: the model of the answers; the prompts of its findings are the first of `golden`.
        tolerances: tolerances; None for those of the target's precision.
        bundle_sha256: hash of the bundle that holds the answers; None for a checkpoint.
    """

    name: str
    golden: Golden
    model: ModelSpec
    tolerances: Tolerances | None
    bundle_sha256: str | None


def reference_from(path: str, reading: ReadOptions | None = None) -> Reference:
    """The golden values of a bundle, or the answers of a checkpoint in torch.

    Args:
        path: bundle or checkpoint.
        reading: options of `load_checkpoint`.

    Raises:
        LrclrError: it cannot be read.
    """
    if is_bundle(path):
        return _of_bundle(Bundle(path), "the reference bundle’s golden values")
    from lrclr.checkpoints import load_checkpoint
    from lrclr_export.repository.golden import golden_from_checkpoint

    checkpoint = load_checkpoint(path, **(reading or {}))
    golden, model = golden_from_checkpoint(checkpoint), ModelSpec.of_checkpoint(checkpoint)
    return Reference("the checkpoint in torch, fp32", golden, model, None, None)


def own_references(targets: Sequence[Target]) -> dict[str, Reference]:
    """References of the bundles among the targets, by the hash of the manifest. A server of one uses them too."""
    return {
        target.spec.sha256: _of_bundle(target.bundle, "the bundle’s golden values")
        for target in targets
        if target.bundle is not None
    }


def measure_quality(target: Target, reference: Reference | None) -> Quality:
    """Compare the answers of a target with its reference.

    Args:
        target: the target.
        reference: the reference; None to measure only the AUROC on the carried radiographs.

    Raises:
        UsageError: the reference has other weights.
    """
    auroc = task_auroc_of(target.spec.findings.names, target.predict)
    of_task = {
        "auroc": None if math.isnan(auroc) else auroc,
        "auroc_images": 0 if math.isnan(auroc) else len(task_images().images),
    }
    if reference is None:
        itself = target.spec.kind == "checkpoint"
        return Quality("it is the reference itself" if itself else "nothing", "not compared", **of_task)  # type: ignore[arg-type]
    if reference.model.checkpoint_sha256 != target.spec.checkpoint_sha256:
        raise UsageError(
            f"the reference has other weights than the {target.info.label}",
            why="answers of other weights differ",
            fix="Give the checkpoint that the target was exported from.",
        )
    golden, engine = reference.golden, target.engine
    gates = _gates(target, reference, auroc)
    refused = tuple(str(gate) for gate in gates if not gate.passed)
    # One by one: the target may limit the batch to one image.
    index = np.concatenate(
        [
            engine.run("image_encoder", {"pixel_values": pixels[None]})["region_index"]
            for pixels in golden["pixel_values"]
        ]
    )
    return Quality(
        reference=reference.name,
        verdict="wrong" if refused else "good",
        refused=refused,
        gates=len(gates),
        cosine=_value(gates, "cosine", "image_encoder.image_embedding"),
        centred_cosine=_value(gates, "centred cosine", "image_encoder.image_embedding"),
        text_cosine=_value(gates, "cosine", "text_encoder.text_embedding"),
        region_agreement=region_gap(index, golden["rollout"])[1],
        probability_error=_value(gates, "absolute error", "probabilities"),
        # The golden data of an ensemble are those of one member.
        auroc_reference=None if reference.model.members or math.isnan(golden.task_auroc) else float(golden.task_auroc),
        **of_task,  # type: ignore[arg-type]
    )


def _gates(target: Target, reference: Reference, auroc: float) -> list[GateResult]:
    if target.bundle is not None and target.bundle.sha256 == reference.bundle_sha256:
        return [*verify(target.bundle, target.engine, auroc=auroc).gates]
    golden, profiles = reference.golden, None
    limits = reference.tolerances or Tolerances.for_precision(target.spec.precision)
    if target.bundle is not None:
        profiles = target.bundle.manifest.profiles
        if reference.tolerances is None:
            limits = Tolerances.of_manifest(target.bundle.manifest.tolerances)
    model = replace(
        reference.model,
        preprocess=target.spec.preprocess,
        # The tokenizer of a server is not available here.
        tokenizer=target.spec.tokenizer or reference.model.tokenizer,
        max_batch=target.spec.max_batch,
    )
    gates = run_gates(target.engine, golden, model, limits, profiles)
    if model.members:
        # A server's. The AUROC is that of the ensemble, and the golden data are those of one member.
        return gates
    return gates + task_gate(lambda: auroc, float(golden.task_auroc), limits.task_auroc)


def _of_bundle(bundle: Bundle, name: str) -> Reference:
    limits = Tolerances.of_manifest(bundle.manifest.tolerances)
    return Reference(name, Golden.load(bundle.golden_path), ModelSpec.of_bundle(bundle), limits, bundle.sha256)


def _value(gates: Sequence[GateResult], gate: str, subject: str) -> float | None:
    """The value of a gate, of an ensemble the worst of its members; None if it did not run or is not finite."""
    found = [each for each in gates if each.gate == gate and each.subject.rpartition(": ")[2] == subject]
    values = [each.value for each in found]
    if not values or not np.isfinite(values).all():
        return None
    return min(values) if found[0].limit == "min" else max(values)
