"""Rows and remarks of a result, shared by table, Markdown and page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrclr.bench._peak import roof_of
from lrclr.bench._statistics import paired_ratio
from lrclr.reports import NONE, fixed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.bench._result import Measurement, Peak, Quality, Result
    from lrclr.reports import DefinedEstimate

__all__ = ["QUALITY_HEADS", "Row", "Work", "notes_of", "quality_cells", "rows_of", "share_of_peak"]

QUALITY_HEADS = (
    "Against", "Cosine", "Centred", "Text", "Regions", "Largest error", "AUROC", "Verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        measurement: the measurement.
        faster: how many times faster than the first target, by round; None for the first target.
        peak_share: operations per second over the machine's peak; None if operations are not counted.
        joules: energy per image or prompt, of GPUs, or of the processor's package without GPUs.
        wrong: whether the target's answers are wrong.
    """

    measurement: Measurement
    faster: DefinedEstimate | None
    peak_share: float | None
    joules: float | None
    wrong: bool

    @property
    def verdict(self) -> str:
        """Reliability of the figures, in a word."""
        if self.wrong:
            return "WRONG"
        if self.measurement.stable:
            return "stable"
        return "saturated" if self.measurement.saturated else "unstable"


@dataclass(frozen=True)
class Work:
    """A point of the roofline.

    Attributes:
        gops: 10⁹ operations per second.
        intensity: operations per byte.
        peak: the peak with which it is compared.
    """

    gops: float
    intensity: float
    peak: Peak

    @property
    def share(self) -> float:
        """Share of the peak."""
        return self.gops / self.peak.gops


def rows_of(result: Result) -> list[Row]:
    """All measurements grouped by case, in the order of the first of each."""
    wrong = {target.label for target in result.wrong}
    first = {each.case.key: each for each in result.measurements if each.case.target == result.targets[0].label}
    rows = []
    for each in result.measurements:
        base = first.get(each.case.key)
        faster = None
        if base is not None and base is not each and each.case.rate is None and len(base.rounds) == len(each.rounds):
            faster = paired_ratio(base.medians, each.medians)
        work = share_of_peak(result, each)
        share = None if work is None else work.share
        rows.append(Row(each, faster, share, _joules(each), each.case.target in wrong))
    # Cases at the same share of capacity belong together, though their rates differ.
    asked = [(*row.measurement.case.key[:4], row.measurement.case.share or row.measurement.case.rate) for row in rows]
    order = {key: place for place, key in reversed(list(enumerate(asked)))}
    return [rows[place] for place in sorted(range(len(rows)), key=lambda place: order[asked[place]])]


def share_of_peak(result: Result, measurement: Measurement) -> Work | None:
    """Speed of a case in closed loop relative to the machine's peak, in the type in which its engine computes."""
    case, target = measurement.case, result.target(measurement.case.target)
    if target.network is None or case.rate is not None:
        return None
    cost = target.network.cost(case, target.precision)
    peak = roof_of(target.precision, target.engine, result.peaks)
    if cost is None or peak is None:
        return None
    calls = measurement.throughput.value / case.items
    return Work(cost.flops * calls / 1e9, cost.intensity, peak)


def quality_cells(quality: Quality) -> tuple[str, ...]:
    """Cells in the order of `QUALITY_HEADS`."""
    area = fixed(quality.auroc, 4)
    if quality.auroc is not None and quality.auroc_reference is not None:
        area += f" of {quality.auroc_reference:.4f}"
    error = NONE if quality.probability_error is None else f"{quality.probability_error:.1e}"
    regions = NONE if quality.region_agreement is None else f"{quality.region_agreement:.1%}"
    cosines = (fixed(each, 6) for each in (quality.cosine, quality.centred_cosine, quality.text_cosine))
    verdict = "WRONG" if quality.verdict == "wrong" else quality.verdict
    return (quality.reference, *cosines, regions, error, area, verdict)


def notes_of(result: Result) -> Iterator[str]:
    """Remarks that a reader must know before the figures."""
    if not result.complete:
        yield "Interrupted: only the complete rounds are shown."
    for target in result.wrong:
        more = f" ({len(target.quality.refused)} of {target.quality.gates} gates refuse)"
        yield f"{target.label} is WRONG: {target.quality.refused[0]}{more}. Its speed has no meaning."
    unstable = sum(not each.stable for each in result.measurements if each.case.rate is None)
    if unstable:
        count = sum(each.case.rate is None for each in result.measurements)
        yield f"{unstable} of {count} configurations did not reach a steady state: their figures are marked unstable."
    crowded = [use.others for each in result.measurements for use in (one.use for one in each.rounds) if use.others]
    if crowded and sorted(crowded)[len(crowded) // 2] > 0.1 and all(each.kind != "server" for each in result.targets):
        yield "Other programs used more than a tenth of the processors for most of the time."
    if any(
        one.use.throttled or (one.use.gpu and one.use.gpu.throttled) for m in result.measurements for one in m.rounds
    ):
        yield "Heat or power limits lowered the clock of the machine during the measurement."
    for what, reason in result.left_out:
        yield f"Left out: {what}: {reason}"


def _joules(measurement: Measurement) -> float | None:
    items = len(measurement.samples_us) * measurement.case.items
    uses = [one.use for one in measurement.rounds]
    gpus = [use.gpu.joules for use in uses if use.gpu is not None]
    package = [use.joules for use in uses if use.joules is not None]
    taken = gpus or package
    return sum(taken) / items if len(taken) == len(uses) else None
