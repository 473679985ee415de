"""Counters in Prometheus's text format 0.0.4. They hold no texts of requests."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Requests by path and status, and their times. Used in the event loop only."""

    def __init__(self) -> None:
        self._requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._seconds: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * (len(_BOUNDS) + 2))

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request. `path` is the route's, without keys of images."""
        self._requests[method, path, status] += 1
        row = self._seconds[path]
        for place, bound in enumerate(_BOUNDS):
            row[place] += seconds <= bound
        row[-2] += 1
        row[-1] += seconds

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """All of it, with gauges by name: what each means, and its value."""
        return "\n".join([*self._lines(gauges), ""])

    def _lines(self, gauges: Mapping[str, tuple[str, float]]) -> Iterator[str]:
        name = "lrclr_web_requests_total"
        yield from _head(name, "counter", "Requests, by path and status")
        for (method, path, status), number in sorted(self._requests.items()):
            yield f'{name}{{method="{method}",path="{path}",status="{status}"}} {number}'
        name = "lrclr_web_request_seconds"
        yield from _head(name, "histogram", "Time from the request's head to the end of the answer, by path")
        for path, row in sorted(self._seconds.items()):
            for bound, count in zip((*_BOUNDS, "+Inf"), row, strict=False):
                yield f'{name}_bucket{{path="{path}",le="{bound}"}} {int(count)}'
            yield f'{name}_count{{path="{path}"}} {int(row[-2])}'
            yield f'{name}_sum{{path="{path}"}} {row[-1]:.6f}'
        for name, (meaning, value) in gauges.items():
            yield from _head(name, "counter" if name.endswith("_total") else "gauge", meaning)
            yield f"{name} {value}"


def _head(name: str, kind: str, meaning: str) -> tuple[str, str]:
    return f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"
