"""Results of a benchmark: raw samples and where they were taken. Figures are computed from them when shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from lrclr._records import Record
from lrclr.bench._case import Case
from lrclr.bench._flops import Network
from lrclr.bench._statistics import difference, quantiles, spread, throughput_interval
from lrclr.bench._use import Use
from lrclr.engines import Operator

if TYPE_CHECKING:
    from lrclr.reports import DefinedEstimate

Verdict = Literal["good", "wrong", "not compared"]
_Positive = Annotated[float, Meta(gt=0)]


class Round(Record, frozen=True):
    """One window.

    Attributes:
        seconds: wall time.
        latency_us: latency of every call in microseconds, from its begin, or in open loop from when it was due.
        use: use of the machine.
        due: open loop: calls that were due; those missing in `latency_us` were given up.
        saturated: open loop: whether calls came faster than they were answered.
    """

    seconds: _Positive
    latency_us: Annotated[tuple[_Positive, ...], Meta(min_length=1)]
    use: Use
    due: int | None = None
    saturated: bool = False

    @property
    def lost(self) -> int:
        """Calls that were given up."""
        return 0 if self.due is None else self.due - len(self.latency_us)


class Measurement(Record, frozen=True):
    """All rounds of a case.

    Attributes:
        case: what was measured.
        warmup_us: median latency of each warm-up window.
        settled: whether the last warm-up windows agreed: a steady state.
        tolerance: largest difference between rounds that agree.
        rounds: the rounds that count.
    """

    case: Case
    warmup_us: tuple[float, ...]
    settled: bool
    tolerance: float
    rounds: Annotated[tuple[Round, ...], Meta(min_length=1)]

    @property
    def medians(self) -> list[float]:
        """Median latency of each round, in seconds."""
        return [quantiles(each.latency_us)["p50"] / 1e6 for each in self.rounds]

    @property
    def quantiles_ms(self) -> dict[str, float]:
        """Quantiles of the calls of all rounds, in milliseconds."""
        return {name: value / 1e3 for name, value in quantiles(self.samples_us).items()}

    @property
    def samples_us(self) -> list[float]:
        """Latency of every call of every round."""
        return [value for each in self.rounds for value in each.latency_us]

    @property
    def throughput(self) -> DefinedEstimate:
        """Images a second, or prompts a second for the text encoder."""
        done = [len(each.latency_us) * self.case.items for each in self.rounds]
        return throughput_interval(done, [each.seconds for each in self.rounds])

    @property
    def spread(self) -> float:
        """Interquartile range of the rounds' medians, relative to their median; 0 for a single round."""
        return spread(self.medians)

    @property
    def stable(self) -> bool:
        """Whether warm-up and rounds agree; in open loop, whether all calls were answered in time."""
        if self.case.rate is not None:
            return not self.saturated
        return self.settled and self.spread <= self.tolerance

    @property
    def largest_difference(self) -> float:
        """Largest relative difference between windows: of the warm-up if it did not settle, and of the rounds."""
        return max(self.spread, 0.0 if self.settled else difference(self.warmup_us))

    @property
    def saturated(self) -> bool:
        """Whether calls came faster than they were answered in most rounds; in one round that may be chance."""
        return 2 * sum(each.saturated for each in self.rounds) > len(self.rounds)


class Search(Record, frozen=True):
    """The highest rate of calls with a p99 below a limit, found by bisection.

    Attributes:
        case: the case; its rate is the highest that passed, or 0.
        p99_ms: the limit.
        trials: every rate that was tried, its p99 in milliseconds (None if saturated), and whether it passed.
    """

    case: Case
    p99_ms: float
    trials: tuple[tuple[float, float | None, bool], ...]


class Quality(Record, frozen=True):
    """Quality of the answers of the engine that was timed.

    Attributes:
        reference: what they were compared with, in words.
        verdict: ``"wrong"`` if a gate refuses.
        refused: the gates that refused, each in a line.
        gates: number of gates.
        cosine, centred_cosine: smallest over the image embeddings, with the reference's; None without a reference.
        text_cosine: smallest over the text embeddings.
        region_agreement: share of the selected regions that the reference selects too.
        probability_error: largest difference of a finding's probability.
        auroc: mean over the findings that both the model and the carried radiographs have.
        auroc_reference: AUROC of the reference.
        auroc_images: number of carried radiographs.
    """

    reference: str
    verdict: Verdict
    refused: tuple[str, ...] = ()
    gates: int = 0
    cosine: float | None = None
    centred_cosine: float | None = None
    text_cosine: float | None = None
    region_agreement: float | None = None
    probability_error: float | None = None
    auroc: float | None = None
    auroc_reference: float | None = None
    auroc_images: int = 0


class OperatorTimes(Record, frozen=True):
    """Operators of one run of a graph, from the engine's profile.

    Attributes:
        case: the case that was run.
        operators: the operators, the one with the longest time first.
    """

    case: Case
    operators: Annotated[tuple[Operator, ...], Meta(min_length=1)]

    @property
    def shares(self) -> list[tuple[Operator, float]]:
        """Each operator with its share of the time of all."""
        total = sum(each.seconds for each in self.operators)
        return [(each, each.seconds / total if total else 0.0) for each in self.operators]

    @property
    def type_shares(self) -> dict[str, float]:
        """Share of the time of products by their type, the largest first."""
        products = [each for each in self.operators if each.is_product]
        total = sum(each.seconds for each in products)
        found: dict[str, float] = {}
        for each in products:
            found[each.dtype] = found.get(each.dtype, 0.0) + (each.seconds / total if total else 0.0)
        return dict(sorted(found.items(), key=lambda item: -item[1]))


class TargetInfo(Record, frozen=True):
    """A measured target.

    Attributes:
        label: short name, unique in the result.
        kind: ``"bundle"``, ``"checkpoint"`` or ``"server"``.
        engine: the engine's name with its version.
        precision: type in which the matrix products are computed, as the model says.
        transport: ``"in process"``, ``"grpc"`` or ``"grpc, shared memory"``.
        threads: threads of one operator; None for the engine's default.
        sha256: hash of the bundle's manifest or of the checkpoint.
        checkpoint_sha256: hash of the original weights.
        network: sizes from which operations are counted; None if unknown.
        quality: quality of the answers.
        operators: where the time of its graphs goes; empty for an engine that does not report it.
    """

    label: str
    kind: str
    engine: str
    precision: str
    transport: str
    threads: int | None
    sha256: str
    checkpoint_sha256: str
    network: Network | None = None
    quality: Quality = Quality("nothing", "not compared")
    operators: tuple[OperatorTimes, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What two results compare targets by: all but versions and weights."""
        return (self.kind, self.engine.split(" ")[0], self.precision, self.transport)


class Peak(Record, frozen=True):
    """The fastest product of large matrices that was measured on this machine, on all cores.

    Attributes:
        dtype: type of the operands.
        gops: 10⁹ multiplications and additions a second.
        by: the library.
    """

    dtype: str
    gops: float
    by: str


class Result(Record, frozen=True):
    """A benchmark.

    Attributes:
        environment: see `environment`.
        settings: the options.
        targets: the targets with their quality.
        measurements: one for each case.
        searches: searches for the highest rate.
        peaks: peaks of this machine.
        bandwidth_gbs: 10⁹ bytes a second that copying memory reads and writes; None if not measured.
        left_out: cases that could not be measured, with the reason.
        complete: False if the run was interrupted; it holds the complete rounds.
    """

    environment: dict[str, Any]
    settings: dict[str, Any]
    targets: tuple[TargetInfo, ...]
    measurements: tuple[Measurement, ...]
    searches: tuple[Search, ...] = ()
    peaks: tuple[Peak, ...] = ()
    bandwidth_gbs: float | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    complete: bool = True

    def target(self, label: str) -> TargetInfo:
        """The target with this label."""
        return next(target for target in self.targets if target.label == label)

    @property
    def wrong(self) -> list[TargetInfo]:
        """Targets whose answers differ from the reference's beyond the tolerances."""
        return [target for target in self.targets if target.quality.verdict == "wrong"]
