"""Compares two results of the same machine. A change counts if it exceeds the variation between rounds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from lrclr.bench._statistics import quantiles, ratio_of_medians
from lrclr.errors import GateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.bench._result import Measurement, Quality, Result, TargetInfo
    from lrclr.reports import DefinedEstimate

__all__ = ["Change", "ResultComparison", "compare_results"]

Verdict = Literal["regression", "improvement", "same", "not judged"]
_UNITS: Final = {"latency": "ms", "throughput": "a second", "p99 under load": "ms"}


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one configuration in two results.

    Attributes:
        target: label in the second result.
        what: the case, in words.
        figure: ``"latency"``: median of the rounds' medians, in ms; ``"throughput"``: images or prompts per second;
            ``"p99 under load"``: in ms, at a rate in calls per second.
        before, after: the figure in the first and in the second result.
        worse: how many times worse the second result is. Above 1 is worse, for throughput too.
        verdict: depends on the threshold and on whether the interval contains 1; "not judged" with too few rounds.
        stable: whether both were measured in a steady state.
    """

    target: str
    what: str
    figure: str
    before: float
    after: float
    worse: DefinedEstimate
    verdict: Verdict
    stable: bool

    @property
    def unit(self) -> str:
        """Unit of `before` and `after`."""
        return _UNITS[self.figure]


@dataclass(frozen=True, slots=True)
class ResultComparison:
    """Result of `compare_results`.

    Attributes:
        threshold: a regression is worse by more than this share.
        changes: changes of the configurations that both results have.
        wrong: targets of the second result whose answers are wrong, with the first reason.
        unmatched: configurations that only one result has.
        differences: differences of machine and software, in words.
        machine_speed: float32 peak of the second machine over that of the first; None if one was not measured.
    """

    threshold: float
    changes: tuple[Change, ...]
    wrong: tuple[tuple[str, str], ...]
    unmatched: tuple[str, ...]
    differences: tuple[str, ...]
    machine_speed: float | None

    @property
    def regressions(self) -> list[Change]:
        """Changes for the worse that exceed the threshold and the noise."""
        return [change for change in self.changes if change.verdict == "regression"]

    def to_dict(self) -> dict[str, Any]:
        """The comparison in JSON's types."""
        return {"schema": 1, **asdict(self), "passed": not self.regressions and not self.wrong}

    def raise_refused(self) -> None:
        """Raise if a figure became worse, or answers are wrong.

        Raises:
            GateError: there is a regression, or a target with wrong answers. The error names the worst.
        """
        if self.wrong:
            label, reason = self.wrong[0]
            raise GateError(f"the answers of {label} are wrong", why=reason, fix="Run `lrclr verify` on the bundle.")
        if self.regressions:
            worst = max(self.regressions, key=lambda change: change.worse.value)
            many = len(self.regressions)
            more = f" ({many} of {len(self.changes)} figures became worse)" if many > 1 else ""
            raise GateError(
                f"{worst.figure} of {worst.target}, {worst.what}, is {worst.worse.value:.3g} times worse{more}",
                why=f"more than {self.threshold:.3g} is a regression, and the interval "
                f"{worst.worse.low:.3g} to {worst.worse.high:.3g} does not contain 1",
            )


def compare_results(
    before: Result, after: Result, *, threshold: float = 0.05, allow_other_machine: bool = False
) -> ResultComparison:
    """Compare the configurations that both results have. Rounds are not paired, since the results are of two runs.

    Targets are matched by kind, engine, precision and transport. If each result has only one target, these two are
    matched.

    Args:
        before: the result to compare with.
        after: the result that is compared.
        threshold: share by which a figure may become worse.
        allow_other_machine: whether the results may be of two machines.

    Raises:
        UsageError: the results are of two machines, or have no configuration in common.
    """
    if not 0 < threshold < 10:
        raise UsageError("the threshold must be above 0 and below 1000 %")
    machines = list(_machine_differences(before, after))
    if machines and not allow_other_machine:
        raise UsageError(
            f"the results are of different machines: {'; '.join(machines[:4])}",
            fix="Measure both on one machine, or add --allow-other-machine.",
        )
    exact = [bool(result.settings.get("exact")) for result in (before, after)]
    if exact[0] != exact[1]:
        raise UsageError(
            "the results cannot be compared",
            why="one was measured with files read in full (--exact), the other at a lower resolution",
            fix="Measure both with --exact, or both without.",
        )
    pairs = _matched(before, after)
    changes: list[Change] = []
    unmatched: list[str] = []
    for first, second in pairs:
        old, new = _cases(before, first.label), _cases(after, second.label)
        for key in old.keys() & new.keys():
            changes += _changes(old[key], new[key], threshold)
        unmatched += [f"{each.case.target}: {each.case.what}" for key, each in old.items() if key not in new]
        unmatched += [f"{each.case.target}: {each.case.what}" for key, each in new.items() if key not in old]
    if not changes:
        raise UsageError("the results have no configuration in common", fix="Measure the same with the same options.")
    matched = ({one.label for one, _ in pairs}, {other.label for _, other in pairs})
    for result, labels in zip((before, after), matched, strict=True):
        unmatched += [target.label for target in result.targets if target.label not in labels]
    order = {(each.case.target, each.case.what): place for place, each in enumerate(after.measurements)}
    changes.sort(key=lambda change: (order[change.target, change.what], change.figure))
    return ResultComparison(
        threshold=threshold,
        changes=tuple(changes),
        wrong=tuple((target.label, _reason(target.quality)) for target in after.wrong),
        unmatched=tuple(unmatched),
        differences=(*machines, *_software_differences(before, after)),
        machine_speed=_machine_speed(before, after),
    )


def _matched(before: Result, after: Result) -> list[tuple[TargetInfo, TargetInfo]]:
    if len(before.targets) == len(after.targets) == 1:
        return [(before.targets[0], after.targets[0])]
    left = list(after.targets)
    pairs = []
    for first in before.targets:
        # If several are alike, they are matched in order.
        second = next((each for each in left if each.key == first.key), None)
        if second is not None:
            left.remove(second)
            pairs.append((first, second))
    return pairs


def _cases(result: Result, target: str) -> dict[object, Measurement]:
    """Measurements of a target by case, without those at a share of capacity, which is another rate in each run."""
    return {
        each.case.key: each for each in result.measurements if each.case.target == target and each.case.share is None
    }


def _changes(before: Measurement, after: Measurement, threshold: float) -> Iterator[Change]:
    if before.case.rate is None:
        old, new = before.medians, after.medians
        yield _change(before, after, "latency", (old, new), threshold)
        rates = [
            [len(one.latency_us) * each.case.items / one.seconds for one in each.rounds] for each in (before, after)
        ]
        yield _change(before, after, "throughput", (rates[0], rates[1]), threshold)
    else:
        tails = [[quantiles(one.latency_us)["p99"] / 1e6 for one in each.rounds] for each in (before, after)]
        yield _change(before, after, "p99 under load", (tails[0], tails[1]), threshold)


def _change(
    before: Measurement, after: Measurement, figure: str, values: tuple[list[float], list[float]], threshold: float
) -> Change:
    old, new = values
    worse = ratio_of_medians(old, new) if figure == "throughput" else ratio_of_medians(new, old)
    verdict: Verdict = "same"
    if worse.low is None or worse.high is None:
        verdict = "not judged"
    elif worse.value > 1 + threshold and worse.low > 1:
        verdict = "regression"
    elif worse.value < 1 / (1 + threshold) and worse.high < 1:
        verdict = "improvement"
    scale = 1.0 if figure == "throughput" else 1e3
    middles = [sorted(each)[len(each) // 2] * scale for each in values]
    stable = before.stable and after.stable
    return Change(after.case.target, after.case.what, figure, middles[0], middles[1], worse, verdict, stable)


def _machine_differences(before: Result, after: Result) -> Iterator[str]:
    old, new = (result.environment.get("machine", {}) for result in (before, after))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield f"{key.replace('_', ' ')} {_shown(old.get(key))} and {_shown(new.get(key))}"
    cards = [[gpu.get("name") for gpu in result.environment.get("gpus", [])] for result in (before, after)]
    if cards[0] != cards[1]:
        yield f"GPUs {_shown(cards[0])} and {_shown(cards[1])}"


def _software_differences(before: Result, after: Result) -> Iterator[str]:
    for group in ("packages", "settings"):
        old, new = (result.environment.get(group, {}) for result in (before, after))
        for key in sorted(old.keys() | new.keys()):
            if key != "load" and old.get(key) != new.get(key):
                yield f"{key} {_shown(old.get(key))} and {_shown(new.get(key))}"
    for key in ("lrclr", "python", "system"):
        if before.environment.get(key) != after.environment.get(key):
            yield f"{key} {_shown(before.environment.get(key))} and {_shown(after.environment.get(key))}"
    for name, result in (("first", before), ("second", after)):
        if not result.complete:
            yield f"the {name} was interrupted"


def _machine_speed(before: Result, after: Result) -> float | None:
    peaks = [next((peak.gops for peak in result.peaks if peak.dtype == "fp32"), None) for result in (before, after)]
    return None if peaks[0] is None or peaks[1] is None else peaks[1] / peaks[0]


def _reason(quality: Quality) -> str:
    return quality.refused[0] if quality.refused else "a gate refused"


def _shown(value: Any) -> str:
    return "unknown" if value is None else str(value)[:60]
