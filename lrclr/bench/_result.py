"""Result of a benchmark: raw samples and the machine. All figures are computed from the samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from lrclr._records import Record
from lrclr.bench._case import Case
from lrclr.bench._flops import Network
from lrclr.bench._statistics import quantiles, spread, throughput_interval
from lrclr.bench._use import Use

if TYPE_CHECKING:
    from lrclr.reports import DefinedEstimate

__all__ = ["Measurement", "Peak", "Quality", "Result", "Round", "Search", "TargetInfo", "Verdict"]

Verdict = Literal["good", "wrong", "not compared"]
_Positive = Annotated[float, Meta(gt=0)]


class Round(Record, frozen=True):
    """One window of calls.

    Attributes:
        seconds: wall time.
        latency_us: latency of every call in microseconds, from its begin, or in open loop from when it was due.
        use: use of the machine.
        due: in open loop, the number of calls that were due. Calls that are not in `latency_us` were given up.
        saturated: in open loop, whether calls arrived faster than they were answered.
    """

    seconds: _Positive
    latency_us: Annotated[tuple[_Positive, ...], Meta(min_length=1)]
    use: Use
    due: int | None = None
    saturated: bool = False

    @property
    def lost(self) -> int:
        """Number of calls that were due and were given up."""
        return 0 if self.due is None else self.due - len(self.latency_us)


class Measurement(Record, frozen=True):
    """All rounds of a case.

    Attributes:
        case: the case.
        warmup_us: median latency of each window of the warm-up.
        settled: whether the last windows of the warm-up were alike: a steady state.
        tolerance: how much rounds may differ.
        rounds: the measured rounds.
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
        """Quantiles of the latency over the calls of all rounds, in milliseconds."""
        return {name: value / 1e3 for name, value in quantiles(self.samples_us).items()}

    @property
    def samples_us(self) -> list[float]:
        """Latency of every call of every round."""
        return [value for each in self.rounds for value in each.latency_us]

    @property
    def throughput(self) -> DefinedEstimate:
        """Images per second; for the text encoder, prompts per second."""
        done = [len(each.latency_us) * self.case.items for each in self.rounds]
        return throughput_interval(done, [each.seconds for each in self.rounds])

    @property
    def spread(self) -> float:
        """Interquartile range of the medians of the rounds, relative to their median; 0 for a single round."""
        return spread(self.medians)

    @property
    def stable(self) -> bool:
        """Whether the rounds are alike, after a steady state; in open loop, whether the queue did not grow."""
        if self.case.rate is not None:
            return not self.saturated
        return self.settled and self.spread <= self.tolerance

    @property
    def saturated(self) -> bool:
        """Whether calls arrived faster than they were answered, in most rounds. One queue may grow by chance."""
        return 2 * sum(each.saturated for each in self.rounds) > len(self.rounds)


class Search(Record, frozen=True):
    """The highest rate of calls whose p99 meets a target, by bisection.

    Attributes:
        case: the case. Its rate is the highest that met the target, 0 if none did.
        p99_ms: the target.
        trials: every rate that was tried, its p99 in milliseconds (None if saturated), and whether it met the target.
    """

    case: Case
    p99_ms: float
    trials: tuple[tuple[float, float | None, bool], ...]


class Quality(Record, frozen=True):
    """Correctness of a target's answers.

    Attributes:
        reference: the reference, in words.
        verdict: ``"wrong"`` if a gate refused.
        refused: the gates that refused, one line each.
        gates: number of gates.
        cosine, centred_cosine: smallest cosine of image embeddings with the reference; None without a comparison.
        text_cosine: smallest cosine of text embeddings with the reference.
        region_agreement: share of the selected regions that are equal to the reference's.
        probability_error: largest difference of a finding's probability.
        auroc: mean over the findings that both the model and the packaged radiographs have.
        auroc_reference: the same for the reference.
        auroc_images: number of packaged radiographs.
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


class TargetInfo(Record, frozen=True):
    """Description of a target.

    Attributes:
        label: short name, unique in the result.
        kind: ``"bundle"``, ``"checkpoint"`` or ``"server"``.
        engine: name of the engine, with its version.
        precision: type of the matrix products, by the model.
        transport: ``"in process"``, ``"grpc"`` or ``"grpc, shared memory"``.
        threads: threads of one operator; None for the default of the engine.
        sha256: hash of the bundle's manifest or of the checkpoint.
        checkpoint_sha256: hash of the checkpoint of the weights.
        network: sizes by which operations are counted; None if unknown.
        quality: correctness of its answers.
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

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Equal for targets of two results that differ only in versions and weights."""
        return (self.kind, self.engine.split(" ")[0], self.precision, self.transport)


class Peak(Record, frozen=True):
    """The fastest matrix product of large matrices that was measured here, on all cores.

    Attributes:
        dtype: type of the operands.
        gops: 10⁹ multiplications and additions per second.
        by: the library.
    """

    dtype: str
    gops: float
    by: str


class Result(Record, frozen=True):
    """Result of a benchmark.

    Attributes:
        environment: see `environment`.
        settings: options of the benchmark.
        targets: the targets, with their quality.
        measurements: one for each case.
        searches: searches for the highest rate.
        peaks: peaks of this machine.
        bandwidth_gbs: speed of copying memory, in 10⁹ bytes read and written per second; None if not measured.
        left_out: cases that could not be measured, with the reason.
        complete: False if it was interrupted; then it holds the rounds that were complete.
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
        """The target with a label."""
        return next(target for target in self.targets if target.label == label)

    @property
    def wrong(self) -> list[TargetInfo]:
        """Targets whose answers differ from the reference."""
        return [target for target in self.targets if target.quality.verdict == "wrong"]
