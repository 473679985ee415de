"""`lrclr verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrclr.cli._console import EngineName, gate_table, note, note_choice, out, print_json
from lrclr.errors import UsageError


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")] = Path("triton_repo"),
    engine: EngineName = None,
    provider: Annotated[str, typer.Option("--provider", help="Where ONNX Runtime runs: cpu or cuda.")] = "cpu",
    expect: Annotated[
        str | None, typer.Option("--expect", help="Expected SHA-256 of the bundle's manifest.json.")
    ] = None,
    files_only: Annotated[bool, typer.Option("--files-only", help="Check the hashes only, without the gates.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check the hashes of a bundle, and run its gates on this machine. torch is not needed.

    If a gate fails, the exit code is 3.
    """
    from lrclr.bundle import Bundle, require_digest

    if files_only and (as_json or engine is not None or provider != "cpu"):
        raise UsageError(
            "--files-only cannot be used with --engine, --provider or --json", why="it does not run the gates"
        )
    if expect is not None:
        require_digest(expect)
    opened = Bundle(bundle)
    if expect is not None:
        opened.require(expect)
    if files_only:
        note(f"{bundle}: {len(opened.manifest.files)} files are unchanged, manifest {opened.sha256}")
        return
    from lrclr.auto import open_engine
    from lrclr.engines import EngineOptions
    from lrclr.verification import verify as run_verify

    runner = open_engine(opened, EngineOptions(engine, provider, emulate=True))
    note_choice(runner)
    report = run_verify(opened, runner)
    if as_json:
        print_json(report.to_dict(), indent=2)
    else:
        out().print(gate_table(report.gates))
    for remark in report.notes:
        note(remark)
    report.require()
    files, gates = len(opened.manifest.files), len(report.gates)
    note(f"{bundle}: {files} files are unchanged, {gates} gates passed on {report.engine}")
