"""`lrclr export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrclr.cli._checkpoints import Activation, Heads, Key, Tokenizer, check_folder, note_assumed, read_options
from lrclr.cli._console import RESEARCH_ONLY, console_progress, note, out
from lrclr.cli._extras import require_export
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from lrclr.bundle import Bundle, Manifest
    from lrclr.checkpoints import Checkpoint, ReadOptions


def export(  # noqa: PLR0913, PLR0917 - one parameter an option
    checkpoint: Annotated[Path, typer.Argument(help="A .pt file or a checkpoint folder of any kind that lrclr reads.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.")] = Path("triton_repo"),
    fp16: Annotated[bool, typer.Option("--fp16", help="Products in half precision (the default).")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Everything in single precision.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Linear layers in int8, calibrated on images; for CPUs above all.")
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Folder or dataset of chest x-rays for --int8; carried ones without it."),
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Most images of a request to the server.")] = 32,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set, 18 to 23.")] = 20,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="tensorrt, tensorrt-rtx, openvino, onnxruntime, or auto; TensorRT if it is here if not given.",
        ),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option("--compute-capability", help="Of the GPU to build for, such as 8.6. Repeat. RTX only."),
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option("--preprocess", help="clip or chexzero, instead of what the checkpoint implies.")
    ] = None,
    heads: Heads = None,
    activation: Activation = None,
    key: Key = None,
    tokenizer: Tokenizer = None,
    findings: Annotated[Path | None, typer.Option("--findings", help="Findings file to put in the bundle.")] = None,
    inline: Annotated[
        bool,
        typer.Option("--inline", help="Also write graphs without ONNX functions, for runtimes that expand none."),
    ] = False,
    name_prefix: Annotated[
        str,
        typer.Option(
            "--name-prefix",
            help="Put before the names of the models, so that a Triton server can have several bundles.",
        ),
    ] = "",
    model_version: Annotated[int, typer.Option("--model-version", help="Version number of the models in Triton.")] = 1,
    tolerance: Annotated[
        list[str] | None, typer.Option("--tolerance", help="NAME=VALUE: override a gate's limit; it is recorded.")
    ] = None,
) -> None:
    """Export a checkpoint to a bundle: a Triton model repository of three graphs and plans of them, checked by gates.

    A bundle that is there already is replaced only when every gate holds. A gate that refuses: exit code 3.
    """
    if fp16 + fp32 + int8 > 1:
        raise UsageError("--fp16, --fp32 and --int8 exclude each other")
    if calibration is not None and not int8:
        raise UsageError("only int8 is calibrated", fix="Add --int8, or leave --calibration out.")
    from lrclr.engines import AUTO, CPU_ENGINES, ENGINES

    if engine is not None and engine not in {*ENGINES, AUTO}:
        raise UsageError(f"there is no engine {engine!r} to export for", fix=f"Choose {', '.join((*ENGINES, AUTO))}.")
    overrides = _parsed(tolerance or [])
    from lrclr.contract import ModelNames

    names = ModelNames(name_prefix, model_version)
    reading = read_options(heads, activation, key, preprocess, tokenizer)
    check_folder(checkpoint, reading)
    require_export()
    from lrclr_export import (
        BuildOptions,
        ExportOptions,
        add_plans,
        best_engine,
        check_buildable,
        export_bundle,
        set_cpu_engine,
    )

    chosen, why = best_engine() if engine in {None, AUTO} else (engine, "asked for")
    if engine == AUTO and chosen in CPU_ENGINES:
        chosen, why = AUTO, "the fastest here"
    plans = None
    if chosen not in {*CPU_ENGINES, AUTO}:
        plans = BuildOptions(chosen, tuple(compute_capability or ()))
        check_buildable(plans)
    elif compute_capability:
        raise UsageError("--compute-capability needs --engine tensorrt-rtx")
    precision = "int8" if int8 else "fp32" if fp32 else "fp16"
    options = ExportOptions(
        precision, max_batch, opset, overrides, why_engine=why, calibration=calibration, inline=inline, names=names
    )
    note(f"engine {chosen} ({why}), {options.precision}")
    with console_progress() as progress:
        progress.task(f"read {checkpoint}")
        loaded = _loaded(checkpoint, findings, reading)

        def finish(made: Bundle) -> Manifest:
            if plans is not None:
                return add_plans(made, plans, why=why, progress=progress)
            return set_cpu_engine(made, chosen, why=why, progress=progress)

        bundle = export_bundle(loaded, output, options, progress=progress, finish=finish)
    manifest = bundle.manifest
    size = sum(entry["bytes"] for entry in manifest.files.values())
    out().print(f"{output}: {manifest.precision} bundle, {size / 1e6:.0f} MB, {len(manifest.gates)} gates hold")
    if chosen == AUTO:
        note(f"engine {manifest.engine['name']} ({manifest.engine['why']})")
    if manifest.quantization is not None:
        _note_quantization(manifest.quantization, random=loaded.source == "random")
    if name_prefix:
        note(f"models in Triton: {', '.join(names.all)}, version {names.version}")
    note(f"checkpoint: {loaded.source}; {loaded.preprocess.kind} preprocessing")
    if not manifest.scoring["fusion_trained"]:
        note("the fusion head is not trained: scores use alpha = 0, the global score alone")
    note(RESEARCH_ONLY)


def _loaded(path: Path, findings: Path | None, reading: ReadOptions) -> Checkpoint:
    from lrclr.checkpoints import load_checkpoint
    from lrclr.cli._findings import load_findings

    loaded = load_checkpoint(path, **reading)
    note_assumed(loaded.assumed)
    if findings is None:
        return loaded
    return loaded.changed(findings=load_findings(findings, loaded.findings, loaded.tokenizer))


def _note_quantization(quantization: dict[str, Any], *, random: bool) -> None:
    source = quantization["calibration"]
    note(f"calibrated on {source['images']} images ({source['kind']}) and {source['texts']} texts")
    if source["kind"] == "carried":
        note("they are synthetic: --calibration FOLDER with radiographs of the place of use is better")
    for graph, entry in quantization["graphs"].items():
        floats = ", ".join(entry["float_layers"]) or "none"
        note(f"{graph}: {entry['int8_layers']} layers in int8; in float32: {floats}")
    if random:
        note("the weights are random: what int8 loses of them says nothing about trained ones")


def _parsed(overrides: list[str]) -> dict[str, float]:
    parsed: dict[str, float] = {}
    for text in overrides:
        name, separator, value = text.partition("=")
        try:
            parsed[name] = float(value)
        except ValueError:
            separator = ""
        if not separator:
            raise UsageError(f"--tolerance {text} is not understood", fix="Write NAME=VALUE, such as cosine=0.999.")
    return parsed
