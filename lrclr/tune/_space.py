"""The configurations that can be tried: one level of each factor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import structs

from lrclr.bundle import ServingSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrclr.tune._windows import Estimate

Decoding = Literal["server", "client"]
Choice = tuple[int, ...]
"""The number of a level for each factor; 0 is the level of a new bundle."""

_COMBINED: Final = 3
"""Factors whose best levels are combined."""


@dataclass(frozen=True)
class Candidate:
    """A configuration.

    Attributes:
        settings: settings of the server.
        decoding: who decodes image files: the server, or the client, which then sends pixels.
    """

    settings: ServingSettings
    decoding: Decoding = "server"


@dataclass(frozen=True)
class Factor:
    """Something that can be changed.

    Attributes:
        name: name for people.
        levels: changes of a `Candidate`, by field; the first one changes nothing.
    """

    name: str
    levels: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Space:
    """All combinations of levels.

    Attributes:
        factors: the factors, those with the largest effects first.
    """

    factors: tuple[Factor, ...]

    @property
    def default(self) -> Choice:
        """The configuration of a new bundle."""
        return (0,) * len(self.factors)

    def screening(self) -> list[Choice]:
        """The default, then every configuration that differs from it in one factor; first levels come first."""
        found = [self.default]
        for level in range(1, max((len(each.levels) for each in self.factors), default=1)):
            found += [self._with({place: level}) for place, each in enumerate(self.factors) if level < len(each.levels)]
        return found

    def combined(self, found: Mapping[Choice, Estimate]) -> list[Choice]:
        """Combinations of the levels that were better than the default, each in a factor of its own.

        Args:
            found: estimates of the screening.
        """
        base = found[self.default].key
        singles = [each for each in found if sum(level > 0 for level in each) == 1 and found[each].key > base]
        best: dict[int, int] = {}
        for each in sorted(singles, key=lambda one: found[one].key, reverse=True):
            place = next(number for number, level in enumerate(each) if level)
            best.setdefault(place, each[place])
        places = list(best)[:_COMBINED]
        made = [
            self._with({place: best[place] for place in chosen})
            for count in range(len(places), 1, -1)
            for chosen in combinations(places, count)
        ]
        return [each for each in made if each not in found]

    def candidate(self, choice: Choice) -> Candidate:
        """The configuration of a choice."""
        changes: dict[str, Any] = {}
        for factor, level in zip(self.factors, choice, strict=True):
            changes |= factor.levels[level]
        decoding = changes.pop("decoding", "server")
        return Candidate(structs.replace(ServingSettings(), **changes), decoding)

    def name(self, choice: Choice) -> str:
        """How a configuration differs from the default, in words."""
        parts = [
            _shown(key, value)
            for factor, level in zip(self.factors, choice, strict=True)
            for key, value in factor.levels[level].items()
            if level
        ]
        return ", ".join(parts) or "default"

    def _with(self, levels: Mapping[int, int]) -> Choice:
        return tuple(levels.get(place, 0) for place in range(len(self.factors)))


def factors(
    *,
    processors: int,
    gpu: bool,
    batches: bool,
    max_batch: int,
    limit_ms: float,
    decoding: Sequence[Decoding] = ("server", "client"),
) -> tuple[Factor, ...]:
    """The factors for a bundle on a machine.

    Args:
        processors: processors of the machine.
        gpu: whether a GPU runs the graphs, so that threads do not matter.
        batches: whether Triton batches images.
        max_batch: largest batch.
        limit_ms: limit of the latency. Delays above a tenth of it are left out.
        decoding: where files are decoded; the first one is the default.
    """
    half = max(1, processors // 2)
    encoder: list[dict[str, Any]] = [{}]
    fusion: list[dict[str, Any]] = [{}]
    if gpu:
        encoder += [{"encoder_instances": count} for count in (2, 3)]
        fusion += [{"fusion_instances": 2}]
    elif processors > 1:
        encoder += [
            {"encoder_instances": 2, "encoder_threads": half},
            {"encoder_threads": half},
            {"encoder_instances": 2},
        ]
        if processors >= 12:
            encoder.append({"encoder_instances": min(processors // 4, 16), "encoder_threads": 4})
        fusion += [{"fusion_threads": 1}, {"fusion_instances": 2, "fusion_threads": 1}]
    else:
        encoder += [{"encoder_instances": 2}]
    many = [4, 16] if processors <= 8 else [16, 32]
    batching: list[dict[str, Any]] = [{}]
    if batches:
        for delay, preferred in ((1_000, ()), (5_000, ()), (2_000, (4,)), (5_000, (8,))):
            if delay <= 100 * limit_ms and all(size <= max_batch for size in preferred):
                batching.append({"queue_delay_us": delay, **({"preferred_batches": preferred} if preferred else {})})
    where: list[dict[str, Any]] = [{} if each == "server" else {"decoding": each} for each in decoding]
    return tuple(
        Factor(name, tuple(levels))
        for name, levels in (
            ("decoding", where),
            ("image encoder", encoder),
            ("processes", [{}, *({"processes": count} for count in many)]),
            ("batching", batching),
            ("fusion head", fusion),
        )
    )


def _shown(key: str, value: Any) -> str:
    text = "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
    name = key.removesuffix("_us").replace("_", " ")
    return f"{name} {text}" + (" µs" if key.endswith("_us") else "")
