"""Rows and notes of a result that table, Markdown and page share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrclr.bench._peak import roof_of
from lrclr.bench._statistics import paired_ratio
from lrclr.reports import NONE, fixed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lrclr.bench._result import Measurement, OperatorTimes, Peak, Quality, Result
    from lrclr.reports import DefinedEstimate

QUALITY_HEADS = (
    "Against", "Cosine", "Centred", "Text", "Regions", "Largest error", "AUROC", "Verdict",
)  # fmt: skip
OPERATOR_HEADS = ("Operator", "Type", "Nodes", "ms", "Of the time")
_MOST_OPERATORS = 8
_BUSY, _STOLEN = 0.1, 0.02  # shares of the processors


@dataclass(frozen=True)
class Row:
    """A measurement in a report.

    Attributes:
        measurement: the measurement.
        faster: speed relative to the first target, round by round; None for the first target.
        peak_share: operations a second over the machine's peak; None if they are not counted.
        joules: energy of the GPUs, or without one of the processor package, for an image or a prompt.
        wrong: whether the target's answers are wrong.
    """

    measurement: Measurement
    faster: DefinedEstimate | None
    peak_share: float | None
    joules: float | None
    wrong: bool

    @property
    def verdict(self) -> str:
        """Whether the figures can be trusted, in a word."""
        if self.wrong:
            return "WRONG"
        if self.measurement.stable:
            return "stable"
        return "saturated" if self.measurement.saturated else "unstable"

    @property
    def verdict_with_reason(self) -> str:
        """The verdict; if it is "unstable", with the difference between windows."""
        word = self.verdict
        return f"{word}, {self.measurement.largest_difference:.0%}" if word == "unstable" else word


@dataclass(frozen=True)
class RooflinePoint:
    """A case in the roofline.

    Attributes:
        gops: 10⁹ operations a second.
        intensity: operations for each byte that must be moved.
        peak: the peak that limits it.
    """

    gops: float
    intensity: float
    peak: Peak

    @property
    def share(self) -> float:
        """Share of the peak."""
        return self.gops / self.peak.gops


def rows_of(result: Result) -> list[Row]:
    """Every measurement; those of one case are adjacent, in the order of the first of them."""
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
    # The same share of capacity is another rate for each target, but one case.
    asked = [(*row.measurement.case.key[:4], row.measurement.case.share or row.measurement.case.rate) for row in rows]
    order = {key: place for place, key in reversed(list(enumerate(asked)))}
    return [rows[place] for place in sorted(range(len(rows)), key=lambda place: order[asked[place]])]


def share_of_peak(result: Result, measurement: Measurement) -> RooflinePoint | None:
    """Point of a closed-loop case, with the machine's peak in the type in which its engine computes."""
    case, target = measurement.case, result.target(measurement.case.target)
    if target.network is None or case.rate is not None:
        return None
    cost = target.network.cost(case, target.precision)
    peak = roof_of(target.precision, target.engine, result.peaks)
    if cost is None or peak is None:
        return None
    calls = measurement.throughput.value / case.items
    return RooflinePoint(cost.flops * calls / 1e9, cost.intensity, peak)


def quality_cells(quality: Quality) -> tuple[str, ...]:
    """In the order of `QUALITY_HEADS`."""
    area = fixed(quality.auroc, 4)
    if quality.auroc is not None and quality.auroc_reference is not None:
        area += f" of {quality.auroc_reference:.4f}"
    error = NONE if quality.probability_error is None else f"{quality.probability_error:.1e}"
    regions = NONE if quality.region_agreement is None else f"{quality.region_agreement:.1%}"
    cosines = (fixed(each, 6) for each in (quality.cosine, quality.centred_cosine, quality.text_cosine))
    verdict = "WRONG" if quality.verdict == "wrong" else quality.verdict
    return (quality.reference, *cosines, regions, error, area, verdict)


def operator_rows(found: OperatorTimes) -> list[tuple[str, ...]]:
    """The operators with the most time and the sum of the others, in the order of `OPERATOR_HEADS`."""
    shares = found.shares
    rows: list[tuple[str, ...]] = [
        (each.name, each.dtype, str(each.nodes), f"{each.seconds * 1e3:.2f}", f"{share:.1%}")
        for each, share in shares[:_MOST_OPERATORS]
    ]
    others = shares[_MOST_OPERATORS:]
    if others:
        nodes = sum(each.nodes for each, _ in others)
        seconds = sum(each.seconds for each, _ in others)
        rows.append(("others", "", str(nodes), f"{seconds * 1e3:.2f}", f"{sum(share for _, share in others):.1%}"))
    return rows


def operator_summary(found: OperatorTimes) -> str:
    """The case, and the share of each type in the time of the products."""
    types = ", ".join(f"{share:.0%} in {dtype}" for dtype, share in found.type_shares.items())
    return f"{found.case.target}, {found.case.what}: products {types}"


def notes_of(result: Result) -> Iterator[str]:
    """What a reader must know before the figures."""
    if not result.complete:
        yield "Interrupted: the result holds the complete rounds only."
    for target in result.wrong:
        more = f" ({len(target.quality.refused)} of {target.quality.gates} gates refuse)"
        yield f"{target.label} is WRONG: {target.quality.refused[0]}{more}. Its speed means nothing."
    closed = [each for each in result.measurements if each.case.rate is None]
    uses = [one.use for each in result.measurements for one in each.rounds]
    if unstable := [each for each in closed if not each.stable]:
        yield (
            f"{len(unstable)} of {len(closed)} configurations are unstable: their windows differ by up to "
            f"{max(each.largest_difference for each in unstable):.0%} (limit {unstable[0].tolerance:.0%})."
        )
    others, stolen = (_median(getattr(use, name) for use in uses) for name in ("others", "stolen"))
    if others > _BUSY and all(each.kind != "server" for each in result.targets):
        yield f"Other programs used {others:.0%} of the processors: measure again on a quiet machine."
    if stolen > _STOLEN:
        yield f"The hypervisor gave {stolen:.0%} of the processors to other virtual machines."
    if any(use.throttled or (use.gpu and use.gpu.throttled) for use in uses):
        yield "Heat or power limited the clock during the measurement."
    for what, reason in result.left_out:
        yield f"Left out: {what}: {reason}"


def _median(values: Iterable[float | None]) -> float:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else 0.0


def _joules(measurement: Measurement) -> float | None:
    items = len(measurement.samples_us) * measurement.case.items
    uses = [one.use for one in measurement.rounds]
    gpus = [use.gpu.joules for use in uses if use.gpu is not None]
    package = [use.joules for use in uses if use.joules is not None]
    taken = gpus or package
    return sum(taken) / items if len(taken) == len(uses) else None
