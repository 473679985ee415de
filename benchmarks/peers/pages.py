"""Pages of the comparison: one for each processor with every figure, and a summary of all processors."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import page, three
from benchmarks.peers.catalogue import BASELINE, RANDOM, TRAINED
from benchmarks.peers.comparison import Row, rows_of
from benchmarks.peers.quality import LARGEST_PROBABILITY_ERROR, LEAST_CENTRED, LEAST_COSINE
from benchmarks.peers.rounds import PAUSE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_WORKS = {
    "image/1": "image, batch 1",
    "image/8": "image, batch 8",
    "image/32": "image, batch 32",
    "text77/1": "28 prompts, padded",
    "text/1": "28 prompts, trimmed",
    "answer/1": "picture to probabilities, known prompts",
    "answer-new/1": "the same, new prompts",
}
_TITLES = {RANDOM: "ViT-B/32, random weights", TRAINED: "Default checkpoint (trained, 4 million parameters)"}
_AHEAD, _AHEAD_OF_PRECISION = "**◀**", "◁"


def write_pages(report: Mapping[str, Any], folder: Path) -> str:
    """Write a report and its page, named for the processor, and the summary of all reports in the folder.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", report["environment"]["processor"].lower()).strip("-")
    text = markdown(report)
    (folder / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    reports = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    (folder / "README.md").write_text(summary(reports), encoding="utf-8")
    return text


def markdown(report: Mapping[str, Any]) -> str:
    """The page of one report."""
    tables = {one: rows_of(report["groups"], report["candidates"], one) for one in _TITLES}
    return page(
        "peers.md",
        environment=report["environment"],
        finished=report["finished"],
        pause_ms=PAUSE * 1e3,
        limits={"cosine": LEAST_COSINE, "centred": LEAST_CENTRED, "probability": LARGEST_PROBABILITY_ERROR},
        marks=(_AHEAD, _AHEAD_OF_PRECISION),
        tables=[_table(_TITLES[one], rows) for one, rows in tables.items() if rows],
        random=RANDOM,
        gaps=[
            (_TITLES[one], _WORKS[work], row.name, three(row.compared[work]))
            for one, rows in tables.items()
            for row in rows
            for work in row.compared
            if work in row.ahead
        ],
        compared=sorted(
            {row.name for rows in tables.values() for row in rows if row.compared and row.name != BASELINE}
        ),
        not_compared=[
            (_TITLES[one], row.name, _WORKS.get(work, work), why)
            for one, rows in tables.items()
            for row in rows
            if not row.ours and row.name != BASELINE
            for work, why in row.not_compared.items()
        ],
        set_up=[_set_up(name, one, report) for name, one in report["candidates"].items() if _ran(name, report)],
        unavailable=report["unavailable"],
    )


def summary(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """One table for each processor: how many times as fast as torch eager each candidate encodes images.

    Args:
        reports: by the name of the page.
    """
    works = [work for work in _WORKS if work.startswith("image/")]
    machines = []
    for name, report in reports.items():
        rows = rows_of(report["groups"], report["candidates"], RANDOM)
        lines = [
            (row, _cells(row, works, _short)) for row in rows if "" in row.failed or set(works) & set(row.milliseconds)
        ]
        machines.append((name, report["environment"], lines))
    return page("peers_summary.md", works=[_WORKS[work] for work in works], machines=machines)


def _table(title: str, rows: list[Row]) -> dict[str, Any]:
    works = [work for work in _WORKS if any(work in row.milliseconds for row in rows)]
    return {
        "title": title,
        "works": [_WORKS[work] for work in works],
        "rows": [{"row": row, "cells": _cells(row, works, _cell), "quality": _quality(row)} for row in rows],
    }


def _cells(row: Row, works: list[str], show: Callable[[Row, str], str]) -> list[str]:
    """The cells of a row; of a candidate that could not be opened, the reason and empty cells."""
    if "" in row.failed and works:
        return [f"failed: {row.failed['']}", *[""] * (len(works) - 1)]
    return [show(row, work) for work in works]


def _cell(row: Row, work: str) -> str:
    if work not in row.milliseconds:
        return _failure(row, work)
    if row.name == BASELINE or work not in row.ratio:
        return f"{row.milliseconds[work]:.1f} ms"
    mark = f" {_AHEAD}" if work in row.ahead else f" {_AHEAD_OF_PRECISION}" if work in row.ahead_of_precision else ""
    return three(row.ratio[work]) + mark


def _short(row: Row, work: str) -> str:
    if row.name == BASELINE or work not in row.ratio:
        return _cell(row, work)
    return f"{row.ratio[work][0]:.2f}"


def _failure(row: Row, work: str) -> str:
    """Why a cell is empty: the error at this work or at this kind of work."""
    for key in (work, work.partition("/")[0]):
        if key in row.failed:
            return f"failed: {row.failed[key]}"
    return ""


def _quality(row: Row) -> list[str]:
    def pair(work: str) -> str:
        if f"{work}.cosine" not in row.quality:
            return ""
        return f"{row.quality[f'{work}.cosine']:.6f} ({row.quality[f'{work}.centred_cosine']:.5f})"

    error, regions = row.quality.get("probability.error"), row.quality.get("regions.equal")
    return [
        pair("image"),
        pair("text77" if "text77.cosine" in row.quality else "text"),
        "" if error is None else f"{error:.1e}",
        "" if regions is None else f"{regions:.0%}",
        str(row.peak_mb or ""),
        "" if row.idle_share is None else f"{row.idle_share:.1%}",
    ]


def _ran(name: str, report: Mapping[str, Any]) -> bool:
    """Whether a candidate has a line under "Set-up": every peer that ran, and lrclr's fastest."""
    one = report["candidates"][name]
    return name in report["cold"] if one["ours"] else any(name in g["key"]["candidates"] for g in report["groups"])


def _set_up(name: str, one: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    cold = report["cold"].get(name, {"seconds": [], "offline": None, "failed": ""})
    seconds = cold["seconds"]
    formats = [report["formats"].get(f"{each} {RANDOM}", {}) for each in one["formats"]]
    failed = [f"failed: {each['failed']}" for each in formats if "failed" in each]
    total = sum(each.get("seconds", 0.0) for each in formats)
    return {
        "name": name,
        "versions": ", ".join(f"{package} {version}" for package, version in one["disk"]["versions"].items()),
        "commands": one["commands"],
        "disk": f"{one['disk']['mb']} ({one['disk']['packages']})",
        "format": failed[0] if failed else f"{total:.0f}" if formats else "",
        "cold": f"{np.median(seconds):.1f} ({min(seconds):.1f}–{max(seconds):.1f})" if seconds else cold["failed"],
        "offline": cold["offline"] or "",
        "cannot": "; ".join(one["cannot"]),
    }
