"""Draws the losses of trainings from what they printed, one panel for each group of logs.

::

    python -m benchmarks.checkpoint.curves "base=build/base.log" "tuning=build/lrclr.log,build/global.log" -o curves.png
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from benchmarks.commands import reports_errors

__all__ = ["losses_of"]

_STEP = re.compile(r"^step (\d+) of \d+: (.*), \d+ images/s$")


def losses_of(text: str) -> dict[str, list[tuple[int, float]]]:
    """Step and value of each loss, by name, from the lines of `benchmarks.checkpoint.running.run_to_end`."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in text.splitlines():
        if match := _STEP.match(line):
            for part in match[2].split(", "):
                name, value = part.rsplit(" ", 1)
                found.setdefault(name, []).append((int(match[1]), float(value)))
    return found


@reports_errors
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.curves", description="Draw losses over the steps.")
    parser.add_argument("panels", nargs="+", metavar="TITLE=LOG,…", help="title and logs of each panel")
    parser.add_argument("-o", "--output", type=Path, required=True, help="PNG file to write")
    options = parser.parse_args()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(options.panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, panel in enumerate(options.panels, 1):
        title, _, logs = panel.partition("=")
        axes = figure.add_subplot(1, len(options.panels), place)
        files = [Path(log) for log in logs.split(",")]
        for file in files:
            for name, points in losses_of(file.read_text()).items():
                label = name if len(files) == 1 else f"{file.stem}: {name}"
                axes.plot(*zip(*points, strict=True), label=label)
        axes.set(title=title, xlabel="step", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(options.output, dpi=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
