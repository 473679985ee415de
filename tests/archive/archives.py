"""Small archives of sample radiographs and damaged files, and a `score` process that kills itself."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

# Private: how often a run saves its rows. Tests make short runs save several times.
from lrclr.archive import ScoreOptions, ScoreProgress, _run, score
from lrclr.samples import sample_paths

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
ROWS_PER_PART = 8
GOOD, BAD = 30, 4


def make_archive(folder: Path) -> Path:
    """Write `GOOD` radiographs and `BAD` unreadable files into three folders."""
    rng = np.random.default_rng(3)
    pictures = [Image.open(path).convert("L") for path in sample_paths()]
    for number in range(GOOD):
        size = (60 + number, 70)
        pixels = np.asarray(pictures[number % len(pictures)].resize(size)).astype(np.int16)
        noisy = (pixels + rng.integers(-9, 10, pixels.shape)).clip(0, 255).astype(np.uint8)
        target = folder / f"study{number % 3}" / f"image{number:02d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(target)
    whole = (folder / "study0" / "image00.png").read_bytes()
    (folder / "study1" / "empty.png").write_bytes(b"")
    (folder / "study1" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "study2" / "text.jpg").write_bytes(b"Doe^Jane 1970-01-01")
    (folder / "study2" / "dangling.dcm").symlink_to(folder / "nowhere")
    return folder


def options(bundle: Path, **changes: Any) -> ScoreOptions:
    """Score options that the tests share."""
    return ScoreOptions(**{"bundle": bundle, "rows_per_part": ROWS_PER_PART, **changes})


def rows(folder: Path) -> list[dict[str, Any]]:
    """Every row of a folder of scores, sorted by file and frame."""
    found: list[dict[str, Any]] = pq.read_table(folder).to_pylist()
    return sorted(found, key=lambda row: (row["file"], row["frame"] or 0))


def names(folder: Path) -> list[str]:
    """Names of the files of `make_archive`, relative to `folder`. They begin with a letter that needs no escape."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def _die_at(calls: int) -> Callable[[int], None]:
    fsync_of_os, calls_so_far = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls_so_far
        calls_so_far += 1
        if calls_so_far == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync_of_os(descriptor)

    return fsync


def _main(source: str, output: str, bundle: str, fsyncs: str, chunks: str, rows: str, save_seconds: str) -> None:
    """Run `score`, and kill this process at the fsync number `fsyncs` or after `chunks` chunks. 0 means never."""
    setattr(os, "fsync", _die_at(int(fsyncs)))  # noqa: B010 - its own type takes more than a number
    setattr(_run, "_SAVE_SECONDS", float(save_seconds))  # noqa: B010 - final
    setattr(_run, "_SAVE_SHARE", 0)  # noqa: B010 - final
    left = int(chunks)

    def on_progress(_: ScoreProgress) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    summary = score(source, output, options(Path(bundle), rows_per_part=int(rows)), on_progress=on_progress)
    print(json.dumps({"failed": summary.failed, "ray": "ray" in sys.modules}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
