"""One run of `lrclr.archive.score`, which `benchmarks.score.run` starts, stops and compares. Prints JSON."""

from __future__ import annotations

import argparse
import json
import resource
import signal
import time
from pathlib import Path

from lrclr.archive import LocalOptions, RayOptions, ScoreOptions, ScoreProgress, score
from lrclr.errors import LrclrError


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rows-per-part", type=int, default=500)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--address")
    parser.add_argument("--actors", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--largest-file", type=int, help="limit of a file in bytes, in place of a full disk")
    chosen = parser.parse_args()
    if chosen.largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (chosen.largest_file, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    runner = RayOptions(chosen.address, chosen.actors) if chosen.ray else LocalOptions(chosen.workers)
    options = ScoreOptions(chosen.bundle, rows_per_part=chosen.rows_per_part, runner=runner)
    points: list[tuple[float, int, float]] = []

    def note(progress: ScoreProgress) -> None:
        points.append((time.monotonic(), progress.done, _resident_mb()))

    begin = time.monotonic()
    try:
        summary = score(chosen.source, chosen.output, options, on_progress=note)
    except LrclrError as error:
        print(json.dumps({"error": str(error)}))
        raise SystemExit(1) from error
    print(json.dumps({**_pace(points, begin), "images": summary.images, "failed": summary.failed}))


def _pace(points: list[tuple[float, int, float]], begin: float) -> dict[str, object]:
    """Images a second from the first tenth to the end, which leaves out the start, and memory at four points."""
    if not points:
        return {"seconds": time.monotonic() - begin}
    total = points[-1][1]
    first = next(point for point in points if point[1] >= total / 10)
    last = points[-1]
    span = last[0] - first[0]
    return {
        "seconds": round(time.monotonic() - begin, 2),
        "first_after": round(points[0][0] - begin, 2),
        "rate": round((last[1] - first[1]) / span, 2) if span > 0 else None,
        "resident_mb": [round(points[int(share * (len(points) - 1))][2]) for share in (0.1, 0.4, 0.7, 1.0)],
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
