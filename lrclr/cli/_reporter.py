"""Predictions as tables, JSON lines or CSV, printed one by one.

JSON and CSV are UTF-8 in every locale, with file names as `lrclr.file_names.name_of` writes them.
"""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Protocol

from lrclr.cli._console import new_table, out, print_json, print_utf8, printable
from lrclr.file_names import name_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.inference import FileResult

_SHOWN = 5
_REGIONS_LEGEND = (
    '"42 22%": 22% of the attention of the finding to the selected regions is on patch 42. Patches are numbered '
    "from 0, row by row. --heatmap FOLDER draws them; --json gives their boxes in pixels."
)
_COSINES_LEGEND = (
    "The probability compares the mean cosine of the image with the finding's positive prompts and with its negative "
    "prompts. If both are alike, it is near 50%."
)


_MEMBERS_LEGEND = (
    "The probability is the mean of the members' probabilities ± their standard deviation. Everything else is of the "
    "member that gives the regions."
)


class Reporter(Protocol):
    """Prints results one by one."""

    def add(self, result: FileResult) -> None:
        """Print the next result."""

    def close(self) -> None:
        """Print what follows the last result."""


def reporter(findings: Sequence[str], *, as_json: bool, as_csv: bool) -> Reporter:
    """Return the reporter for the output format."""
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
        self._print(["file", *findings, "exact", "regions", "error", "remarks", "warnings"])

    def add(self, result: FileResult) -> None:
        prediction = result.prediction
        if prediction is None:
            self._print(
                [name_of(result.path), *[""] * self._width, str(result.exact).lower(), "", str(result.error), "", ""]
            )
            return
        shares = [f"{finding.probability:.6f}" for finding in prediction.findings]
        regions = " ".join(str(region.patch) for region in prediction.regions)
        remarks = "; ".join(prediction.remarks)
        warnings = " ".join(prediction.warnings)
        self._print([name_of(result.path), *shares, str(result.exact).lower(), regions, "", remarks, warnings])

    def close(self) -> None:
        pass

    @staticmethod
    def _print(row: Sequence[str]) -> None:
        line = io.StringIO()
        # Python 3.11 does not quote a carriage return by itself.
        quote_all = any("\r" in text for text in row)
        csv.writer(line, lineterminator="\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL).writerow(row)
        print_utf8(line.getvalue())


class _Tables:
    """One table for each image, and at the end a legend for what their columns mean."""

    def __init__(self) -> None:
        self._legend = ""

    def add(self, result: FileResult) -> None:
        prediction = result.prediction
        if prediction is None:
            return
        if prediction.fusion_trained:
            head, self._legend = "regions with the most attention: patch number, share", _REGIONS_LEGEND
        else:
            head, self._legend = "cosine with positive / negative prompts", _COSINES_LEGEND
        table = new_table(printable(str(result.path)), ("finding",), ("probability",), (head,))
        table.caption = f"warnings: {' '.join(prediction.warnings)}" if prediction.warnings else None
        table.caption_justify = "left"
        if any(finding.probability_spread is not None for finding in prediction.findings):
            self._legend = _MEMBERS_LEGEND + (f" {_REGIONS_LEGEND}" if prediction.fusion_trained else "")
        for finding in sorted(prediction.findings, key=lambda each: -each.probability):
            if prediction.fusion_trained:
                shares: dict[int, float] = {}
                for region, share in zip(prediction.regions, finding.region_attention, strict=True):
                    shares[region.patch] = shares.get(region.patch, 0.0) + share
                best = sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN]
                detail = "  ".join(f"{patch} {share:.0%}" for patch, share in best)
            else:
                detail = f"{finding.global_positive:+.4f} / {finding.global_negative:+.4f}"
            probability = f"{finding.probability:.1%}"
            if finding.probability_spread is not None:
                probability += f" ± {finding.probability_spread:.1%}"
            table.add_row(finding.name, probability, detail)
        out().print(table)

    def close(self) -> None:
        if self._legend:
            out().print(self._legend)
