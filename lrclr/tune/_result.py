"""What `lrclr tune` measured, and what it chose."""

from __future__ import annotations

import json
from typing import Any, Final, Literal

from msgspec import structs, to_builtins

from lrclr._records import Record
from lrclr.errors import TuningError
from lrclr.tune._windows import Estimate

RESULT: Final = "tune.json"
DRIFT: Final = 0.2
"""Difference between the default's rates in two rounds, above which a note is printed."""


class Row(Record, frozen=True):
    """A configuration.

    Attributes:
        name: how it differs from the default, in words.
        settings: from `ServingSettings.to_dict`.
        decoding: where image files are decoded.
        rounds: number of the last round that measured it, from 1.
        estimates: one for each round that measured it.
    """

    name: str
    settings: dict[str, Any]
    decoding: Literal["server", "client"]
    rounds: int
    estimates: tuple[Estimate, ...]

    @property
    def last(self) -> Estimate:
        """The estimate of the longest measurement."""
        return self.estimates[-1]

    @property
    def verdict(self) -> str:
        """Whether the figures can be trusted, in words."""
        if self.last.failure is not None:
            return "did not start"
        if not self.last.rate:
            return "above the limit"
        if self.last.stable:
            return "stable"
        return "measured once" if len(self.last.supporting) == 1 else "unstable"


class TuneResult(Record, frozen=True):
    """The result.

    Attributes:
        bundle: SHA-256 of the manifest that was tuned.
        engine: the engine that Triton used.
        p99_ms: limit of the 99th percentile.
        callers: callers that waited for their answers; None for requests at random times.
        images: number, kinds and mean size of the images.
        seconds: how long it took.
        rounds: number of rounds.
        rows: every configuration that was measured, the best first.
        chosen: place of the chosen one in `rows`.
        default: place of the configuration of a new bundle.
        environment: hardware and software.
    """

    bundle: str
    engine: str
    p99_ms: float
    callers: int | None
    images: dict[str, Any]
    seconds: float
    rounds: int
    rows: tuple[Row, ...]
    chosen: int
    default: int
    environment: dict[str, Any]

    @property
    def best(self) -> Row:
        """The configuration that was chosen."""
        return self.rows[self.chosen]

    @property
    def base(self) -> Row:
        """The configuration of a new bundle."""
        return self.rows[self.default]

    @property
    def drift(self) -> float:
        """Largest difference between the rates of the default in two rounds, relative to the higher one."""
        rates = [each.rate for each in self.base.estimates if each.rate]
        return 1 - min(rates) / max(rates) if rates else 0.0

    @property
    def reached(self) -> bool:
        """Whether a configuration answers within the limit."""
        return bool(self.best.last.rate)

    def require_reached(self) -> None:
        """Raise TuningError if no configuration answers within the limit."""
        if self.reached:
            return
        answered = [row for row in self.rows if row.last.p99_ms is not None]
        why = "no request was answered"
        if answered:
            nearest = min(answered, key=lambda row: row.last.p99_ms or 0.0)
            rates = [window.offered for window in nearest.last.windows if window.offered is not None]
            at = f"at {min(rates):.3g} requests a second" if rates else f"with {self.callers} callers"
            why = f"the nearest one ({nearest.name}) has a 99th percentile of {nearest.last.p99_ms:.4g} ms {at}"
        raise TuningError(
            f"no configuration answers 99 % of the requests within {self.p99_ms:g} ms, with none lost",
            why=why,
            fix="The bundle is unchanged. Allow a higher --p99 or fewer --callers, or choose a faster engine with "
            "`lrclr build --engine auto`.",
        )

    def measured(self) -> dict[str, Any]:
        """A summary for the manifest."""
        machine = self.environment["machine"]
        return {
            "p99_limit_ms": self.p99_ms,
            "callers": self.callers,
            "decoding": self.best.decoding,
            "chosen": _summary(self.best.last),
            "default": _summary(self.base.last),
            "configurations": len(self.rows),
            "seconds": round(self.seconds),
            "images": self.images,
            "machine": {
                **{key: machine[key] for key in ("processor", "cores", "cpu_quota", "memory_gib", "virtual")},
                "gpus": [gpu["name"] for gpu in self.environment["gpus"]],
            },
            "packages": {"lrclr": self.environment["lrclr"], **self.environment["packages"]},
        }


def _summary(estimate: Estimate) -> dict[str, Any]:
    return {
        "requests_per_second": round(estimate.rate, 2),
        "p99_ms": None if estimate.p99_ms is None else round(estimate.p99_ms, 2),
        "spread": round(estimate.spread, 3),
        "stable": estimate.stable,
        "windows": len(estimate.supporting),
    }


def result_json(result: TuneResult) -> str:
    """The result with every latency, as JSON."""
    return json.dumps(to_builtins(structs.asdict(result)), indent=1, allow_nan=False) + "\n"
