"""Running every gate of a bundle through an engine."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrclr.errors import NonFiniteError
from lrclr.gates import _measure as measure
from lrclr.gates._result import GateResult, Tolerances
from lrclr.scoring import ScoreCalibration, combined_score, global_score, probabilities

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.engines import Engine
    from lrclr.findings import FindingSet
    from lrclr.gates._golden import Golden

Outputs = dict[str, NDArray[Any]]


def run_gates(
    engine: Engine, golden: Golden, findings: FindingSet, scoring: dict[str, Any], tolerances: Tolerances
) -> list[GateResult]:
    """Measure everything; nothing is left out because something else failed.

    Args:
        engine: what runs the graphs.
        golden: inputs, and PyTorch's outputs in float32.
        findings: whose prompts are the first of `golden`.
        scoring: the manifest's ``alpha`` and calibration.
        tolerances: the limits.
    """
    image = engine.run("image_encoder", {"pixel_values": golden.pixel_values})
    text = engine.run("text_encoder", {"input_ids": golden.input_ids})
    fusion_inputs: dict[str, NDArray[Any]] = {
        "region_tokens": golden.region_tokens,
        "text_tokens": golden.text_tokens,
        "text_mask": golden.text_mask,
    }
    fusion = engine.run("fusion_head", fusion_inputs)
    results = [*_finite(image, text, fusion)]
    if all(result.passed for result in results):
        results += _image(image, golden, tolerances)
        results += _text(text, golden, tolerances)
        results += _fusion(fusion, golden, tolerances)
        results += _answers(engine, image, text, golden, findings, scoring, tolerances)
        results += _invariance(engine, image, text, golden, tolerances)
    return results


def _finite(image: Outputs, text: Outputs, fusion: Outputs) -> Iterator[GateResult]:
    for graph, outputs in (("image_encoder", image), ("text_encoder", text), ("fusion_head", fusion)):
        for name, array in outputs.items():
            bad = int((~np.isfinite(array)).sum())
            yield GateResult("non-finite values", f"{graph}.{name}", bad, 0, "max")


def _image(image: Outputs, golden: Golden, limits: Tolerances) -> Iterator[GateResult]:
    yield from _embedding("image_encoder.image_embedding", image["image_embedding"], golden.image_embedding, limits)
    gap, share = measure.region_gap(image["region_index"], golden.rollout)
    note = f"{share:.1%} of the picks are PyTorch's"
    yield GateResult("region gap", "image_encoder.region_index", gap, limits.region_gap, "max", note)
    importance = measure.relative_error(image["region_importance"], golden.region_importance)
    yield GateResult("max error", "image_encoder.region_importance", importance, limits.max_error, "max")
    same = _same_rows(image, golden)
    yield from _vectors("image_encoder.region_tokens", image["region_tokens"][same], golden.region_tokens[same], limits)


def _same_rows(image: Outputs, golden: Golden) -> NDArray[np.bool_]:
    """``[B, 1+R]``: CLS, and the regions that are PyTorch's. A swapped region has another token by right."""
    return np.pad(image["region_index"] == golden.region_index, ((0, 0), (1, 0)), constant_values=True)


def _text(text: Outputs, golden: Golden, limits: Tolerances) -> Iterator[GateResult]:
    yield from _embedding("text_encoder.text_embedding", text["text_embedding"], golden.text_embedding, limits)
    real = golden.text_mask.astype(bool)
    yield from _vectors("text_encoder.text_tokens", text["text_tokens"][real], golden.text_tokens[real], limits)


def _fusion(fusion: Outputs, golden: Golden, limits: Tolerances) -> Iterator[GateResult]:
    for name in ("local_score", "region_attention"):
        error = measure.absolute_error(fusion[name], getattr(golden, name))
        yield GateResult("absolute error", f"fusion_head.{name}", error, limits.score_error, "max")


def _answers(
    engine: Engine,
    image: Outputs,
    text: Outputs,
    golden: Golden,
    findings: FindingSet,
    scoring: dict[str, Any],
    limits: Tolerances,
) -> Iterator[GateResult]:
    fusion = engine.run(
        "fusion_head",
        {
            # Whether the picks are good is the region gap's matter; a lawful swap may still change a local score.
            "region_tokens": np.where(
                _same_rows(image, golden)[..., None], image["region_tokens"], golden.region_tokens
            ),
            "text_tokens": text["text_tokens"],
            "text_mask": golden.text_mask,
        },
    )
    score = combined_score(
        global_score(image["image_embedding"], text["text_embedding"]), fusion["local_score"], scoring["alpha"]
    )
    try:
        answer = probabilities(
            score[:, : len(findings.prompts)], findings, *ScoreCalibration.from_dict(scoring).of(findings, findings)
        )
        error = measure.absolute_error(answer, golden.probabilities)
    except NonFiniteError:
        error = math.nan  # refused, as a gate; the graphs were finite on PyTorch's regions
    yield GateResult("absolute error", "probabilities", error, limits.probability_error, "max")


def _invariance(
    engine: Engine, image: Outputs, text: Outputs, golden: Golden, limits: Tolerances
) -> Iterator[GateResult]:
    alone = [engine.run("image_encoder", {"pixel_values": row[None]}) for row in golden.pixel_values]
    for name in ("image_embedding", "region_importance"):
        single = np.concatenate([outputs[name] for outputs in alone])
        change = measure.relative_error(single, image[name])
        yield GateResult("change by batch-mates", f"image_encoder.{name}", change, limits.invariance, "max")
    gap, _ = measure.region_gap(np.concatenate([outputs["region_index"] for outputs in alone]), golden.rollout)
    yield GateResult("region gap alone", "image_encoder.region_index", gap, limits.region_gap, "max")

    lengths = golden.text_mask.sum(1)
    trimmed = [
        engine.run("text_encoder", {"input_ids": ids[None, :length]})["text_embedding"]
        for ids, length in zip(golden.input_ids, lengths, strict=True)
    ]
    change = measure.relative_error(np.concatenate(trimmed), text["text_embedding"])
    yield GateResult("change by padding", "text_encoder.text_embedding", change, limits.invariance, "max")

    # Only what comes after EOT is changed, to a token that is not padding: a causal encoder cannot see it.
    noisy = np.where(golden.text_mask.astype(bool), golden.input_ids, 1 + golden.input_ids[:, :1] // 2)
    after = engine.run("text_encoder", {"input_ids": noisy})["text_embedding"]
    change = measure.relative_error(after, text["text_embedding"])
    yield GateResult("change by tokens after EOT", "text_encoder.text_embedding", change, limits.invariance, "max")


def _embedding(subject: str, actual: NDArray[Any], expected: NDArray[Any], limits: Tolerances) -> Iterator[GateResult]:
    yield from _vectors(subject, actual, expected, limits)
    wanted = measure.spread(expected)
    # A reference that does not vary over its inputs is degenerate itself; no engine can be checked against it.
    ratio = measure.spread(actual) / wanted if wanted > 1e-6 else 0.0
    note = "" if wanted > 1e-6 else "PyTorch's embeddings are alike for all inputs"
    yield GateResult("spread over inputs", subject, ratio, limits.spread, "min", note)


def _vectors(subject: str, actual: NDArray[Any], expected: NDArray[Any], limits: Tolerances) -> Iterator[GateResult]:
    yield GateResult("cosine", subject, measure.cosine(actual, expected), limits.cosine, "min")
    centred = measure.centred_cosine(actual, expected)
    yield GateResult("centred cosine", subject, centred, limits.centred_cosine, "min")
    yield GateResult("max error", subject, measure.relative_error(actual, expected), limits.max_error, "max")
