"""`lrclr build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrclr.cli._console import console_progress, new_table, note, out
from lrclr.cli._extras import require
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from lrclr.bundle import Manifest


def build(  # noqa: PLR0913, PLR0917 - one parameter an option
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")] = Path("triton_repo"),
    engine: Annotated[
        str, typer.Option("--engine", help="tensorrt, tensorrt-rtx, openvino, onnxruntime, or auto.")
    ] = "tensorrt",
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(
            "--compute-capability",
            help="Compute capability to build for, such as 8.6. May be repeated. TensorRT-RTX only.",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Plans that newer versions of TensorRT can run. They contain code. TensorRT only.",
        ),
    ] = False,
    hardware_compatible: Annotated[
        str,
        typer.Option(
            "--hardware-compatible", help="Other GPUs that can run the plans: none, ampere+ or same-capability."
        ),
    ] = "none",
    refit: Annotated[bool, typer.Option("--refit", help="Plans whose weights can be replaced.")] = False,
    strip: Annotated[
        bool,
        typer.Option(
            "--strip", help="Plans without weights, which are taken from the graphs. Triton cannot serve them."
        ),
    ] = False,
    workspace: Annotated[int | None, typer.Option("--workspace", help="Largest work memory per layer, in MiB.")] = None,
    builder_level: Annotated[
        int | None,
        typer.Option("--builder-level", help="0 to 5: a higher level takes longer to build and runs faster."),
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="File of timings that builds share. TensorRT only.")
    ] = None,
) -> None:
    """Build a bundle for another engine.

    Run it on the machine that serves the bundle. It makes plans for a GPU, or files for OpenVINO on the CPU.

    `--engine auto` chooses TensorRT if it and a GPU are present, else the fastest engine that passes the gates.
    `--engine onnxruntime` switches back.

    The bundle changes only if every plan is built and every gate passes. If a gate fails, the exit code is 3.
    """
    require("serve")
    from lrclr.engines import AUTO, CPU_ENGINES, ENGINES
    from lrclr_export import BuildOptions, best_engine, build_bundle

    why = "asked for"
    if engine not in {*ENGINES, AUTO}:
        raise UsageError(f"unknown engine {engine!r}", fix=f"Choose {', '.join((*ENGINES, AUTO))}.")
    if engine == AUTO:
        engine, why = best_engine()
        engine = AUTO if engine in CPU_ENGINES else engine
    options: BuildOptions | str = engine
    given = (compute_capability, version_compatible, refit, strip, workspace, builder_level, timing_cache)
    if engine not in {*CPU_ENGINES, AUTO}:
        options = BuildOptions(
            engine,
            tuple(compute_capability or ()),
            version_compatible,
            hardware_compatible,
            refit,
            strip,
            workspace,
            builder_level,
            timing_cache,
        )
    elif any(value not in {None, False} for value in given if not isinstance(value, list)) or compute_capability:
        raise UsageError(f"--engine {engine} cannot be used with options for plans", why="no plans are built for it")
    with console_progress() as progress:
        built = build_bundle(bundle, options, why=why, progress=progress)
    _note_tuning(built.manifest)
    if isinstance(options, str):
        chosen = built.manifest.engine
        out().print(f"{bundle}: the engine is now {chosen['name']} ({chosen['why']})")
        return
    entry = next(entry for entry in built.manifest.plans if entry["engine"] == engine)
    size = 0
    for member in built.members:
        own = next(one for one in member.manifest.plans if one["engine"] == engine)
        size += sum(member.plan_path(graph, own).stat().st_size for graph in own["graphs"])
    out().print(f"{bundle}: {engine} plans, {size / 1e6:.0f} MB, regions selected by its {entry['region_selection']}")
    out().print(_plans_table(entry))
    for graph, described in entry["graphs"].items():
        if described["layer_types_from"] is None:
            note(f"{graph}: the types of the plan's layers were not checked: TensorRT does not report them")
    if entry["gates_ran_on"] is None:
        note("the plans were built ahead of time: the gates did not run them, since this machine has no such GPU")


def _note_tuning(manifest: Manifest) -> None:
    """Say whether the server's configuration is one that was measured with the new engine."""
    measured = [entry["engine"] for entry in manifest.tuning]
    if manifest.triton_engine in measured:
        note(f"Triton's configuration is the one that `lrclr tune` found for {manifest.triton_engine}")
    elif measured:
        note(
            f"Triton's configuration is the default: `lrclr tune` measured {', '.join(measured)}, and not "
            f"{manifest.triton_engine}. The former results are kept for those engines"
        )


def _plans_table(entry: Mapping[str, Any]) -> Table:
    """Return a table of the builder's result for each graph and optimisation profile."""
    numbers = ("batch", "launches", "attention fused", "activations, MiB")
    table = new_table("Plans, from the builder's log", ("graph",), numbers)
    for graph, described in entry["graphs"].items():
        attention = sum(described["precision_histogram"].get("SOFTMAX", {}).values())
        for number, built in enumerate(described["built"]["profiles"]):
            sizes = next(iter(described["profiles"][number].values()))
            smallest, largest = sizes["min"][0], sizes["max"][0]
            batch = str(largest) if smallest == largest else f"{smallest} to {largest}"
            memory = built["activation_bytes"]
            table.add_row(
                graph,
                batch,
                str(built["launches"]),
                f"{built['fused_attention']} of {attention}",
                "" if memory is None else f"{memory / 2**20:.1f}",
            )
    return table
