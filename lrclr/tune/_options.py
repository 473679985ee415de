"""Options of `lrclr tune`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lrclr.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.tune._space import Decoding

_MOST_CALLERS: Final = 256


@dataclass(frozen=True)
class TuneOptions:
    """What to look for, and for how long. Values are checked when an instance is made.

    Attributes:
        p99_ms: limit of the 99th percentile of the latency, in milliseconds.
        callers: number of callers that each send a request when the last one is answered; None for requests at random
            times.
        seconds: about how long it takes.
        decoding: where image files are decoded: by the server, by the client, or both are tried.
        files: encoded images to send; by default the sample radiographs (PNG).
        exact: whether files are read in full; see `lrclr.images.read_for_model`.
        server: path of tritonserver; by default see `ServeOptions`.
        seed: seed of the arrivals.
    """

    p99_ms: float
    callers: int | None = None
    seconds: float = 480.0
    decoding: tuple[Decoding, ...] = ("server", "client")
    files: tuple[Path, ...] = ()
    exact: bool = False
    server: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("the p99", self.p99_ms), ("the time", self.seconds)):
            if not math.isfinite(value) or value <= 0:
                raise UsageError(f"{name} must be a number above 0")
        if self.callers is not None and not 1 <= self.callers <= _MOST_CALLERS:
            raise UsageError(f"{self.callers} callers are not possible", fix=f"Use 1 to {_MOST_CALLERS}.")
        if not self.decoding or not set(self.decoding) <= {"server", "client"}:
            raise UsageError("unknown place to decode files", fix="Choose server, client or both.")
