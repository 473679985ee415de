"""Predictions as a table for people, or as JSON lines or CSV for programs, printed as they come.

Programs get UTF-8 whatever the locale, and file names as `lrclr.file_names.name_of` writes them.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Protocol

from rich.table import Table

from lrclr.cli._console import out, print_json, print_utf8
from lrclr.file_names import name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.inference import FileResult

_SHOWN = 5


class Reporter(Protocol):
    """Takes results one by one."""

    def add(self, result: FileResult) -> None:
        """Take the next result."""

    def close(self) -> None:
        """Print what is still held back."""


def reporter(findings: Sequence[str], *, as_json: bool, as_csv: bool) -> Reporter:
    """The reporter that was asked for."""
    if as_json:
        return _JsonLines()
    return _Csv(findings) if as_csv else _Tables()


class _JsonLines:
    def add(self, result: FileResult) -> None:
        content: dict[str, object] = {"file": name_of(result.path), "exact": result.exact}
        if result.prediction is not None:
            content |= result.prediction.to_dict()
        else:
            content["error"] = str(result.error)
        print_json(content)

    def close(self) -> None:
        pass


class _Csv:
    def __init__(self, findings: Sequence[str]) -> None:
        self._width = len(findings)
        self._print(["file", *findings, "exact", "regions", "error", "remarks"])

    def add(self, result: FileResult) -> None:
        prediction = result.prediction
        if prediction is None:
            self._print(
                [name_of(result.path), *[""] * self._width, str(result.exact).lower(), "", str(result.error), ""]
            )
            return
        shares = [f"{finding.probability:.6f}" for finding in prediction.findings]
        regions = " ".join(str(region.patch) for region in prediction.regions)
        remarks = "; ".join(prediction.remarks)
        self._print([name_of(result.path), *shares, str(result.exact).lower(), regions, "", remarks])

    def close(self) -> None:
        pass

    @staticmethod
    def _print(row: Sequence[str]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        print_utf8(line.getvalue())


class _Tables:
    def add(self, result: FileResult) -> None:
        prediction = result.prediction
        if prediction is None:
            return
        table = Table(title=str(result.path), title_justify="left")
        table.add_column("finding")
        table.add_column("probability", justify="right")
        table.add_column("regions that speak for it" if prediction.fusion_trained else "global score + / -")
        for finding in sorted(prediction.findings, key=lambda each: -each.probability):
            if prediction.fusion_trained:
                shares: dict[int, float] = {}
                for region, share in zip(prediction.regions, finding.region_attention, strict=True):
                    shares[region.patch] = shares.get(region.patch, 0.0) + share
                best = sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
                detail = "  ".join(f"{patch} {share:.0%}" for patch, share in best)
            else:
                detail = f"{finding.global_positive:+.4f} / {finding.global_negative:+.4f}"
            table.add_row(finding.name, f"{finding.probability:.1%}", detail)
        out().print(table)

    def close(self) -> None:
        pass
