"""Verifies every mutant in every precision: ``python -m benchmarks.gates`` (ten minutes on two cores).

It exports the default checkpoint in four precisions, puts each mutant into a copy of each bundle, verifies the copy,
and writes a table to ``benchmarks/results/gates``. The exit code is 1 if a mutant got through.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import onnxruntime

from benchmarks.gates.mutants import MUTANTS, Verdict, judge_all
from benchmarks.measure import page
from lrclr import load_checkpoint
from lrclr_export import ExportOptions, export_bundle

PRECISIONS = ("fp32", "fp16", "int8", "fp8")
RESULTS = Path(__file__).parent.parent / "results" / "gates" / "mutants.md"


def main() -> int:
    """Verify all mutants and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundles", type=Path, help="folder with bundles fp32, fp16, int8 and fp8 instead of new exports"
    )
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="Markdown file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundles = options.bundles or _exported(Path(folder))
        # New processes: a fork would wait for ever when it frees a session of the exports, whose threads it lacks.
        with ProcessPoolExecutor(len(PRECISIONS), mp_context=get_context("spawn")) as processes:
            found = [processes.submit(judge_all, bundles / precision) for precision in PRECISIONS]
            verdicts = dict(zip(PRECISIONS, (one.result() for one in found), strict=True))
    survivors = 0
    for mutant in MUTANTS:
        through = [precision for precision in PRECISIONS if not verdicts[precision][mutant.name].found]
        survivors += len(through)
        print(f"{mutant.name}: " + (f"GOT THROUGH in {', '.join(through)}" if through else "refused"))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(_page(verdicts), encoding="utf-8")
    return int(survivors > 0)


def _exported(folder: Path) -> Path:
    checkpoint = load_checkpoint("default")
    for precision in PRECISIONS:
        export_bundle(checkpoint, folder / precision, ExportOptions(precision))
    return folder


def _page(verdicts: dict[str, dict[str, Verdict]]) -> str:
    kinds: dict[str, dict[str, list[str]]] = {mutant.kind: {} for mutant in MUTANTS}
    for mutant in MUTANTS:
        kinds[mutant.kind][mutant.name] = [_cell(verdicts[precision][mutant.name]) for precision in PRECISIONS]
    return page(
        "mutants.md",
        kinds=kinds,
        refused={precision: sum(one.found for one in verdicts[precision].values()) for precision in PRECISIONS},
        onnxruntime=onnxruntime.__version__,
        machine=platform.machine(),
    )


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
