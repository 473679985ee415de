"""Exports a checkpoint as a bundle, if all gates pass."""

from __future__ import annotations

import contextlib
import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr._files import replace_directory
from lrclr.budget import release_freed_memory
from lrclr.bundle import (
    FINDINGS,
    GOLDEN,
    NO_CACHE,
    SERVER_MODEL,
    TOKENIZER,
    Bundle,
    Golden,
    GraphEntry,
    Manifest,
    bundle_entries,
)
from lrclr.contract import ModelNames
from lrclr.engines import OnnxRuntimeEngine
from lrclr.errors import UsageError
from lrclr.verification import GateResult, Tolerances, gate_images, raise_refused, verify
from lrclr_export.onnx.activations import TOWERS, by_block, float32_parts, measured_activations
from lrclr_export.onnx.blame import first_bad_layer
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.onnx_graph import INLINED, check_opset, typed_onnx_from_module
from lrclr_export.onnx.precision import (
    half_precision,
    precision_gate,
    rounding_gates,
    stored_in_float32,
)
from lrclr_export.onnx.reference_inputs import reference_gates
from lrclr_export.profiles import profiles
from lrclr_export.progress import NO_PROGRESS
from lrclr_export.quantize import (
    FIRST_OPSET,
    QUANTISED,
    calibration_tokens,
    carried_calibration,
    quantized,
    read_calibration,
    scale_gate,
    with_patch_product,
)
from lrclr_export.repository.entries import graph_entry, made_with, model_entry, scoring_entry, tokenizer_entry
from lrclr_export.repository.golden import golden_from_checkpoint
from lrclr_export.repository.records import write_records
from lrclr_export.repository.triton_config import warmup_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from lrclr.model import LrclrModel
    from lrclr_export.onnx.activations import Float32Parts, Largest
    from lrclr_export.onnx.onnx_graph import SavedGraph, TypedGraph
    from lrclr_export.progress import ProgressCallbacks
    from lrclr_export.quantize import Calibration


@dataclass(frozen=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        precision: ``"fp16"``, ``"fp32"``, ``"int8"`` or ``"fp8"``, which only TensorRT computes.
        max_batch: largest number of images of a request to the server.
        opset: ONNX operator set, 18 to 23.
        tolerances: limits of the gates to override.
        why_engine: the reason for ONNX Runtime as the engine, for the manifest.
        calibration: for int8 and fp8, a folder or dataset of images for the ranges; by default the packaged images.
        inline: whether to write graphs without ONNX functions too, for runtimes without functions.
        names: names of the models in Triton, and their version.
        int8_search: for int8, whether layers that int8 does not suit are looked for and kept in float32. Without it
            all layers are in int8 that can be.
    """

    precision: str = "fp16"
    max_batch: int = 32
    opset: int = 20
    tolerances: Mapping[str, float] = field(default_factory=dict)
    why_engine: str = "asked for"
    calibration: Path | None = None
    inline: bool = False
    names: ModelNames = field(default_factory=ModelNames)
    int8_search: bool = True

    def __post_init__(self) -> None:
        if not self.int8_search and self.precision != "int8":
            raise UsageError("only int8 has a search for layers", fix="Add --int8, or omit --int8-search.")
        if self.calibration is not None and self.precision not in QUANTISED:
            raise UsageError("only int8 and fp8 are calibrated", fix="Add --int8 or --fp8, or omit --calibration.")
        if self.precision == "fp8" and self.opset < FIRST_OPSET:
            raise UsageError(
                f"opset {self.opset} has no FP8", fix=f"Choose --opset {FIRST_OPSET} or newer, or omit --opset."
            )


def export_bundle(
    checkpoint: Checkpoint,
    output: Path,
    options: ExportOptions,
    *,
    progress: ProgressCallbacks = NO_PROGRESS,
    finish: Callable[[Bundle], Manifest] = lambda bundle: bundle.manifest,
) -> Bundle:
    """Export a checkpoint to the bundle `output`, in place of an existing bundle. After an error `output` is unchanged.

    Args:
        checkpoint: the checkpoint.
        output: the bundle's folder.
        options: options of the export.
        progress: progress callbacks.
        finish: called with the new bundle before it replaces the old one, such as `add_plans`. It returns the manifest
            to write.

    Raises:
        GateError: a gate refused. The error names the first layer that deviates.
        ExportError: a graph could not be made.
        UsageError: `output` holds other files than a bundle, or an option is wrong.
    """
    with replace_directory(output, expected=bundle_entries(output), overwrite=True) as staging:
        manifest = write_network(staging, checkpoint, options, progress=progress)
        write_server_model(staging, options.names)
        checkpoint.card.save(staging)
        finished = finish(Bundle.unfinished(staging, manifest))
        progress.task("write the manifest")
        write_records(staging, finished)
    return Bundle(output)


def write_server_model(staging: Path, names: ModelNames) -> None:
    """Write the folder of the model `lrclr`, without its configuration."""
    folder = staging / names.folder(names.classifier)
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(SERVER_MODEL)
    (folder / NO_CACHE).touch()


def write_network(
    staging: Path,
    checkpoint: Checkpoint,
    options: ExportOptions,
    *,
    golden_name: str = GOLDEN,
    progress: ProgressCallbacks = NO_PROGRESS,
) -> Manifest:
    """Write the graphs of a checkpoint, its golden data, tokenizer and findings into a folder, and run the gates.

    Args:
        staging: the folder.
        checkpoint: the checkpoint.
        options: options of the export. The graphs get its names.
        golden_name: name of the file with the golden data.
        progress: progress callbacks.

    Returns:
        The manifest, without files.

    Raises the errors of `export_bundle`.
    """
    tolerances = Tolerances.for_precision(options.precision).overridden(options.tolerances)
    check_opset(options.opset)
    names = options.names
    sizes = profiles(checkpoint.findings, checkpoint.tokenizer, max_batch=options.max_batch)
    calibration = _calibration(checkpoint, options)
    largest, in_float32 = _largest_activations(checkpoint, options.precision, progress)
    exported, quantization = _in_precision(checkpoint, calibration, options, tolerances, progress, in_float32)
    progress.task("run the PyTorch model on the gates' inputs")
    stored = None if options.precision == "fp32" else stored_in_float32(exported)
    golden = golden_from_checkpoint(checkpoint, stored=stored)
    is_rounded = stored is not None
    # Each of these networks has gigabytes: none is kept longer than it is needed.
    del stored
    release_freed_memory()
    entries, saved, scales = _write_graphs(staging, exported, options, largest, in_float32, progress)
    rounding: list[GateResult] = []
    if is_rounded:
        original = with_patch_product(checkpoint.model) if options.precision == "int8" else checkpoint.model
        rounding = rounding_gates(original, exported)
        del original
    del exported
    # torch's programs and their networks refer to each other.
    gc.collect()
    release_freed_memory()
    for name, inputs in warmup_inputs(golden, checkpoint.config.axis_sizes, sizes).items():
        warmup = staging / names.of(name) / "warmup"
        warmup.mkdir()
        for tensor, array in inputs.items():
            (warmup / tensor).write_bytes(np.ascontiguousarray(array).tobytes())
    checkpoint.tokenizer.save(staging / TOKENIZER)
    checkpoint.findings.save(staging / FINDINGS)
    golden.save(staging / golden_name)
    manifest = Manifest(
        made_with=made_with(),
        checkpoint={
            "source": checkpoint.source,
            "sha256": checkpoint.sha256,
            **({"origin": checkpoint.origin} if checkpoint.origin else {}),
        },
        model=model_entry(checkpoint),
        scoring=scoring_entry(checkpoint),
        preprocess=checkpoint.preprocess.to_dict(),
        tokenizer=tokenizer_entry(checkpoint),
        precision=options.precision,
        quantization=quantization,
        opset=options.opset,
        max_batch=options.max_batch,
        profiles=sizes,
        graphs=entries,
        engine={"name": "onnxruntime", "why": options.why_engine},
        triton=names.to_dict(),
        plans=[],
        tolerances={**tolerances.to_dict(), "overridden": sorted(options.tolerances)},
        gates=[],
        files={},
    )
    progress.task("run the gates")
    results = reference_gates(golden, gate_images(), checkpoint.preprocess, checkpoint.tokenizer)
    for name, entry in entries.items():
        histogram = entry["precision_histogram"]
        layers = quantization["graphs"][name][f"{options.precision}_layers"] if quantization else 0
        kept = len(in_float32[name].layers) if name in in_float32 else 0
        results += precision_gate(name, histogram, options.precision, quantised_layers=layers, float32_layers=kept)
    results += [*scales, *rounding]
    bundle = Bundle.unfinished(staging, manifest, golden=golden_name)
    report = verify(bundle, OnnxRuntimeEngine(bundle, release_memory=True))
    results += report.gates
    progress.gates(results)
    raise_refused(results, blame=_blame(results, checkpoint, saved, golden, tolerances))
    run: dict[str, GraphEntry] = {
        name: {**entry, "products_run": dict(report.products[name])} for name, entry in manifest.graphs.items()
    }
    return replace(
        manifest,
        graphs=run,
        gates=[result.to_dict() for result in results],
        made_with={**manifest.made_with, "gates_ran_on": report.ran_on},
    )


def _write_graphs(
    staging: Path,
    model: LrclrModel,
    options: ExportOptions,
    largest: Largest,
    in_float32: Mapping[str, Float32Parts],
    progress: ProgressCallbacks,
) -> tuple[dict[str, GraphEntry], dict[str, SavedGraph], list[GateResult]]:
    """Export the graphs one after the other, each into its folder. A graph is written while the next one is traced.

    Returns:
        Their entries in the manifest, their files, and the gates of their scales.
    """
    entries: dict[str, GraphEntry] = {}
    writes: dict[str, Future[SavedGraph]] = {}
    scales = []
    with ThreadPoolExecutor(1, thread_name_prefix="lrclr-write") as writer:
        for spec in graph_specs(model):
            progress.task(f"export {spec.name}")
            with _less_garbage_collection():
                graph = typed_onnx_from_module(spec, opset=options.opset)
            folder = options.names.folder(options.names.of(spec.name))
            inlined = f"{folder}/{INLINED}" if options.inline and graph.model.functions else None
            entries[spec.name] = graph_entry(graph, inlined, largest.get(spec.name), in_float32.get(spec.name))
            if options.precision in QUANTISED:
                scales.append(scale_gate(spec.name, graph.model.graph, model))
            # One graph at most waits to be written, and an error of the last one ends the export.
            for write in writes.values():
                write.result()
            # After all that reads the graph, since it is changed while it is written.
            writes[spec.name] = writer.submit(_written, graph, staging / folder, inlined=inlined is not None)
        progress.task("write the graphs")
    return entries, {name: write.result() for name, write in writes.items()}, scales


def _written(graph: TypedGraph, folder: Path, *, inlined: bool) -> SavedGraph:
    folder.mkdir(parents=True)
    saved = graph.save(folder / "model.onnx")
    if inlined:
        saved.save_inlined()
    return saved


@contextlib.contextmanager
def _less_garbage_collection() -> Iterator[None]:
    """Leave the objects that exist before the block out of the garbage collection in it.

    torch's exporter makes millions of objects. Otherwise a tenth of its time goes into walking over those of the
    imported libraries again and again.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _calibration(checkpoint: Checkpoint, options: ExportOptions) -> Calibration | None:
    if options.precision not in QUANTISED:
        return None
    if options.calibration is None:
        return carried_calibration(checkpoint.preprocess)
    return read_calibration(options.calibration, checkpoint.preprocess)


def _largest_activations(
    checkpoint: Checkpoint, precision: str, progress: ProgressCallbacks
) -> tuple[Largest, dict[str, Float32Parts]]:
    """Of an export in float16 or FP8: the largest magnitude of each block on the images that lrclr carries.

    Returns:
        It, and the parts of each graph that have to stay in float32; both empty for other precisions.
    """
    if precision not in {"fp16", "fp8"}:
        return {}, {}
    progress.task("measure the largest activation of each layer")
    pixels = carried_calibration(checkpoint.preprocess).pixel_values
    found = measured_activations(checkpoint.model, pixels, calibration_tokens(checkpoint).input_ids)
    parts = float32_parts(checkpoint.model, found)
    largest = {
        graph: {block: float(f"{value:.4g}") for block, value in blocks.items()}
        for graph, blocks in by_block(found).items()
    }
    return largest, parts


def _in_precision(
    checkpoint: Checkpoint,
    calibration: Calibration | None,
    options: ExportOptions,
    tolerances: Tolerances,
    progress: ProgressCallbacks,
    in_float32: Mapping[str, Float32Parts],
) -> tuple[LrclrModel, dict[str, Any] | None]:
    """The network in a precision; if it is quantised, also the record of that."""
    model, record = checkpoint.model, None
    if calibration is not None:
        made = quantized(
            checkpoint,
            calibration,
            tolerances,
            precision=options.precision,
            too_large=[f"{TOWERS[graph]}.{layer}" for graph, parts in in_float32.items() for layer in parts.layers],
            search_layers=options.int8_search,
            progress=progress,
        )
        model, record = made.model, made.record
    if options.precision in {"fp16", "fp8"}:
        model = half_precision(model, in_float32)
    return model, record


def _blame(
    results: list[GateResult],
    checkpoint: Checkpoint,
    graphs: Mapping[str, SavedGraph],
    golden: Golden,
    tolerances: Tolerances,
) -> str:
    suspects = [result.subject.partition(".")[0] for result in results if not result.passed]
    # Probabilities and the task depend on all three graphs.
    outcomes = {"probabilities", "findings"}
    suspected = [name for name in graphs if name in suspects or not outcomes.isdisjoint(suspects)]
    for name in suspected:
        found = first_bad_layer(checkpoint.model, graphs[name].load(), golden, cosine=tolerances.cosine)
        if found is not None:
            return found
    return "no single layer exceeds the limit" if suspected else ""
