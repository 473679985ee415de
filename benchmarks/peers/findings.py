"""From groups of rounds to one row a candidate: ratios, quality, and who is ahead of lrclr."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.catalogue import BASELINE
from benchmarks.peers.quality import wrong
from benchmarks.peers.rounds import Group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Three = tuple[float, float, float]


@dataclass
class Row:
    """What was measured of one candidate on one checkpoint.

    Attributes:
        name, precision, ours: of the candidate.
        milliseconds: median, by work.
        ratio: how many times faster than torch eager, by work: median, first and third quartile of the rounds.
        ahead: works at which it is ahead of all of lrclr that ran in turns with it, by how much: median and quartiles.
        ahead_of_precision: works at which it is ahead of lrclr's best of the same precision only.
        quality: see `quality`.
        wrong: what is too far off; a row with any is ahead of nobody.
        failed: by work, what it said.
        idle_share: of one core, taken while others worked; None until its group is finished.
        peak_mb: most memory.
    """

    name: str
    precision: str
    ours: bool
    milliseconds: dict[str, float] = field(default_factory=dict)
    ratio: dict[str, Three] = field(default_factory=dict)
    ahead: dict[str, Three] = field(default_factory=dict)
    ahead_of_precision: dict[str, Three] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    idle_share: float | None = None
    peak_mb: int = 0


def rows_of(
    groups: Sequence[Mapping[str, Any]], candidates: Mapping[str, Mapping[str, Any]], checkpoint: str
) -> list[Row]:
    """A row for each candidate that ran, lrclr's first; each from the first group that it was in."""
    rows: dict[str, Row] = {}
    for content in groups:
        if content["key"]["checkpoint"] != checkpoint:
            continue
        group = Group(**content)
        for name in group.key["candidates"]:
            if name in rows or name not in candidates:
                continue
            row = _row(name, group, candidates)
            # Who never opened stands among those that did not run.
            if row.milliseconds or any(row.failed):
                rows[name] = row
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
    right = [one for one in group.key["candidates"] if one in candidates and candidates[one]["ours"]]
    right = [one for one in right if not wrong(group.quality.get(one, {}))]
    for work in group.rounds:
        taken = group.seconds(name, work)
        if not taken:
            continue
        row.milliseconds[work] = round(float(np.median(taken)) * 1e3, 2)
        if found := group.ratio(BASELINE, name, work):
            row.ratio[work] = found
        if row.ours or row.wrong:
            continue
        row.ahead |= _ahead(group, name, work, right)
        if work not in row.ahead:
            same = [one for one in right if candidates[one]["precision"] == known["precision"]]
            row.ahead_of_precision |= _ahead(group, name, work, same)
    return row


def _ahead(group: Group, name: str, work: str, of: Sequence[str]) -> dict[str, Three]:
    """`{work: ratio}` if it is faster than each of them, by more than the quartiles leave open."""
    found = [ratio for one in of if (ratio := group.ratio(one, name, work))]
    if not found:
        return {}
    least = min(found)
    # With the least quartile below 1, rounds decide who is first: that is level.
    return {work: least} if least[1] > 1.0 else {}
