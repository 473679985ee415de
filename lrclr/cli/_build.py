"""`lrclr build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrclr.cli._console import gate_table, note, out, stages
from lrclr.cli._extras import require_build
from lrclr.errors import UsageError


def build(  # noqa: PLR0913, PLR0917 - one parameter an option
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")] = Path("triton_repo"),
    engine: Annotated[str, typer.Option("--engine", help="tensorrt, tensorrt-rtx, or onnxruntime.")] = "tensorrt",
    compute_capability: Annotated[
        list[str] | None,
        typer.Option("--compute-capability", help="Build for this GPU, such as 8.6, ahead of time. Repeat. RTX only."),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Newer versions of the library may run the plans.")
    ] = False,
    hardware_compatible: Annotated[
        str, typer.Option("--hardware-compatible", help="Other GPUs that may: none, ampere+ or same-capability.")
    ] = "none",
    refit: Annotated[bool, typer.Option("--refit", help="Weights can be exchanged.")] = False,
    strip: Annotated[bool, typer.Option("--strip", help="No weights in the plans: taken from the graphs.")] = False,
    workspace: Annotated[int | None, typer.Option("--workspace", help="Most MiB that a layer may work in.")] = None,
    builder_level: Annotated[
        int | None, typer.Option("--builder-level", help="0 to 5: from quick to build to quick to run.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option("--timing-cache", help="File of measurements that builds share. TensorRT only.")
    ] = None,
) -> None:
    """Build plans for a bundle's graphs, on the machine that serves them. `--engine onnxruntime` switches back.

    The bundle changes only when every plan is built and every gate holds. A gate that refuses: exit code 3.
    """
    require_build()
    from lrclr_export import BuildOptions, build_bundle

    options = None
    given = (compute_capability, version_compatible, refit, strip, workspace, builder_level, timing_cache)
    if engine != "onnxruntime":
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
        raise UsageError("--engine onnxruntime goes with no other option", why="nothing is built for it")
    with stages() as begin:
        built = build_bundle(
            bundle,
            options,
            on_stage=begin,
            on_progress=begin.step,
            on_gates=lambda results: out().print(gate_table(results)),
        )
    if options is None:
        out().print(f"{bundle}: ONNX Runtime answers again")
        return
    entry = next(entry for entry in built.manifest.plans if entry["engine"] == engine)
    size = sum(built.plan_path(graph, entry).stat().st_size for graph in entry["graphs"])
    out().print(f"{bundle}: {engine} plans, {size / 1e6:.0f} MB, regions selected by its {entry['region_selection']}")
    if entry["gates_ran_on"] is None:
        note("the plans were built ahead of time: no gate has run them, for there is no such GPU here")
