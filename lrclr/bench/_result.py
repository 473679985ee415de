"""What a benchmark found: raw samples and what they were taken on. Every figure is made from them when it is shown."""

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
    """One window.

    Attributes:
        seconds: that it took on the wall.
        latency_us: of every call, in microseconds: from its begin, or in open loop from the moment that it was due.
        use: of the machine.
        due: calls that were due in it, of open loop; those that are not in `latency_us` were given up.
        saturated: whether calls came faster than they were answered, of open loop.
    """

    seconds: _Positive
    latency_us: Annotated[tuple[_Positive, ...], Meta(min_length=1)]
    use: Use
    due: int | None = None
    saturated: bool = False

    @property
    def lost(self) -> int:
        """Calls that were due and were given up."""
        return 0 if self.due is None else self.due - len(self.latency_us)


class Measurement(Record, frozen=True):
    """All rounds of a case.

    Attributes:
        case: what was measured.
        warmup_us: median latency of each window before anything counted.
        settled: whether the last of those were alike, so that a steady state was reached.
        tolerance: how far rounds may differ.
        rounds: that count.
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
        """Of the calls of all rounds."""
        return {name: value / 1e3 for name, value in quantiles(self.samples_us).items()}

    @property
    def samples_us(self) -> list[float]:
        """Latency of every call of every round."""
        return [value for each in self.rounds for value in each.latency_us]

    @property
    def throughput(self) -> DefinedEstimate:
        """Images, or prompts of the text encoder, a second."""
        done = [len(each.latency_us) * self.case.items for each in self.rounds]
        return throughput_interval(done, [each.seconds for each in self.rounds])

    @property
    def spread(self) -> float:
        """Interquartile range of the rounds' medians, relative to their median; 0 for a single round."""
        return spread(self.medians)

    @property
    def stable(self) -> bool:
        """Whether all was calm and the rounds are alike; of open loop, whether calls were kept up with."""
        if self.case.rate is not None:
            return not self.saturated
        return self.settled and self.spread <= self.tolerance

    @property
    def saturated(self) -> bool:
        """Whether calls came faster than they were answered, in most rounds: a single queue may grow by chance."""
        return 2 * sum(each.saturated for each in self.rounds) > len(self.rounds)


class Search(Record, frozen=True):
    """The highest rate of calls whose p99 keeps a target, by bisection.

    Attributes:
        case: what was called; its rate is the highest that held, 0 if none did.
        p99_ms: the target.
        trials: every rate that was tried, its p99 in milliseconds (None where calls were not kept up with), and whether
            it held.
    """

    case: Case
    p99_ms: float
    trials: tuple[tuple[float, float | None, bool], ...]


class Quality(Record, frozen=True):
    """How right the answers are, of the very object that was timed.

    Attributes:
        reference: what they were held against, in words.
        verdict: ``"wrong"`` if a gate refuses.
        refused: the gates that refused, each in a line.
        gates: how many there were.
        cosine, centred_cosine: least of the image embeddings with the reference's; None where nothing was compared.
        text_cosine: of the text embeddings.
        region_agreement: share of the selected regions that are the reference's.
        probability_error: largest difference of a finding's probability.
        auroc: mean over the findings that both the model and the carried radiographs know.
        auroc_reference: of the reference.
        auroc_images: carried radiographs.
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
    """What was measured.

    Attributes:
        label: short, unlike any other in the result.
        kind: ``"bundle"``, ``"checkpoint"`` or ``"server"``.
        engine: its own name, with version.
        precision: what the matrix products compute in, as the model says.
        transport: ``"in process"``, ``"grpc"`` or ``"grpc, shared memory"``.
        threads: of one operator; None for the engine's own choice.
        sha256: of the bundle's manifest or of the checkpoint.
        checkpoint_sha256: of the weights that it all began with.
        network: sizes that operations are counted from; None where they are not known.
        quality: how right it is.
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
        """What makes two targets of two results one and the same: all but versions and weights."""
        return (self.kind, self.engine.split(" ")[0], self.precision, self.transport)


class Peak(Record, frozen=True):
    """The fastest matrix product of large matrices that was measured here, on all cores.

    Attributes:
        dtype: of its operands.
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
        settings: how it was measured.
        targets: what was measured, with its quality.
        measurements: of each case.
        searches: for the highest rate.
        peaks: of this machine.
        bandwidth_gbs: of copying memory, 10⁹ bytes read and written a second; None if it was not measured.
        left_out: cases that could not be measured, with the reason.
        complete: False if it was interrupted: rounds that were whole by then are kept.
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
        """The one of this label."""
        return next(target for target in self.targets if target.label == label)

    @property
    def wrong(self) -> list[TargetInfo]:
        """Targets whose answers are not the reference's."""
        return [target for target in self.targets if target.quality.verdict == "wrong"]
