"""`verify`: runs the gates of a bundle. It does not need torch."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lrclr._processors import processors
from lrclr.bundle import GRAPHS, Golden
from lrclr.engines import engines_of, profiled
from lrclr.verification._executed import executed_gates, executed_products
from lrclr.verification._float_form import can_rewrite, float_forms
from lrclr.verification._result import GateResult, Tolerances, raise_refused
from lrclr.verification._run import graph_gates, run_average_gate, run_gates
from lrclr.verification._task import task_auroc, task_gate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.bundle import Bundle
    from lrclr.engines import Engine
    from lrclr.inference import ModelSpec

_Products = dict[str, dict[str, int]]
_FLOAT_UNCHECKED = (
    "the {} graphs were not checked in float32 arithmetic, as at the export, because {} is not installed "
    "(pip install {})"
)
_INLINED_UNCHECKED = (
    "the inlined graphs were not checked, because onnxruntime is not installed (pip install '.[onnxruntime]')"
)
_FLOAT = " (float32)"
_INLINED = " (inlined)"


@dataclass(frozen=True)
class VerificationReport:
    """Results of the gates of a bundle.

    Attributes:
        engine: name of the engine that ran the graphs.
        gates: every gate with its limit and its measured value.
        notes: gates that could not run here, with the reason.
        products: for each graph the number of products that the engine runs, by type; empty if it does not report them.
            Of an ensemble, the member's name precedes the graph's.
    """

    engine: str
    gates: tuple[GateResult, ...]
    notes: tuple[str, ...] = ()
    products: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def ran_on(self) -> str:
        """Engine and machine, for a manifest."""
        return f"{self.engine}, {platform.machine()}, {processors()} cores"

    @property
    def refused(self) -> tuple[GateResult, ...]:
        """The gates that refused."""
        return tuple(gate for gate in self.gates if not gate.passed)

    @property
    def passed(self) -> bool:
        """Whether no gate refused."""
        return not self.refused

    def require(self) -> None:
        """Raise GateError if a gate refused."""
        raise_refused(self.gates)

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types."""
        return {
            "engine": self.engine,
            "gates": [gate.to_dict() for gate in self.gates],
            "notes": list(self.notes),
            "products": {graph: dict(types) for graph, types in self.products.items()},
        }


def verify(bundle: Bundle, engine: Engine, *, auroc: float | None = None) -> VerificationReport:
    """Run every gate of a bundle on this machine.

    In this order: preprocessing and tokenizer against the inputs of the export; the graphs against PyTorch, at the
    usual sizes and at the ends of the profiles; the probabilities; graphs of reduced precision in float32 arithmetic,
    at the limits of float32; the inlined graph, if there is one; the types in which the engine runs the products; and,
    if all these gates pass, the task. Of an ensemble these are the gates of each member, whose name precedes their
    subjects. If they all pass, the gate of the mean probability follows.

    Args:
        bundle: the bundle. `Bundle` has compared its files with the manifest.
        engine: runs its graphs; for an ensemble `lrclr.engines.MemberEngines`.
        auroc: `task_auroc` of the bundle with this engine, if it was measured before. For an ensemble it is not used:
            the task gates are those of its members.

    Raises:
        EngineError: the engine failed for an input within the bundle's profiles.
        BundleError: the golden file is damaged.
    """
    if len(bundle.members) == 1:
        gates, notes, products = _verify_network(bundle, engine, auroc)
        return VerificationReport(engine.name, tuple(gates), tuple(notes), products)
    results: list[GateResult] = []
    remarks: dict[str, None] = {}
    run: _Products = {}
    for name, member, runner in zip(bundle.manifest.member_names, bundle.members, engines_of(engine), strict=True):
        gates, notes, products = _verify_network(member, runner, None)
        results += [replace(gate, subject=f"{name}: {gate.subject}") for gate in gates]
        remarks |= dict.fromkeys(notes)
        run |= {f"{name}: {graph}": types for graph, types in products.items()}
    if all(gate.passed for gate in results):
        results.append(average_gate(bundle, engine))
    return VerificationReport(engine.name, tuple(results), tuple(remarks), run)


def average_gate(bundle: Bundle, engine: Engine) -> GateResult:
    """Compare the probabilities of an ensemble with the mean of those of its members in PyTorch."""
    from lrclr.inference import ModelSpec

    goldens = [Golden.load(member.golden_path) for member in bundle.members]
    specs = [ModelSpec.of_bundle(member) for member in bundle.members]
    parts = list(zip(engines_of(engine), goldens, specs, strict=True))
    manifest = bundle.manifest
    limits = Tolerances.of_manifest(manifest.tolerances)
    return run_average_gate(parts, ModelSpec.of_bundle(bundle), manifest.lead, limits, manifest.profiles)


def _verify_network(
    bundle: Bundle, engine: Engine, auroc: float | None
) -> tuple[list[GateResult], list[str], _Products]:
    """The gates of a single network, the gates that could not run here with the reason, and the products that ran."""
    from lrclr.engines._onnxruntime_package import has_onnxruntime
    from lrclr.inference import ModelSpec

    manifest = bundle.manifest
    golden, tolerances = Golden.load(bundle.golden_path), Tolerances.of_manifest(manifest.tolerances)
    model = ModelSpec.of_bundle(bundle)
    gates = run_gates(engine, golden, model, tolerances, manifest.profiles)
    notes: list[str] = []
    if golden.stored is not None:
        if not can_rewrite():
            notes.append(_FLOAT_UNCHECKED.format(manifest.precision, "onnx", "onnx"))
        elif not has_onnxruntime():
            notes.append(_FLOAT_UNCHECKED.format(manifest.precision, "onnxruntime", "'.[onnxruntime]'"))
        else:
            gates += _float_form_gates(bundle, engine, golden, model)
    if any(bundle.inlined_path(graph) for graph in manifest.graphs):
        if has_onnxruntime():
            gates += _inlined_gates(bundle, golden, model, tolerances)
        else:
            notes.append(_INLINED_UNCHECKED)
    products: _Products = {}
    reporting = profiled(engine)
    if reporting is not None:
        products = executed_products(reporting, golden)
        more, remarks = executed_gates(bundle, reporting, products)
        gates += more
        notes += remarks
    if all(gate.passed for gate in gates):
        from lrclr.inference import ZeroShotClassifier

        classifier = ZeroShotClassifier(bundle, engine)
        measure = partial(task_auroc, classifier) if auroc is None else lambda: auroc
        gates += task_gate(measure, float(golden.task_auroc), tolerances.task_auroc)
    return gates, notes, products


def _float_form_gates(bundle: Bundle, engine: Engine, golden: Golden, model: ModelSpec) -> list[GateResult]:
    """The graphs without rounding of anything but their weights, against PyTorch with the same weights."""
    from lrclr.engines import OnnxRuntimeEngine

    assert golden.stored is not None  # noqa: S101 - for the type checker
    if isinstance(engine, OnnxRuntimeEngine):
        # So that the weights are not in memory twice.
        engine.release()
    expected = replace(golden, tensors={**golden.tensors, **golden.stored})
    with float_forms({graph: bundle.graph_path(graph) for graph in GRAPHS}) as files:
        gates = graph_gates(
            OnnxRuntimeEngine(files, release_memory=True), expected, model, Tolerances.for_precision("fp32")
        )
    return [replace(gate, subject=gate.subject + _FLOAT) for gate in gates if gate.gate != "non-finite values"]


def _inlined_gates(bundle: Bundle, golden: Golden, model: ModelSpec, tolerances: Tolerances) -> list[GateResult]:
    """The graphs for runtimes without ONNX functions, run by ONNX Runtime."""
    from lrclr.engines import OnnxRuntimeEngine

    inlined = {graph: path for graph in GRAPHS if (path := bundle.inlined_path(graph)) is not None}
    files = {graph: inlined.get(graph, bundle.graph_path(graph)) for graph in GRAPHS}
    gates = graph_gates(OnnxRuntimeEngine(files, release_memory=True), golden, model, tolerances)
    of_inlined = [gate for gate in gates if gate.subject.partition(".")[0] in inlined]
    return [replace(gate, subject=gate.subject + _INLINED) for gate in of_inlined]
