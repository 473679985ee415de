"""Builds a bundle for another engine. The bundle is changed only if all gates pass that can run on this machine."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrclr._files import link_tree, replace_directory, write_whole
from lrclr.auto import choose_engine
from lrclr.bundle import GRAPHS, Bundle, bundle_entries, plan_file
from lrclr.engines import AUTO, CPU_ENGINES, Gpu, TensorRTEngine, gpus, tensorrt_library
from lrclr.engines._layer_types import UNKNOWN
from lrclr.errors import EngineError, MissingExtraError, UsageError
from lrclr.verification import GateResult, raise_refused, verify
from lrclr_export.plans import BuildOptions, Plan, plan_from_onnx, precision_gates
from lrclr_export.product_types import PRODUCT_TYPES
from lrclr_export.profiles import profiles_of_graph
from lrclr_export.progress import NO_PROGRESS
from lrclr_export.repository.build_openvino import add_openvino
from lrclr_export.repository.records import write_records

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lrclr.bundle import Manifest
    from lrclr_export.progress import ProgressCallbacks

_PRODUCTS = ("Conv", "Gemm", "MatMul")
_FIRST_WITH_FP8 = 8.9  # compute capability


def best_engine() -> tuple[str, str]:
    """The engine for a new bundle on this machine, and the reason: TensorRT with a GPU, else ONNX Runtime."""
    if not gpus():
        return "onnxruntime", "this machine has no GPU"
    try:
        library = tensorrt_library("tensorrt")
    except (EngineError, MissingExtraError) as error:
        return "onnxruntime", error.what
    return "tensorrt", f"this machine has TensorRT {library.__version__} and {gpus()[0].name}"


def check_buildable(options: BuildOptions, precision: str) -> None:
    """Check the requirements of `add_plans` before any work.

    Args:
        options: options of the plans.
        precision: precision of the bundle.

    Raises:
        UsageError: this machine has no GPU to build for, the GPU has no FP8, or the library is not installed.
        EngineError: the library cannot be used.
    """
    tensorrt_library(options.engine)
    here = gpus()
    capabilities = _capabilities(options, here)
    if precision == "fp8":
        older = [one for one in capabilities if float(one) < _FIRST_WITH_FP8]
        if older or options.hardware_compatible == "ampere+":
            raise UsageError(
                f"GPUs of compute capability {', '.join(older) or '8.0 and 8.6'} have no products in FP8",
                why=f"FP8 needs {_FIRST_WITH_FP8} (Ada), 9.0 (Hopper) or newer",
                fix="Export with --fp16 for these GPUs, or omit --hardware-compatible ampere+.",
            )
    if (options.refit or options.strip) and not here:
        raise UsageError(
            f"{options.engine} needs a GPU to build plans whose weights can be exchanged",
            why="this machine has none",
            fix="Omit --refit and --strip, or build on a machine with a GPU.",
        )


def build_bundle(
    path: Path,
    options: BuildOptions | str,
    *,
    why: str = "asked for",
    progress: ProgressCallbacks = NO_PROGRESS,
) -> Bundle:
    """Build the bundle at `path` for another engine. After an error it is unchanged.

    Args:
        path: the bundle's folder.
        options: options of plans; or the name of an engine for the CPU, or `AUTO` for the fastest of these. Existing
            plans are kept.
        why: the reason for that engine, for the manifest.
        progress: progress callbacks.

    Raises:
        BundleError: the bundle is missing or damaged.
        UsageError: this machine cannot build for that engine.
        ExportError: a plan could not be built.
        GateError: a gate refused.
    """
    bundle = Bundle(path)
    if isinstance(options, BuildOptions):
        check_buildable(options, bundle.manifest.precision)
    elif options not in {*CPU_ENGINES, AUTO}:
        raise UsageError(f"unknown engine {options!r} for the CPU", fix=f"Choose {' or '.join(CPU_ENGINES)}.")
    with replace_directory(path, expected=bundle_entries(path), overwrite=True) as staging:
        link_tree(bundle.path, staging)
        copy = Bundle.unfinished(staging, bundle.manifest)
        if isinstance(options, str):
            manifest = set_cpu_engine(copy, options, why=why, progress=progress)
        else:
            manifest = add_plans(copy, options, why=why, progress=progress)
        write_records(staging, manifest)
    return Bundle(path)


def set_cpu_engine(
    bundle: Bundle,
    engine: str,
    *,
    why: str,
    progress: ProgressCallbacks = NO_PROGRESS,
) -> Manifest:
    """Make an engine for the CPU the engine of an unfinished bundle.

    Args:
        bundle: unfinished; files are added to its folder.
        engine: one of `CPU_ENGINES`, or `AUTO` for the fastest on this machine that passes the gates.
        why: the reason for that engine; `AUTO` finds its own reason.
        progress: progress callbacks.

    Returns:
        The manifest to write.

    Raises:
        UsageError: the bundle is in FP8.
        GateError: a gate refused.
    """
    # For AUTO, too: it chooses among the engines for the CPU.
    bundle.require_products("the CPU" if engine == AUTO else engine)
    if engine == AUTO:
        progress.task("measure the engines of this machine")
        chosen = choose_engine(bundle)
        engine, why = chosen.kind, chosen.why

    def changed(member: Bundle) -> Manifest:
        if engine == "openvino":
            return add_openvino(member, why=why, progress=progress)
        return replace(member.manifest, engine={"name": engine, "why": why})

    return _of_each(bundle, changed, progress)


def _of_each(bundle: Bundle, changed: Callable[[Bundle], Manifest], progress: ProgressCallbacks) -> Manifest:
    """The manifest of a bundle in which that of each member was changed."""
    manifests = []
    for number, member in enumerate(bundle.members):
        if len(bundle.members) > 1:
            progress.task(f"member {bundle.manifest.member_names[number]}")
        manifests.append(changed(member))
    return bundle.manifest.with_members(manifests)


def add_plans(
    bundle: Bundle,
    options: BuildOptions,
    *,
    why: str,
    progress: ProgressCallbacks = NO_PROGRESS,
) -> Manifest:
    """Build plans in the folder of an unfinished bundle. Parameters as for `build_bundle`.

    Returns:
        The manifest to write.
    """
    return _of_each(bundle, lambda member: _with_plans(member, options, why=why, progress=progress), progress)


def _with_plans(bundle: Bundle, options: BuildOptions, *, why: str, progress: ProgressCallbacks) -> Manifest:
    """As `add_plans`, of a single network."""
    manifest = bundle.manifest
    library = tensorrt_library(options.engine)
    here = gpus()
    capabilities = _capabilities(options, here)
    entry: dict[str, Any] = {
        "engine": options.engine,
        "library": str(library.__version__),
        "compute_capabilities": list(capabilities),
        "built_on": str(here[0]) if here else "no GPU",
        "options": options.to_dict(),
        "region_selection": None,
        "graphs": {},
    }
    results: list[GateResult] = []
    layer_types: dict[str, dict[str, dict[str, int]]] = {}
    quantised = _quantised_products(manifest)
    for graph in GRAPHS:
        progress.task(f"build {graph} with {options.engine} for compute capability {', '.join(capabilities)}")
        shapes = {name: tensor["shape"] for name, tensor in manifest.graphs[graph]["inputs"].items()}
        plan = plan_from_onnx(
            bundle.graph_path(graph),
            options,
            name=graph,
            profiles=profiles_of_graph(shapes, manifest.profiles),
            selects_regions=manifest.graphs[graph]["region_maps"] is not None,
            half_precision=manifest.precision in {"fp16", "fp8"},
            on_progress=progress.step,
        )
        results += precision_gates(
            graph,
            plan.precision_histogram,
            manifest.precision,
            quantised_products=quantised[graph],
            float32_layers=len(manifest.graphs[graph].get("float32_parts", {}).get("layers", ())),
        )
        results += _fusion_gates(graph, plan, options.engine)
        file = bundle.graph_path(graph).with_name(plan_file(options.engine, capabilities[0]))
        write_whole(file, plan.data)
        entry["graphs"][graph] = {
            "file": file.relative_to(bundle.path).as_posix(),
            "precision_histogram": plan.precision_histogram,
            "profiles": plan.profiles,
            "built": plan.record.to_dict(),
        }
        entry["region_selection"] = entry["region_selection"] or plan.region_selection
        layer_types[graph] = {"builder's log": plan.record.written_types}
    measured: list[GateResult] = []
    # The name of the GPU that ran the plans, if there is one.
    entry["gates_ran_on"] = None
    if here and here[0].capability in capabilities:
        progress.task(f"run the gates on {here[0].name}")
        with TensorRTEngine.of_entry(bundle, entry) as engine:
            for graph in GRAPHS:
                layer_types[graph] = {"inspector": engine.written_types(graph), **layer_types[graph]}
            measured = list(verify(bundle, engine).gates)
        entry["gates_ran_on"] = str(here[0])
    for graph in GRAPHS:
        described = entry["graphs"][graph]
        results += _written_gates(graph, layer_types[graph], described, manifest.precision, quantised[graph])
    progress.gates([*results, *measured])
    raise_refused([*results, *measured])
    entry["gates"] = [result.to_dict() for result in (*results, *measured)]
    others = [other for other in manifest.plans if not _replaced(other, entry)]
    plans = sorted([*others, entry], key=lambda one: (one["engine"], one["compute_capabilities"]))
    return replace(manifest, plans=plans, engine={"name": options.engine, "why": why})


def _capabilities(options: BuildOptions, here: list[Gpu]) -> tuple[str, ...]:
    if options.compute_capabilities:
        return options.compute_capabilities
    if not here:
        fix = (
            "Give --compute-capability, such as 8.6."
            if options.engine == "tensorrt-rtx"
            else "Run `lrclr build` on the machine that serves."
        )
        raise UsageError(f"plans of {options.engine} need a GPU", why="this machine has none", fix=fix)
    return (here[0].capability,)


def _quantised_products(manifest: Manifest) -> dict[str, int]:
    """Number of products of each ONNX graph in the type that the bundle's precision quantises to."""
    stored = PRODUCT_TYPES[manifest.precision][0]
    histograms = {graph: manifest.graphs[graph]["precision_histogram"] for graph in GRAPHS}
    return {
        graph: sum(histogram.get(kind, {}).get(stored, 0) for kind in _PRODUCTS)
        for graph, histogram in histograms.items()
    }


def _fusion_gates(graph: str, plan: Plan, engine: str) -> list[GateResult]:
    """Check that TensorRT-RTX fused the attention of every layer of a tower.

    It does so for several heads of 12 to 128, and not for a single head. Full TensorRT may use other names of layers.
    The fusion head's attention over a few regions need not be fused.
    """
    if graph == "fusion_head" or engine != "tensorrt-rtx" or plan.attention_layers is None or not plan.record.layers:
        return []
    fewest = min(profile["fused_attention"] for profile in plan.record.to_dict()["profiles"])
    return [GateResult("layers with fused attention", f"{graph}, plan", fewest, plan.attention_layers, "min")]


def _written_gates(
    graph: str, layer_types: Mapping[str, Mapping[str, int]], entry: dict[str, Any], precision: str, quantised: int
) -> list[GateResult]:
    """Check that the layers of a finished plan write the types of the network.

    Args:
        graph: name of the graph.
        layer_types: for each source, the types and their numbers. The source with the fewest unknown types is used, and
            the first of equal ones.
        entry: entry of the graph in the manifest, to which the types are added.
        precision: precision of the bundle.
        quantised: number of int8 or float8 products of the ONNX graph.
    """
    known = [source for source, types in layer_types.items() if types.keys() - {UNKNOWN}]
    source = min(known, key=lambda one: layer_types[one].get(UNKNOWN, 0), default=None)
    written = {} if source is None else dict(layer_types[source])
    subject = f"{graph}, plan, by the {source}"
    types = PRODUCT_TYPES[precision]
    limit: tuple[float, Any] = (1, "min") if "float16" in types else (0, "max")
    results = [GateResult("layers that write half precision", subject, written.get("float16", 0), *limit)]
    if len(types) > 1:
        count = written.get(types[0], 0)
        results.append(GateResult(f"layers that write {precision}", subject, count, min(1, quantised), "min"))
    if source is None:
        results = []
    elif UNKNOWN in written:
        # A missing type may be among the unknown ones.
        results = [result for result in results if result.passed or result.limit == "max"]
    entry["layers_write"], entry["layer_types_from"] = written, source if results else None
    return results


def _replaced(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether the new plans have the files of the old ones."""
    return all(old["graphs"][graph]["file"] == new["graphs"][graph]["file"] for graph in GRAPHS)
