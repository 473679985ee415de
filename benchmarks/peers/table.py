"""The page: who is how fast, how right, how hard to set up, and where lrclr is not ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.catalogue import BASELINE, RANDOM, TRAINED
from benchmarks.peers.findings import Row, rows_of
from benchmarks.peers.quality import LARGEST_PROBABILITY_ERROR, LEAST_CENTRED, LEAST_COSINE
from benchmarks.peers.rounds import PAUSE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SPEED = {
    "image/1": "image, batch 1",
    "image/8": "batch 8",
    "image/32": "batch 32",
    "text77/1": "28 prompts, padded",
    "text/1": "28 prompts, trimmed",
    "answer/1": "picture to probabilities, prompts known",
    "answer-new/1": "prompts new",
}
_GAP, _GAP_OF_PRECISION = "**◀**", "◁"


def markdown(report: Mapping[str, Any]) -> str:
    """The whole page."""
    lines = [*_head(report), "", *_checkpoint(report, RANDOM, "ViT-B/32, random weights"), ""]
    trained = rows_of(report["groups"], report["candidates"], TRAINED)
    if trained:
        lines += [*_checkpoint(report, TRAINED, "The default checkpoint, trained, 4 million parameters"), ""]
    lines += [*_gaps(report), "", *_set_up(report), "", *_absent(report)]
    return "\n".join(lines) + "\n"


_QUALITY_HEAD = (
    "| | cosine of images (centred) | of prompts (centred) | largest error of a probability | same regions "
    "| peak memory, MB | of a core while others work |"
)
_INTRODUCTION = f"""\
One set of weights in everybody's format, the same inputs. Every candidate is a process; in each round they take
turns, one works and the others wait. They come in groups for want of memory, and torch eager and the best of lrclr
are in every group. Figures are times faster than torch eager at the same work (median of the rounds, quartiles),
milliseconds for torch eager itself. lrclr selects regions within these times, and its fusion head runs on the way to
probabilities; no peer does either.

OpenMP, MKL, OpenBLAS and Rayon are told the same number of threads; between two candidates there is a pause of
{PAUSE * 1e3:.0f} ms for threads that spin on; what a waiting one takes of a core all the same is in the second table.

{_GAP}: ahead of every lrclr that ran in turns with it, by more than the quartiles leave open: an open gap.
{_GAP_OF_PRECISION}: ahead of lrclr's best of the same precision only.
WRONG: a cosine to torch eager below {LEAST_COSINE}, a centred one below {LEAST_CENTRED}, or a probability that is off
by more than {LARGEST_PROBABILITY_ERROR}, on the worst input; who is wrong is ahead of nobody."""
_FLATTER = """\
Random weights do not change the speed, and they flatter the quality: embeddings nearly coincide, so that only the
centred cosine, of eight images and 28 prompts, says anything."""
_SET_UP_HEAD = (
    "| | versions | then | on disk, MB (packages) | added, MB | its format, s | cold, s | without network | cannot |"
)
_SET_UP = """\
On disk: all that its requirements need to answer, with torch's CPU build where that takes torch; what makes graphs
once is not counted, lrclr's neither. Added: megabytes of packages that pip brought for its own environment, beside the
project's. Its format: seconds to make of transformers' folder what the peer reads. Cold: from nothing to the first
answer for one image, of processes in turns, median (least–most). Without network: the same start in an empty network
namespace, when everything is installed and prepared."""


def _head(report: Mapping[str, Any]) -> list[str]:
    env = report["environment"]
    machine = (
        f"{env['processor']}, {env['threads']} threads each, fp32 GEMM peak {env['fp32_gemm_gflops']} GFLOP/s, "
        f"{env['system']}, Python {env['python']}; torch {env['torch']}, ONNX Runtime {env['onnxruntime']}."
    )
    first = "`make peers` writes this page and `peers.json`, which keeps every sample."
    if not report["finished"]:
        first += " **It was ended early: not everything is measured.**"
    return ["# Peers", "", first, "", machine, "", _INTRODUCTION]


def _checkpoint(report: Mapping[str, Any], checkpoint: str, title: str) -> list[str]:
    rows = rows_of(report["groups"], report["candidates"], checkpoint)
    works = [work for work in _SPEED if any(work in row.milliseconds for row in rows)]
    lines = [f"## {title}", ""]
    if checkpoint == RANDOM:
        lines += [_FLATTER, ""]
    lines += [
        "| | computes in | " + " | ".join(_SPEED[work] for work in works) + " |",
        "|---|---|" + "---|" * len(works),
    ]
    lines += [f"| {row.name} | {row.precision} | {' | '.join(_cell(row, work) for work in works)} |" for row in rows]
    lines += ["", _QUALITY_HEAD, "|---|---|---|---|---|---|---|"]
    lines += [_quality_line(row) for row in rows]
    return lines


def _cell(row: Row, work: str) -> str:
    if work not in row.milliseconds:
        return f"failed: {row.failed[work]}" if work in row.failed else ""
    if row.name == BASELINE:
        return f"{row.milliseconds[work]:.1f} ms"
    mark = f" {_GAP}" if work in row.ahead else f" {_GAP_OF_PRECISION}" if work in row.ahead_of_precision else ""
    if work not in row.ratio:
        return f"{row.milliseconds[work]:.1f} ms{mark}"
    middle, low, high = row.ratio[work]
    return f"{middle:.2f} ({low:.2f}–{high:.2f}){mark}"


def _quality_line(row: Row) -> str:
    def pair(work: str) -> str:
        if f"{work}.cosine" not in row.quality:
            return ""
        return f"{row.quality[f'{work}.cosine']:.6f} ({row.quality[f'{work}.centred_cosine']:.5f})"

    error = row.quality.get("probability.error")
    regions = row.quality.get("regions.equal")
    fields = [
        f"{row.name} **WRONG: {'; '.join(row.wrong)}**" if row.wrong else row.name,
        pair("image"),
        pair("text77" if "text77.cosine" in row.quality else "text"),
        "" if error is None else f"{error:.1e}",
        "" if regions is None else f"{regions:.0%}",
        str(row.peak_mb or ""),
        "" if row.idle_share is None else f"{row.idle_share:.1%}",
    ]
    return f"| {' | '.join(fields)} |"


def _gaps(report: Mapping[str, Any]) -> list[str]:
    lines = ["## Open gaps", ""]
    found: list[str] = []
    measured: set[str] = set()
    failed: dict[str, str] = {}
    for checkpoint in (RANDOM, TRAINED):
        for row in rows_of(report["groups"], report["candidates"], checkpoint):
            for work, (middle, low, high) in row.ahead.items():
                by = f"{middle:.2f} ({low:.2f}–{high:.2f}) times lrclr's best"
                found.append(f"- {checkpoint}, {_what(work)}: **{row.name}**, {by}.")
            if not row.ours and row.name != BASELINE and row.milliseconds:
                measured.add(row.name)
    peers = {name for name, one in report["candidates"].items() if not one["ours"] and name != BASELINE}
    for group in report["groups"]:
        failed |= {name: why for name, why in group["failed"].items() if name in peers - measured}
    if not found:
        names = ", ".join(sorted(measured))
        found.append(f"None: {names} are at no work ahead of lrclr's best." if measured else "No peer was measured.")
    return [*lines, *found, *(f"- Not compared: {name}: {why}" for name, why in sorted(failed.items()))]


def _what(work: str) -> str:
    name, _, batch = work.partition("/")
    return f"image, batch {batch}" if name == "image" else _SPEED[work]


def _set_up(report: Mapping[str, Any]) -> list[str]:
    lines = ["## Set-up", "", _SET_UP, "", _SET_UP_HEAD, "|---|---|---|---|---|---|---|---|---|"]
    ran = {one for group in report["groups"] for one in group["key"]["candidates"]}
    for name, one in report["candidates"].items():
        if name not in ran or (one["ours"] and name not in report["cold"]):
            continue
        cold = report["cold"].get(name, {"seconds": [], "offline": None, "failed": ""})
        seconds = cold["seconds"]
        start = f"{np.median(seconds):.1f} ({min(seconds):.1f}–{max(seconds):.1f})" if seconds else cold["failed"]
        made = report["environments"].get(one["environment"], {})
        fields = [
            name,
            ", ".join(f"{package} {version}" for package, version in one["disk"]["versions"].items()),
            "; ".join(f"`{command}`" for command in one["commands"]),
            f"{one['disk']['mb']} ({one['disk']['packages']})",
            f"{made['download_mb']:.0f}" if made else "",
            _format_seconds(report["formats"], one["adapter"]),
            start,
            cold["offline"] or "",
            "; ".join(one["cannot"]),
        ]
        lines.append(f"| {' | '.join(fields)} |")
    return lines


def _format_seconds(formats: Mapping[str, Mapping[str, Any]], adapter: str) -> str:
    found = formats.get(f"{adapter} {RANDOM}")
    if found is None:
        return ""
    return f"failed: {found['failed']}" if "failed" in found else f"{found['seconds']:.0f}"


def _absent(report: Mapping[str, Any]) -> list[str]:
    lines = ["## Not run here, and why", ""]
    absent: list[tuple[str, str]] = list(report["unavailable"].items())
    seen: Sequence[Mapping[str, str]] = [group["failed"] for group in report["groups"]]
    for failed in seen:
        # Those that never opened; what failed at one work stands in its cell.
        absent += [(name, why) for name, why in failed.items() if ": " not in name and (name, why) not in absent]
    return [*lines, *(f"- {name}: {why}" for name, why in absent)]
