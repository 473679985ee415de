"""Last stage: writes a tuned checkpoint with weights in float16, as the package contains it.

The texts of the model card of the checkpoint that is replaced are kept. Its metrics are those of a report of
``lrclr evaluate``.

::

    python -m benchmarks.checkpoint.pack build/lrclr --report build/report/report.json -o lrclr/data/checkpoint
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrclr.card import CARD, Metric, ModelCard
from lrclr.checkpoints import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["metrics_of"]


def metrics_of(report: Mapping[str, Any]) -> tuple[Metric, ...]:
    """AUROC and pointing of each finding, and their means, from a report of ``lrclr evaluate`` in JSON."""
    named = [("AUROC", each["name"], each["auroc"]) for each in report["findings"]]
    named.append(("AUROC, mean of the seven findings", "", report["mean"]["auroc"]))
    for each in report["grounding"]:
        is_mean = each["name"] == "mean"
        name = "pointing, mean of the seven findings" if is_mean else "pointing"
        named.append((name, "" if is_mean else each["name"], each["pointing"]))
    return tuple(Metric(name, round(each["value"], 3), finding, _interval(each)) for name, finding, each in named)


def _interval(figure: Mapping[str, float | None]) -> tuple[float, float] | None:
    """None if all resamples agree."""
    low, high = figure["low"], figure["high"]
    return None if low is None or high is None else (round(low, 3), round(high, 3))


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.pack", description="Write weights in float16.")
    parser.add_argument("checkpoint", type=Path, help="folder of the tuned checkpoint")
    parser.add_argument("--report", type=Path, required=True, help="JSON of lrclr evaluate, for the model card")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    card = replace(ModelCard.beside(options.output), metrics=metrics_of(json.loads(options.report.read_text())))
    load_checkpoint(options.checkpoint).changed(card=card).save(options.output, overwrite=True, half=True)
    print(f"now write the facts of this checkpoint into {options.output / CARD} and CHECKPOINT.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
