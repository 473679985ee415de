"""`lrclr verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrclr.cli._console import ENGINE_HELP, gate_table, note, note_choice, out, print_json
from lrclr.errors import UsageError


def verify(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")] = Path("triton_repo"),
    engine: Annotated[str | None, typer.Option("--engine", help=ENGINE_HELP)] = None,
    provider: Annotated[str, typer.Option("--provider", help="cpu or cuda.")] = "cpu",
    expect: Annotated[str | None, typer.Option("--expect", help="SHA-256 that its manifest.json must have.")] = None,
    files_only: Annotated[bool, typer.Option("--files-only", help="Check the hashes, and run no gates.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")] = False,
) -> None:
    """Check a bundle's hashes, and run its gates again on this machine. Needs no torch."""
    from lrclr.bundle import Bundle, require_digest

    if files_only and (as_json or engine is not None or provider != "cpu"):
        raise UsageError("--files-only runs no gates", fix="Leave --engine, --provider and --json out.")
    if expect is not None:
        require_digest(expect)
    opened = Bundle(bundle)
    if expect is not None:
        opened.require(expect)
    if files_only:
        note(f"{bundle}: {len(opened.manifest.files)} files are unchanged, manifest {opened.sha256}")
        return
    from lrclr.classifier import ZeroShotClassifier
    from lrclr.engines import EngineOptions, open_engine
    from lrclr.gates import Golden, Tolerances, raise_refused, run_gates, task_gate

    manifest = opened.manifest
    limits = {name: value for name, value in manifest.tolerances.items() if name != "overridden"}
    runner = open_engine(opened, EngineOptions(engine, provider))
    note_choice(runner)
    golden, tolerances = Golden.load(opened.golden_path), Tolerances(**limits)
    results = run_gates(runner, golden, opened.findings, manifest.scoring, tolerances)
    if all(result.passed for result in results):
        results += task_gate(ZeroShotClassifier(opened, runner), float(golden.task_auroc), tolerances.task_auroc)
    if as_json:
        print_json({"engine": runner.name, "gates": [result.to_dict() for result in results]}, indent=2)
    else:
        out().print(gate_table(results))
    raise_refused(results)
    note(f"{bundle}: {len(manifest.files)} files are unchanged, {len(results)} gates hold on {runner.name}")
