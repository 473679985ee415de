"""`lrclr build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from lrclr.cli._console import console_progress, note, out
from lrclr.cli._extras import require_build
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping


def build(  # noqa: PLR0913, PLR0917 - one parameter an option
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")] = Path("triton_repo"),
    engine: Annotated[
        str, typer.Option("--engine", help="tensorrt, tensorrt-rtx, openvino, onnxruntime, or auto.")
    ] = "tensorrt",
    compute_capability: Annotated[
        list[str] | None,
        typer.Option("--compute-capability", help="Build for this GPU, such as 8.6, ahead of time. Repeat. RTX only."),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            help="Newer versions of the library may run the plans, which bring code. TensorRT only.",
        ),
    ] = False,
    hardware_compatible: Annotated[
        str, typer.Option("--hardware-compatible", help="Other GPUs that may: none, ampere+ or same-capability.")
    ] = "none",
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be exchanged.")] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="No weights in the plans: taken from the graphs. Not served by Triton.")
    ] = False,
    workspace: Annotated[int | None, typer.Option("--workspace", help="Most MiB that a layer may work in.")] = None,
    builder_level: Annotated[
        int | None, typer.Option("--builder-level", help="0 to 5: from quick to build to quick to run.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="File of measurements that builds share. TensorRT only.")
    ] = None,
) -> None:
    """Make a bundle one for another engine, on the machine that serves it: plans for a GPU, or OpenVINO for the CPU.

    `--engine auto` takes TensorRT where it and a GPU are, else the fastest here of those whose gates hold.
    `--engine onnxruntime` switches back.

    The bundle changes only when every plan is built and every gate holds. A gate that refuses: exit code 3.
    """
    require_build()
    from lrclr.engines import AUTO, CPU_ENGINES
    from lrclr_export import BuildOptions, best_engine, build_bundle

    why = "asked for"
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
        raise UsageError(f"--engine {engine} goes with no other option", why="nothing is built for it")
    with console_progress() as progress:
        built = build_bundle(bundle, options, why=why, progress=progress)
    if isinstance(options, str):
        chosen = built.manifest.engine
        out().print(f"{bundle}: {chosen['name']} answers from now on ({chosen['why']})")
        return
    entry = next(entry for entry in built.manifest.plans if entry["engine"] == engine)
    size = sum(built.plan_path(graph, entry).stat().st_size for graph in entry["graphs"])
    out().print(f"{bundle}: {engine} plans, {size / 1e6:.0f} MB, regions selected by its {entry['region_selection']}")
    out().print(_plans_table(entry))
    for graph, described in entry["graphs"].items():
        if described["layer_types_from"] is None:
            note(f"{graph}: no gate on the types of its plan's layers: TensorRT does not name them")
    if entry["gates_ran_on"] is None:
        note("the plans were built ahead of time: no gate has run them, for there is no such GPU here")


def _plans_table(entry: Mapping[str, Any]) -> Table:
    """What the builder made of each graph, for each optimisation profile."""
    table = Table(title="Plans, by the builder's log", title_justify="left")
    for name in ("graph", "batch", "launches", "attention fused", "activations, MiB"):
        table.add_column(name, justify="left" if name == "graph" else "right")
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
