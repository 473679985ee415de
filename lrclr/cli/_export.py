"""`lrclr export`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrclr._files import check_outside
from lrclr.card import ModelCard
from lrclr.cli._checkpoints import (
    Activation,
    Card,
    Heads,
    Key,
    Tokenizer,
    check_folder,
    load_card,
    note_assumed,
    note_card,
    read_options,
)
from lrclr.cli._console import RESEARCH_ONLY, console_progress, note, out
from lrclr.cli._extras import require
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.bundle import Bundle, Manifest
    from lrclr.checkpoints import Checkpoint, ReadOptions


def export(  # noqa: PLR0913, PLR0917 - one parameter an option
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CHECKPOINT",
            help="A .pt, .safetensors or TorchScript file of a CLIP, a checkpoint folder, hf:OWNER/NAME[@REVISION], or "
            "default. Several make an ensemble, whose probability is the mean of theirs.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the bundle.")] = Path("triton_repo"),
    fp16: Annotated[
        bool, typer.Option("--fp16", help="Compute matrix products in half precision (the default).")
    ] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Compute everything in single precision.")] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="Compute linear layers in int8, calibrated on images. For CPUs.")
    ] = False,
    fp8: Annotated[
        bool,
        typer.Option(
            "--fp8",
            help="Compute linear layers of the towers in FP8, calibrated on images; the rest as --fp16. For TensorRT "
            "on GPUs of compute capability 8.9 or newer.",
        ),
    ] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            help="Folder or dataset of chest x-rays for --int8 or --fp8.  [default: synthetic images in lrclr]",
        ),
    ] = None,
    int8_search: Annotated[
        str | None,
        typer.Option(
            "--int8-search",
            help="on: keep layers in float32 that lose too much in int8; this can take minutes. "
            "off: convert all these layers to int8; the gates then accept or refuse the bundle.  "
            "[default: on]",
        ),
    ] = None,
    max_batch: Annotated[int, typer.Option("--max-batch", help="Largest number of images per server request.")] = 32,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set, 18 to 23.")] = 20,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="tensorrt, tensorrt-rtx, openvino, onnxruntime, or auto for the fastest on this machine.  "
            "[default: TensorRT if it and a GPU are present, else onnxruntime]",
        ),
    ] = None,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            "--compute-capability",
            help="Compute capability of the GPU to build for, such as 8.6. May be repeated. TensorRT-RTX only.",
        ),
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option("--preprocess", help="clip, chexzero or siglip, instead of the checkpoint's preprocessing."),
    ] = None,
    heads: Heads = None,
    activation: Activation = None,
    key: Key = None,
    tokenizer: Tokenizer = None,
    findings: Annotated[
        Path | None, typer.Option("--findings", help="Findings file (TOML) to put into the bundle.")
    ] = None,
    card: Card = None,
    inline: Annotated[
        bool,
        typer.Option(
            "--inline", help="Also write graphs without ONNX functions, for runtimes that do not support them."
        ),
    ] = False,
    name_prefix: Annotated[
        str,
        typer.Option(
            "--name-prefix",
            help="Put before the names of the models, so that a Triton server can have several bundles.",
        ),
    ] = "",
    regions_from: Annotated[
        str | None,
        typer.Option(
            "--regions-from",
            metavar="NAME",
            help="Of several checkpoints, the one whose regions are shown: its name without folder and suffix.  "
            "[default: the first]",
        ),
    ] = None,
    model_version: Annotated[int, typer.Option("--model-version", help="Version number of the models in Triton.")] = 1,
    tolerance: Annotated[
        list[str] | None,
        typer.Option("--tolerance", help="Override the limit of a gate, NAME=VALUE. The manifest records it."),
    ] = None,
) -> None:
    """Export a checkpoint to a bundle, checked by gates; or several checkpoints to one bundle, an ensemble.

    A bundle is a Triton model repository with three ONNX graphs (of each checkpoint) and a manifest.

    An existing bundle is replaced only if every gate passes. If a gate fails, the exit code is 3.
    """
    if fp16 + fp32 + int8 + fp8 > 1:
        raise UsageError("--fp16, --fp32, --int8 and --fp8 cannot be used together")
    precision = "int8" if int8 else "fp8" if fp8 else "fp32" if fp32 else "fp16"
    _check_calibration(precision, calibration, int8_search)
    from lrclr.engines import AUTO, CPU_ENGINES, ENGINES

    if engine is not None and engine not in {*ENGINES, AUTO}:
        raise UsageError(f"unknown engine {engine!r}", fix=f"Choose {', '.join((*ENGINES, AUTO))}.")
    overrides = _parsed(tolerance or [])
    from lrclr.contract import ModelNames

    stated = load_card(card)
    names = ModelNames(name_prefix, model_version)
    if regions_from is not None and len(checkpoints) == 1:
        raise UsageError("--regions-from needs several checkpoints", why="a single network gives its own regions")
    reading = read_options(heads, activation, key, preprocess, tokenizer)
    for checkpoint in checkpoints:
        check_folder(checkpoint, reading)
    check_outside(output, checkpoints)
    require("export")
    from lrclr_export import (
        BuildOptions,
        ExportOptions,
        Member,
        add_plans,
        best_engine,
        check_buildable,
        export_bundle,
        export_ensemble,
        set_cpu_engine,
    )

    chosen, why = best_engine() if engine in {None, AUTO} else (engine, "asked for")
    if fp8 and chosen in CPU_ENGINES:
        if engine not in {None, AUTO}:
            raise UsageError(
                f"--fp8 cannot be used with --engine {engine}",
                why="only TensorRT has products in FP8",
                fix="Omit --engine and build plans on the machine with the GPU, or choose --fp16.",
            )
        why = f"the gates ran in it; plans of TensorRT have to be built, since {why}"
    elif engine == AUTO and chosen in CPU_ENGINES:
        chosen, why = AUTO, "the fastest here"
    plans = None
    if chosen not in {*CPU_ENGINES, AUTO}:
        plans = BuildOptions(chosen, tuple(compute_capability or ()))
        check_buildable(plans, precision)
    elif compute_capability:
        raise UsageError("--compute-capability needs --engine tensorrt-rtx")
    options = ExportOptions(
        precision,
        max_batch,
        opset,
        overrides,
        why_engine=why,
        calibration=calibration,
        inline=inline,
        names=names,
        int8_search=int8_search != "off",
    )
    note(f"engine {chosen} ({why}), {options.precision}")
    with console_progress() as progress:

        def finish(made: Bundle) -> Manifest:
            if plans is not None:
                return add_plans(made, plans, why=why, progress=progress)
            if fp8:
                return made.manifest
            return set_cpu_engine(made, chosen, why=why, progress=progress)

        if len(checkpoints) == 1:
            progress.task(f"read {checkpoints[0]}")
            loaded = _loaded(checkpoints[0], findings, reading, card=stated)
            bundle = export_bundle(loaded, output, options, progress=progress, finish=finish)
        else:
            noted: set[str] = set()
            # What a member states is about its own probabilities.
            nothing = ModelCard()
            note_card(stated or nothing)
            members = [
                Member(name, partial(_loaded, path, findings, reading, noted, card=nothing))
                for name, path in zip(_member_names(checkpoints), checkpoints, strict=True)
            ]
            bundle = export_ensemble(
                members, output, options, regions_from=regions_from, card=stated, progress=progress, finish=finish
            )
    _report(output, bundle, measured=chosen == AUTO)


def _report(output: Path, bundle: Bundle, *, measured: bool) -> None:
    """Print what was exported; `measured` if the engine was chosen by measurements."""
    manifest = bundle.manifest
    size = sum(entry["bytes"] for entry in manifest.files.values())
    gates = len(manifest.all_gates)
    out().print(f"{output}: {manifest.precision} bundle, {size / 1e6:.0f} MB, {gates} gates passed")
    if measured:
        note(f"engine {manifest.engine['name']} ({manifest.engine['why']})")
    for member in manifest.members:
        if member.quantization is not None:
            random = member.checkpoint["source"] == "random"
            _note_quantization(member.quantization, manifest.precision, random=random)
        for graph, entry in member.graphs.items():
            if parts := entry.get("float32_parts"):
                layers = f", and {', '.join(parts['layers'])}" if parts["layers"] else ""
                note(f"{graph}: in float32, since float16 cannot hold it: the residual stream{layers}")
    if manifest.precision == "fp8" and not manifest.plans:
        note(f"on the machine with the GPU run: lrclr build {output} --engine tensorrt")
    names = manifest.names
    if names.prefix:
        note(f"models in Triton: {', '.join(names.all)}, version {names.version}")
    if manifest.ensemble is not None:
        lead = manifest.ensemble["regions_from"]
        note(f"members: {', '.join(manifest.member_names)}; regions, scores and heat maps are those of {lead}")
    origin = f"{manifest.checkpoint['origin']}, " if "origin" in manifest.checkpoint else ""
    note(f"checkpoint: {origin}{manifest.checkpoint['source']}; {bundle.preprocess.name} preprocessing")
    if not manifest.scoring["fusion_trained"]:
        note("the fusion head is not trained: scores use alpha = 0, the global score alone")
    note(RESEARCH_ONLY)


def _check_calibration(precision: str, calibration: Path | None, search: str | None) -> None:
    if calibration is not None and precision not in {"int8", "fp8"}:
        raise UsageError("--calibration needs --int8 or --fp8", why="other precisions are not calibrated")
    if search is not None and precision != "int8":
        raise UsageError("--int8-search needs --int8", why="other precisions have no search")
    if search not in {None, "on", "off"}:
        raise UsageError(f"unknown --int8-search {search!r}", fix="Choose on or off.")


def _member_names(checkpoints: Sequence[Path]) -> list[str]:
    """The names of the members of an ensemble: those of their files, with a number where two are equal."""
    names: list[str] = []
    for path in checkpoints:
        name = number = path.stem if path.is_file() else path.resolve().name
        others = (f"{name}-{count}" for count in range(2, len(checkpoints) + 2))
        while number in names:
            number = next(others)
        names.append(number)
    return names


def _loaded(
    path: Path,
    findings: Path | None,
    reading: ReadOptions,
    noted: set[str] | None = None,
    *,
    card: ModelCard | None,
) -> Checkpoint:
    """Read a checkpoint, and print its assumptions, except for those that were printed before."""
    from lrclr.checkpoints import load_checkpoint
    from lrclr.cli._findings import load_findings

    loaded = load_checkpoint(path, **reading)
    note_assumed([line for line in loaded.assumed if noted is None or line not in noted])
    if noted is not None:
        noted.update(loaded.assumed)
    wanted = None if findings is None else load_findings(findings, loaded.findings, loaded.tokenizer)
    changed = loaded.changed(findings=wanted, card=card)
    note_card(changed.card)
    return changed


def _note_quantization(quantization: dict[str, Any], precision: str, *, random: bool) -> None:
    source = quantization["calibration"]
    note(f"calibrated on {source['images']} images ({source['kind']}) and {source['texts']} texts")
    if source["kind"] == "carried":
        note("these images are synthetic: better give radiographs like those in use, with --calibration FOLDER")
    for graph, entry in quantization["graphs"].items():
        floats = ", ".join(entry["float_layers"]) or "none"
        note(f"{graph}: {entry[f'{precision}_layers']} layers in {precision}; left out: {floats}")
    if random:
        note(f"the weights are random: the accuracy of {precision} says nothing about trained weights")


def _parsed(overrides: list[str]) -> dict[str, float]:
    parsed: dict[str, float] = {}
    for text in overrides:
        name, separator, value = text.partition("=")
        try:
            parsed[name] = float(value)
        except ValueError:
            separator = ""
        if not separator:
            raise UsageError(f"--tolerance {text} is not NAME=VALUE", fix="Write it such as cosine=0.999.")
    return parsed
