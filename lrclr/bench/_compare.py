"""Comparison of two results: which configurations became slower or faster, beyond the noise between rounds."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from lrclr.bench._statistics import quantiles, ratio_of_medians
from lrclr.errors import GateError, UsageError
from lrclr.reports import DefinedEstimate, significant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.bench._result import Measurement, Quality, Result, TargetInfo

Verdict = Literal["regression", "improvement", "unclear", "same", "not judged"]
_UNITS: Final = {"latency": "ms", "throughput": "a second", "p99 under load": "ms"}
# In the order in which reports list them.
_WORDS: Final[dict[Verdict, str]] = {
    "regression": "slower",
    "improvement": "faster",
    "unclear": "unclear",
    "same": "same",
    "not judged": "not judged",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one configuration in two results.

    Attributes:
        target: label in the second result.
        what: the case, in words.
        figure: ``"latency"``: median of the rounds' medians, in ms; ``"throughput"``: images or prompts a second;
            ``"p99 under load"``: in ms, at a rate given in calls a second.
        before, after: figures of the two results.
        worse: ratio of the two figures; above 1 the second is worse, for throughput too.
        verdict: "regression" and "improvement": beyond the threshold, and the interval does not include 1; "same": the
            interval lies within the threshold; "unclear": anything else; "not judged" with too few rounds.
        stable: whether both measurements are stable.
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

    @property
    def speed(self) -> DefinedEstimate:
        """How many times as fast the second is: the inverse of `worse`."""
        low, high = (None if end is None else 1 / end for end in (self.worse.high, self.worse.low))
        return DefinedEstimate(1 / self.worse.value, low, high)

    @property
    def word(self) -> str:
        """The verdict on the second, as reports say it."""
        word = _WORDS[self.verdict]
        return word if self.stable else f"{word}, unstable"


@dataclass(frozen=True, slots=True)
class ResultComparison:
    """What `compare_results` found.

    Attributes:
        threshold: a figure that is worse by more than this share is a regression.
        changes: figures of all configurations that both results have.
        wrong: targets of the second result with wrong answers, and the first reason.
        unmatched: configurations that only one result has.
        differences: differences of machine and software, in words.
        machine_speed: ratio of the second machine's float32 peak to the first's; None if one was not measured.
    """

    threshold: float
    changes: tuple[Change, ...]
    wrong: tuple[tuple[str, str], ...]
    unmatched: tuple[str, ...]
    differences: tuple[str, ...]
    machine_speed: float | None

    @property
    def regressions(self) -> list[Change]:
        """Changes that exceed the threshold and the noise."""
        return [change for change in self.changes if change.verdict == "regression"]

    @property
    def by_configuration(self) -> list[Change]:
        """One change a configuration, the figure with the clearest verdict: slower ones first, then the largest."""
        order = list(_WORDS)

        def rank(change: Change) -> tuple[int, float]:
            return order.index(change.verdict), -abs(math.log(change.worse.value))

        chosen: dict[tuple[str, str], Change] = {}
        for change in sorted(self.changes, key=rank):
            chosen.setdefault((change.target, change.what), change)
        return list(chosen.values())

    @property
    def summary(self) -> str:
        """The verdict in one sentence."""
        rows = self.by_configuration
        counts = Counter(_WORDS[row.verdict] for row in rows)
        counted = ", ".join(f"{counts[word]} {word}" for word in _WORDS.values() if counts[word])
        if self.wrong:
            return f"The answers of B are WRONG ({self.wrong[0][0]}). Its speed means nothing: {counted}."
        clearest = rows[0]
        ratio = f"{significant(clearest.speed.value)} times as fast as A"
        if clearest.verdict == "regression":
            return f"B is slower than A: {counted}. Worst: {clearest.what} ({clearest.target}), {ratio}."
        if clearest.verdict == "improvement":
            return f"B is faster than A: {counted}. Most: {clearest.what} ({clearest.target}), {ratio}."
        if clearest.verdict == "same":
            return f"B is as fast as A, within {self.threshold:.0%}: {counted}."
        explained = f" Unclear: the interval goes beyond {self.threshold:.0%}." if clearest.verdict == "unclear" else ""
        return f"No difference was found: {counted}.{explained}"

    def to_dict(self) -> dict[str, Any]:
        """The comparison in JSON's types."""
        return {"schema": 1, **asdict(self), "passed": not self.regressions and not self.wrong}

    def raise_refused(self) -> None:
        """Raise an error about the worst regression or wrong answers.

        Raises:
            GateError: a figure became worse, or answers are wrong.
        """
        if self.wrong:
            label, reason = self.wrong[0]
            raise GateError(f"the answers of {label} are wrong", why=reason, fix="Run `lrclr verify` on the bundle.")
        if self.regressions:
            worst = max(self.regressions, key=lambda change: change.worse.value)
            speed, many = worst.speed, len(self.regressions)
            more = f" ({many} of {len(self.changes)} figures became worse)" if many > 1 else ""
            raise GateError(
                f"{worst.target}, {worst.what}, is slower by its {worst.figure}: {speed.value:.3g} times as fast{more}",
                why=f"a figure that is worse by more than {self.threshold:.3g} is a regression, and the interval "
                f"{speed.low:.3g} to {speed.high:.3g} does not include 1",
            )


def compare_results(
    before: Result, after: Result, *, threshold: float = 0.05, allow_other_machine: bool = False
) -> ResultComparison:
    """Compare the configurations that two results have in common. Their rounds are not paired.

    Targets are matched by kind, engine, precision and transport. Two results with one target each are compared in any
    case.

    Args:
        before: the result to compare with.
        after: the result that is compared.
        threshold: share by which a figure may become worse.
        allow_other_machine: whether results of two machines are compared.

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
        # Of several equal ones, the first with the first.
        second = next((each for each in left if each.key == first.key), None)
        if second is not None:
            left.remove(second)
            pairs.append((first, second))
    return pairs


def _cases(result: Result, target: str) -> dict[object, Measurement]:
    """A target's measurements by case, without those at a share of capacity: that is another rate in each run."""
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
    elif worse.high > 1 + threshold or worse.low < 1 / (1 + threshold):
        verdict = "unclear"
    scale = 1.0 if figure == "throughput" else 1e3
    middles = [sorted(each)[len(each) // 2] * scale for each in values]
    stable = before.stable and after.stable
    return Change(after.case.target, after.case.what, figure, middles[0], middles[1], worse, verdict, stable)


def _machine_differences(before: Result, after: Result) -> Iterator[str]:
    old, new = (result.environment.get("machine", {}) for result in (before, after))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield f"{key.replace('_', ' ')} {_written(old.get(key))} and {_written(new.get(key))}"
    cards = [[gpu.get("name") for gpu in result.environment.get("gpus", [])] for result in (before, after)]
    if cards[0] != cards[1]:
        yield f"GPUs {_written(cards[0])} and {_written(cards[1])}"


def _software_differences(before: Result, after: Result) -> Iterator[str]:
    for group in ("packages", "settings"):
        old, new = (result.environment.get(group, {}) for result in (before, after))
        for key in sorted(old.keys() | new.keys()):
            if key != "load" and old.get(key) != new.get(key):
                yield f"{key} {_written(old.get(key))} and {_written(new.get(key))}"
    for key in ("lrclr", "python", "system"):
        if before.environment.get(key) != after.environment.get(key):
            yield f"{key} {_written(before.environment.get(key))} and {_written(after.environment.get(key))}"
    for name, result in (("first", before), ("second", after)):
        if not result.complete:
            yield f"the {name} was interrupted"


def _machine_speed(before: Result, after: Result) -> float | None:
    peaks = [next((peak.gops for peak in result.peaks if peak.dtype == "fp32"), None) for result in (before, after)]
    return None if peaks[0] is None or peaks[1] is None else peaks[1] / peaks[0]


def _reason(quality: Quality) -> str:
    return quality.refused[0] if quality.refused else "a gate refused"


def _written(value: Any) -> str:
    return "unknown" if value is None else str(value)[:60]
