"""From groups of rounds to one row a candidate: ratios, quality, and whether a peer is ahead of lrclr."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.catalogue import BASELINE
from benchmarks.peers.quality import wrong
from benchmarks.peers.rounds import Group, Three

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass
class Row:
    """Measurements of one candidate with one checkpoint.

    Attributes:
        name, precision, ours: facts about the candidate.
        milliseconds: median, by work.
        ratio: how many times as fast as torch eager, by work: median and quartiles of the rounds.
        compared: for a peer, how many times as fast as lrclr's best in the same rounds, by work. A work is absent where
            the peer failed, its answers are wrong, or lrclr was not measured.
        ahead: works at which it is faster than lrclr's best, by more than the quartiles leave open.
        ahead_of_precision: works at which it is faster only than lrclr's best of the same precision.
        quality: see `quality`.
        wrong: measures of its answers that no precision explains.
        failed: errors by work; by "" if it could not be opened.
        idle_share: share of one core that it took while others worked; None until its group is finished.
        peak_mb: most memory.
    """

    name: str
    precision: str
    ours: bool
    milliseconds: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, Three] = field(default_factory=dict)
    compared: dict[str, Three] = field(default_factory=dict)
    ahead: set[str] = field(default_factory=set)
    ahead_of_precision: set[str] = field(default_factory=set)
    quality: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    idle_share: float | None = None
    peak_mb: int = 0

    @property
    def not_compared(self) -> dict[str, str]:
        """Why a peer was not compared with lrclr, by work, or by "" for all works."""
        if "" in self.failed:
            return {"": self.failed[""]}
        if self.wrong:
            return {"": f"its answers are wrong: {'; '.join(self.wrong)}"}
        unmatched = [work for work in self.milliseconds if work not in self.compared]
        return {**self.failed, **dict.fromkeys(unmatched, "no right answer of lrclr was measured beside it")}


def rows_of(
    groups: Sequence[Mapping[str, Any]], candidates: Mapping[str, Mapping[str, Any]], checkpoint: str
) -> list[Row]:
    """A row for each candidate, lrclr's first; each from the first group that it is in."""
    rows: dict[str, Row] = {}
    for content in groups:
        group = Group(**content)
        if group.key["checkpoint"] == checkpoint:
            for name in group.key["candidates"]:
                if name in candidates and name not in rows:
                    rows[name] = _row(name, group, candidates)
    return sorted(rows.values(), key=lambda row: (not row.ours, row.name != BASELINE))


def _row(name: str, group: Group, candidates: Mapping[str, Mapping[str, Any]]) -> Row:
    known = candidates[name]
    row = Row(name, known["precision"], known["ours"])
    row.quality = group.quality.get(name, {})
    row.wrong = wrong(row.quality)
    row.idle_share = group.idle_share.get(name)
    row.peak_mb = group.peak_mb.get(name, 0)
    for whose, what in group.failed.items():
        owner, _, work = whose.partition(": ")
        if owner == name:
            row.failed[work] = what
    ours = [one for one in group.key["candidates"] if one in candidates and candidates[one]["ours"]]
    right = [one for one in ours if not wrong(group.quality.get(one, {}))]
    same = [one for one in right if candidates[one]["precision"] == row.precision]
    for work in group.rounds:
        taken = group.seconds(name, work)
        if not taken:
            continue
        row.milliseconds[work] = round(float(np.median(taken)) * 1e3, 2)
        if found := group.ratio(BASELINE, name, work):
            row.ratio[work] = found
        if row.ours or row.wrong or not (best := _against_best(group, name, work, right)):
            continue
        row.compared[work] = best
        if _is_ahead(best):
            row.ahead.add(work)
        elif (of_precision := _against_best(group, name, work, same)) and _is_ahead(of_precision):
            row.ahead_of_precision.add(work)
    return row


def _against_best(group: Group, name: str, work: str, of: Sequence[str]) -> Three | None:
    """How many times as fast it is as the fastest of these; None if none was measured in the same rounds."""
    return min((ratio for one in of if (ratio := group.ratio(one, name, work))), default=None)


def _is_ahead(ratio: Three) -> bool:
    """Whether the lower quartile is above 1. If not, chance decides which one is faster in a round."""
    return ratio[1] > 1.0
