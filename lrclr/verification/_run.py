"""The gates of the three graphs and of their inputs, with one engine."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lrclr.contract import GRAPHS
from lrclr.engines import tokens_of_call
from lrclr.errors import FindingsError, NonFiniteError
from lrclr.verification import _measure as measure
from lrclr.verification._inputs import gate_images, images_sha256
from lrclr.verification._result import GateResult, Tolerances
from lrclr.verification._runs import ContractError, GraphRun, GraphRuns, Sizes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lrclr.bundle import Golden
    from lrclr.engines import Engine
    from lrclr.inference import ModelSpec

    Profiles = Sequence[Mapping[str, Sequence[int]]]

Outputs = dict[str, NDArray[Any]]
# What noise after the end of a prompt changes at least in the embedding of a text encoder that is not causal, relative
# to its largest value. Tiny BERTs and RoBERTas reach 0.008, a SigLIP 1.2, in float32, float16 and int8 alike; causal
# text encoders stay below 1e-6 (torch on a CPU).
_LEAST_CHANGE = 1e-3
# Outputs of the image encoder that are not vectors of tokens or numbers of patches.
_BY_LARGEST_ERROR: Final = tuple(
    name
    for name in GRAPHS["image_encoder"].output_names
    if name not in {"image_embedding", "region_tokens", "region_index"}
)


def run_gates(
    engine: Engine, golden: Golden, model: ModelSpec, tolerances: Tolerances, profiles: Profiles | None = None
) -> list[GateResult]:
    """Run all gates except the task gate.

    Args:
        engine: runs the graphs.
        golden: inputs, and PyTorch's outputs in float32.
        model: the rest of the model. The prompts of its findings are the first prompts of `golden`.
        tolerances: the limits.
        profiles: sizes of the manifest, of which the smallest and largest are run too; None without a bundle.

    Raises:
        EngineError: the engine refused an input.
    """
    asked = len(model.findings.prompts)
    fixed_length = model.tokenizer is not None and model.tokenizer.fixed_length
    runs = GraphRuns(engine, golden, Sizes.of(golden, asked, profiles, fixed_length=fixed_length))
    recorder = _RecordingEngine(runs, golden, model)
    try:
        runs.run_usual()
        usual = [*_finite(runs)]
        if not all(result.passed for result in usual):
            return [*recorder.input_gates(), *usual]
        runs.run_corners(asked)
        noisy = runs.run_noise_after_eot()
        probabilities = recorder.probability_gate(tolerances)
    except ContractError as error:
        return [*recorder.input_gates(), _contract_gate(error)]
    results = [*recorder.input_gates(), *_finite(runs)]
    if all(result.passed for result in results if result.gate == "non-finite values"):
        results += compare_outputs(runs, golden, tolerances)
        results += [*probabilities, *_invariance(runs, golden, tolerances)]
        results += _after_eot(runs, golden, noisy, tolerances, causal=model.causal)
        if fixed_length:
            taken = int(runs.takes_another_length())
            note = "padding is part of a prompt, so a shorter prompt has another meaning"
            results.append(GateResult("prompts of another length taken", "text_encoder", taken, 0, "max", note))
    return results


def graph_gates(engine: Engine, golden: Golden, model: ModelSpec, tolerances: Tolerances) -> list[GateResult]:
    """Run only the gates of the graphs' outputs, at the usual sizes.

    Args:
        engine, golden, model, tolerances: as for `run_gates`.

    Raises:
        EngineError: the engine refused an input.
    """
    fixed_length = model.tokenizer is not None and model.tokenizer.fixed_length
    sizes = Sizes.of(golden, len(model.findings.prompts), None, fixed_length=fixed_length)
    runs = GraphRuns(engine, golden, sizes)
    try:
        runs.run_usual()
    except ContractError as error:
        return [_contract_gate(error)]
    results = [*_finite(runs)]
    if all(result.passed for result in results):
        results += compare_outputs(runs, golden, tolerances)
    return results


def run_average_gate(
    members: Sequence[tuple[Engine, Golden, ModelSpec]],
    whole: ModelSpec,
    lead: int,
    tolerances: Tolerances,
    profiles: Profiles,
) -> GateResult:
    """Run an ensemble as for a user, and compare its probabilities with the mean of its members' in PyTorch.

    Args:
        members: engine, golden data and model of each member.
        whole: the ensemble.
        lead: index of the member that gives the regions.
        tolerances: the limits.
        profiles: sizes of the manifest.

    Raises:
        EngineError: an engine refused an input.
    """
    from lrclr.inference import ZeroShotClassifier

    classifiers = []
    for engine, golden, model in members:
        fixed_length = model.tokenizer is not None and model.tokenizer.fixed_length
        sizes = Sizes.of(golden, len(model.findings.prompts), profiles, fixed_length=fixed_length)
        runs = GraphRuns(engine, golden, sizes)
        runs.run_images()
        # So that an exchange of equally important patches, which the region gap measures, changes no local score.
        classifiers.append(ZeroShotClassifier(model, _RecordingEngine(runs, golden, model)))
    expected = np.stack([golden.probabilities for _, golden, _ in members]).mean(0, dtype=np.float64)
    ensemble = ZeroShotClassifier(whole, members[lead][0], members=classifiers, lead=lead)
    try:
        predictions = ensemble.predict(gate_images())
        answer = np.array([[finding.probability for finding in one.findings] for one in predictions])
        error = measure.absolute_error(answer, expected)
    except NonFiniteError:
        error = math.nan
    note = f"mean of {len(members)} members"
    return GateResult("absolute error", "mean probabilities", error, tolerances.probability_error, "max", note)


def compare_outputs(runs: GraphRuns, golden: Golden, limits: Tolerances) -> list[GateResult]:
    """Compare the outputs of the graphs with PyTorch's. The result of a gate is that of its worst run."""
    return [
        *_worst(_image(run, golden, limits) for run in runs.image),
        *_worst(_text(run, golden, limits) for run in runs.text),
        *_worst(_fusion(run, golden, limits) for run in runs.fusion),
    ]


def _contract_gate(error: ContractError) -> GateResult:
    return GateResult("outputs unlike the contract", error.graph, 1, 0, "max", "; ".join(error.wrong))


def _worst(of_runs: Iterable[Iterable[GateResult]]) -> list[GateResult]:
    """The worst result of each gate and subject. NaN is the worst of all."""
    worst: dict[tuple[str, str], GateResult] = {}
    for result in (result for results in of_runs for result in results):
        key = (result.gate, result.subject)
        if key not in worst or _badness(result) > _badness(worst[key]):
            worst[key] = result
    return list(worst.values())


def _badness(result: GateResult) -> float:
    if math.isnan(result.value):
        return math.inf
    return result.value if result.limit == "max" else -result.value


def _finite(runs: GraphRuns) -> list[GateResult]:
    found: dict[str, int] = {}
    graphs = (("image_encoder", runs.image), ("text_encoder", runs.text), ("fusion_head", runs.fusion))
    for graph, some in graphs:
        for run in some:
            for name, array in run.outputs.items():
                bad = int((~np.isfinite(array)).sum())
                found[f"{graph}.{name}"] = max(found.get(f"{graph}.{name}", 0), bad)
    return [GateResult("non-finite values", subject, bad, 0, "max") for subject, bad in found.items()]


def _image(run: GraphRun, golden: Golden, limits: Tolerances) -> Iterator[GateResult]:
    image, rows = run.outputs, run.images
    embedding = golden["image_embedding"][rows]
    yield from _vectors("image_encoder.image_embedding", image["image_embedding"], embedding, limits, run.where)
    if not run.where:
        yield _spread("image_encoder.image_embedding", image["image_embedding"], embedding, limits)
    gap, share = measure.region_gap(image["region_index"], golden["rollout"][rows])
    note = _noted(f"{share:.1%} of the picks are PyTorch's", run.where)
    yield GateResult("region gap", "image_encoder.region_index", gap, limits.region_gap, "max", note)
    for name in _BY_LARGEST_ERROR:
        error = measure.relative_error(image[name], golden[name][rows])
        yield GateResult("max error", f"image_encoder.{name}", error, limits.max_error, "max", run.where)
    same = _same_regions(image["region_index"], golden["region_index"][rows])
    tokens = golden["region_tokens"][rows]
    yield from _vectors("image_encoder.region_tokens", image["region_tokens"][same], tokens[same], limits, run.where)


def _same_regions(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """``[B, 1+R]``: CLS, and the regions that both selected. Different patches have different tokens."""
    return np.pad(one == other, ((0, 0), (1, 0)), constant_values=True)


def _text(run: GraphRun, golden: Golden, limits: Tolerances) -> Iterator[GateResult]:
    text, rows = run.outputs, run.prompts
    embedding = golden["text_embedding"][rows]
    yield from _vectors("text_encoder.text_embedding", text["text_embedding"], embedding, limits, run.where)
    if not run.where:
        yield _spread("text_encoder.text_embedding", text["text_embedding"], embedding, limits)
    tokens = text["text_tokens"].shape[1]
    real = golden["text_mask"][rows, :tokens].astype(bool)
    expected = golden["text_tokens"][rows, :tokens]
    yield from _vectors("text_encoder.text_tokens", text["text_tokens"][real], expected[real], limits, run.where)


def _fusion(run: GraphRun, golden: Golden, limits: Tolerances) -> Iterator[GateResult]:
    pairs = np.ix_(run.images, run.prompts)
    for name in GRAPHS["fusion_head"].output_names:
        error = measure.absolute_error(run.outputs[name], golden[name][pairs])
        yield GateResult("absolute error", f"fusion_head.{name}", error, limits.score_error, "max", run.where)


def _invariance(runs: GraphRuns, golden: Golden, limits: Tolerances) -> list[GateResult]:
    """How much an output changes with the size of the batch and the padding, relative to the usual run."""
    gate = "change by batch and padding"

    def image(run: GraphRun) -> Iterator[GateResult]:
        usual = {name: array[run.images] for name, array in runs.image[0].outputs.items()}
        same = _same_regions(run.outputs["region_index"], usual["region_index"])
        for name in ("image_embedding", *_BY_LARGEST_ERROR):
            yield _change(gate, f"image_encoder.{name}", run, run.outputs[name], usual[name], limits)
        tokens, of_usual = run.outputs["region_tokens"], usual["region_tokens"]
        yield _change(gate, "image_encoder.region_tokens", run, tokens[same], of_usual[same], limits)

    def fusion(run: GraphRun) -> Iterator[GateResult]:
        pairs = np.ix_(run.images, run.prompts)
        for name in GRAPHS["fusion_head"].output_names:
            usual = runs.fusion[0].outputs[name][pairs]
            # Local scores may all be near 0. Attention is not, but the more regions there are, the smaller it is.
            difference = measure.absolute_error if name == "local_score" else measure.relative_error
            change = difference(run.outputs[name], usual)
            yield GateResult(gate, f"fusion_head.{name}", change, limits.invariance, "max", run.where)

    return [
        *_worst(image(run) for run in runs.image[1:]),
        *_worst(_text_changes(gate, runs, golden, run, limits) for run in runs.text[1:]),
        *_worst(fusion(run) for run in runs.fusion[1:]),
    ]


def _text_changes(
    gate: str, runs: GraphRuns, golden: Golden, run: GraphRun, limits: Tolerances
) -> Iterator[GateResult]:
    usual = runs.text[0].outputs
    embedding, tokens = run.outputs["text_embedding"], run.outputs["text_tokens"]
    usual_embedding = usual["text_embedding"][run.prompts]
    yield _change(gate, "text_encoder.text_embedding", run, embedding, usual_embedding, limits)
    real = golden["text_mask"][run.prompts, : tokens.shape[1]].astype(bool)
    of_usual = usual["text_tokens"][run.prompts, : tokens.shape[1]]
    yield _change(gate, "text_encoder.text_tokens", run, tokens[real], of_usual[real], limits)


def _change(
    gate: str, subject: str, run: GraphRun, actual: NDArray[Any], usual: NDArray[Any], limits: Tolerances
) -> GateResult:
    return GateResult(gate, subject, measure.relative_error(actual, usual), limits.invariance, "max", run.where)


def _after_eot(
    runs: GraphRuns, golden: Golden, noisy: GraphRun, limits: Tolerances, *, causal: bool
) -> list[GateResult]:
    """Check that tokens after the end of a prompt change nothing in a causal text encoder, and something in others."""
    gate = "change by tokens after EOT"
    if causal:
        return list(_text_changes(gate, runs, golden, noisy, limits))
    usual = runs.text[0].outputs["text_embedding"][noisy.prompts]
    change = measure.relative_error(noisy.outputs["text_embedding"], usual)
    # Whatever the precision: what a causal text encoder changes is rounding, and far less.
    least = min(limits.invariance, _LEAST_CHANGE)
    return [GateResult(gate, "text_encoder.text_embedding", change, least, "min", noisy.where)]


def _vectors(
    subject: str, actual: NDArray[Any], expected: NDArray[Any], limits: Tolerances, where: str
) -> Iterator[GateResult]:
    yield GateResult("cosine", subject, measure.cosine(actual, expected), limits.cosine, "min", where)
    # A single row, or copies of it, become zero when their mean is subtracted.
    if measure.spread(expected) > measure.NO_SPREAD:
        centred = measure.centred_cosine(actual, expected)
        yield GateResult("centred cosine", subject, centred, limits.centred_cosine, "min", where)
    yield GateResult("max error", subject, measure.relative_error(actual, expected), limits.max_error, "max", where)


def _spread(subject: str, actual: NDArray[Any], expected: NDArray[Any], limits: Tolerances) -> GateResult:
    wanted = measure.spread(expected)
    # A reference that does not vary over its inputs is degenerate: no engine can be compared with it.
    ratio = measure.spread(actual) / wanted if wanted > measure.NO_SPREAD else 0.0
    note = "" if wanted > measure.NO_SPREAD else "PyTorch's embeddings are alike for all inputs"
    return GateResult("spread over inputs", subject, ratio, limits.spread, "min", note)


def _noted(note: str, where: str) -> str:
    return f"{note}, {where}" if where else note


class _RecordingEngine:
    """Engine for a `ZeroShotClassifier` that records its inputs: the gates of preprocessing, tokens and probabilities.

    It answers with the image encoder's outputs of the usual run. Where the engine selected another patch than PyTorch,
    it gives PyTorch's: the region gap measures such exchanges, which may change a local score.
    """

    def __init__(self, runs: GraphRuns, golden: Golden, model: ModelSpec) -> None:
        self._runs, self._golden, self._model = runs, golden, model
        self._pixels: list[NDArray[Any]] = []
        self._token_ids: list[NDArray[Any]] = []
        self._images = gate_images()
        self._refusal = ""

    @property
    def name(self) -> str:
        return "gates"

    @property
    def tokens_of_call(self) -> int | None:
        """As for a user, so that the gate of probabilities runs the same groups of prompts."""
        return tokens_of_call(self._runs.engine)

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
        """As `Engine.run`."""
        if graph == "text_encoder":
            self._token_ids.append(inputs["input_ids"])
        if graph != "image_encoder":
            return self._runs.run(graph, dict(inputs))
        start = sum(len(batch) for batch in self._pixels)
        self._pixels.append(inputs["pixel_values"])
        rows = slice(start, start + len(inputs["pixel_values"]))
        outputs = {name: array[rows] for name, array in self._runs.image[0].outputs.items()}
        same = _same_regions(outputs["region_index"], self._golden["region_index"][rows])
        tokens = np.where(same[..., None], outputs["region_tokens"], self._golden["region_tokens"][rows])
        return {**outputs, "region_tokens": tokens}

    def probability_gate(self, limits: Tolerances) -> list[GateResult]:
        """The probabilities of the findings, computed as for a user."""
        from lrclr.inference import ZeroShotClassifier

        try:
            predictions = ZeroShotClassifier(self._model, self).predict(self._images)
            answer = np.array([[finding.probability for finding in one.findings] for one in predictions])
            error = measure.absolute_error(answer, self._golden.probabilities)
        except NonFiniteError:
            # The fusion head is finite for PyTorch's regions, and not for those of the engine.
            error = math.nan
        return [GateResult("absolute error", "probabilities", error, limits.probability_error, "max")]

    def input_gates(self) -> list[GateResult]:
        """Pixel values and token numbers, computed again and compared with those of the export. They must be equal."""
        golden, model = self._golden, self._model
        other = int(images_sha256(self._images) != golden.images_sha256)
        note = "export the checkpoint again with this lrclr" if other else ""
        results = [GateResult("radiographs unlike the export's", "samples", other, 0, "max", note)]
        computed = np.concatenate(self._pixels) if self._pixels else self._preprocessed()
        pixels = _difference(computed, golden["pixel_values"])
        results.append(GateResult("change since the export", "pixel values", pixels, 0, "max"))
        wrong = self._wrong_tokens()
        results.append(GateResult("change since the export", "token numbers", wrong, 0, "max", self._refusal))
        names = (*model.findings.names, *model.findings.prompts)
        known = (*golden.findings, *golden.prompts[: len(model.findings.prompts)])
        unlike = sum(one != other for one, other in itertools.zip_longest(names, known))
        results.append(GateResult("texts unlike the export's", "findings", unlike, 0, "max", f"{len(names)} texts"))
        return results

    def _preprocessed(self) -> NDArray[np.float32]:
        from lrclr.preprocessing import preprocess_batch

        return preprocess_batch(self._images, self._model.preprocess)

    def _wrong_tokens(self) -> float:
        """Number of token numbers that differ, of the golden prompts and of those that the classifier encoded."""
        golden, tokenizer = self._golden, self._model.tokenizer
        assert tokenizer is not None  # noqa: S101 - for the type checker
        try:
            tokens = tokenizer.encode(golden.prompts, truncate=True)
        except FindingsError as error:
            self._refusal = str(error)
            return math.nan
        wrong = max(_unequal(tokens.input_ids, golden["input_ids"]), _unequal(tokens.mask, golden["text_mask"]))
        # The classifier encodes prompts in groups of similar lengths.
        known = {tuple(row) for row in golden["input_ids"][: len(self._model.findings.prompts)].tolist()}
        padding = [tokenizer.pad_id] * golden["input_ids"].shape[1]
        read = {tuple(row + padding[len(row) :]) for ids in self._token_ids for row in ids.tolist()}
        return max(wrong, len(read - known))


def _unequal(one: NDArray[Any], other: NDArray[Any]) -> int:
    return int((one != other).sum()) if one.shape == other.shape else max(one.size, other.size)


def _difference(one: NDArray[Any], other: NDArray[Any]) -> float:
    return measure.absolute_error(one, other) if one.shape == other.shape else math.inf
