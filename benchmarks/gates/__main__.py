"""Judge every mutant in every precision: ``python -m benchmarks.gates`` (ten minutes on two cores).

It exports the default checkpoint in three precisions, puts each mutant into a copy of each bundle, and writes what
`lrclr verify` says to ``benchmarks/results/gates``. A mutant that gets through ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import onnxruntime

from benchmarks.gates.mutants import MUTANTS, Mutant, Verdict, judge
from lrclr import load_checkpoint
from lrclr_export import ExportOptions, export_bundle

PRECISIONS = ("fp32", "fp16", "int8")
RESULTS = Path(__file__).parent.parent / "results" / "gates" / "mutants.md"


def main() -> int:
    """Judge, write the table, and say how many mutants got through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundles", type=Path, help="Folder with bundles fp32, fp16 and int8 instead of new exports.")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundles = options.bundles or _exported(Path(folder))
        with ProcessPoolExecutor(len(PRECISIONS)) as processes:
            found = [processes.submit(_judged, bundles / precision) for precision in PRECISIONS]
            judged = dict(zip(PRECISIONS, (one.result() for one in found), strict=True))
    verdicts = {mutant.name: {name: judged[name][mutant.name] for name in PRECISIONS} for mutant in MUTANTS}
    for name, some in verdicts.items():
        got_through = ", ".join(precision for precision, verdict in some.items() if not verdict.found)
        print(f"{name}: {f'GOT THROUGH in {got_through}' if got_through else 'refused'}")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(_table(verdicts), encoding="utf-8")
    return int(any(not verdict.found for some in verdicts.values() for verdict in some.values()))


def _judged(bundle: Path) -> dict[str, Verdict]:
    with tempfile.TemporaryDirectory() as folder:
        return {mutant.name: judge(mutant, bundle, Path(folder) / "mutant") for mutant in MUTANTS}


def _exported(folder: Path) -> Path:
    checkpoint = load_checkpoint("default")
    for precision in PRECISIONS:
        export_bundle(checkpoint, folder / precision, ExportOptions(precision))
    return folder


def _table(verdicts: dict[str, dict[str, Verdict]]) -> str:
    found = {precision: sum(verdicts[mutant.name][precision].found for mutant in MUTANTS) for precision in PRECISIONS}
    lines = [
        "# Mutants, and the gate that refuses each",
        "",
        f"{len(MUTANTS)} mutants of the default checkpoint's bundle; refused: "
        + ", ".join(f"{count} in {precision}" for precision, count in found.items())
        + ".",
        f"Written by `python -m benchmarks.gates` with ONNX Runtime {onnxruntime.__version__} on {platform.machine()}.",
        "",
        "Each cell names one gate that refuses: what it measured, and the limit. Then it says how many gates refuse in",
        "all. `(float32)` marks the graph in float32 arithmetic with the weights that it stores.",
        "Values have three digits: a cosine that reads 1 is below its limit by less than that shows.",
    ]
    kinds = dict.fromkeys(mutant.kind for mutant in MUTANTS)
    for kind in kinds:
        lines += ["", f"## {kind.capitalize()}", "", "| mutant | fp32 | fp16 | int8 |", "|---|---|---|---|"]
        lines += [_row(mutant, verdicts[mutant.name]) for mutant in MUTANTS if mutant.kind == kind]
    return "\n".join(lines) + "\n"


def _row(mutant: Mutant, verdicts: dict[str, Verdict]) -> str:
    return f"| {mutant.name} | " + " | ".join(_cell(verdicts[precision]) for precision in PRECISIONS) + " |"


def _cell(verdict: Verdict) -> str:
    if not verdict.found:
        return "**got through**"
    if not verdict.refused:
        return verdict.error
    first = verdict.refused[0]
    sign = "≥" if first.limit == "min" else "≤"
    more = f"; {verdict.count} gates" if verdict.count > 1 else ""
    return f"{first.gate}, {first.subject}: {first.value:.3g} ({sign} {first.tolerance:g}){more}"


if __name__ == "__main__":
    sys.exit(main())
