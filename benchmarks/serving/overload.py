"""Offers a server four times the load that it can take: ``python -m benchmarks.serving.overload``.

First it measures the load that the server can take: as many callers as the model has processes, each with one request
at a time. Then requests arrive at random times, four times as many a second, whether or not earlier ones were answered.
One request in ten has 64 images, the others have one. Each answer is compared with the answer for the same images
without a server. The server is `lrclr serve` with its defaults, in a process of its own; the requests come from another
process, over the loopback device.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import alone, environment
from benchmarks.measure import page as render_page
from benchmarks.serving.load import distinct_images
from benchmarks.serving.watched import served
from lrclr import Bundle, ZeroShotClassifier, read_image
from lrclr.bench import arrivals
from lrclr.deploy import DeployOptions
from lrclr.deploy._facts import Facts
from lrclr.deploy._resources import memory
from lrclr.errors import LrclrError, ServerUnavailableError
from lrclr.triton.client import AsyncClient, ClientOptions
from lrclr.triton.protocol import MAX_QUEUED, MAX_QUEUED_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["main", "page", "run"]

_TIMES = 4
_MANY = 64  # images of a large request, the most that a request may have
_SHARE = 0.1  # share of large requests
_TOLERANCE = 1e-4  # the other images of a batch change the last digits
_PARTS = 10  # parts of the run, for the spread


@dataclass(frozen=True)
class Load:
    """The requests, and the right answers.

    Attributes:
        files: encoded images.
        expected: probabilities of the findings, ``[files, findings]``.
        seed: seed of arrivals, sizes and images.
    """

    files: list[bytes]
    expected: NDArray[np.float64]
    seed: int = 0

    def requests(self, count: int) -> list[list[int]]:
        """Numbers of the files of each request."""
        rng = np.random.default_rng(self.seed)
        sizes = np.where(rng.random(count) < _SHARE, _MANY, 1)
        return [rng.integers(0, len(self.files), size).tolist() for size in sizes]


@dataclass
class Outcome:
    """One request.

    Attributes:
        images: number of images.
        due: seconds from the start of the run until it was due.
        late: seconds from then until it was sent.
        seconds: seconds from sending to its answer or error.
        kind: answered, wrong, full (refused at once), expired (refused after its time in the queue), or failed.
        text: message of an error.
    """

    images: int
    due: float
    late: float
    seconds: float
    kind: str
    text: str = ""


async def _one(client: AsyncClient, load: Load, places: list[int], due: float, began: float) -> Outcome:
    start = time.perf_counter()
    kind, text = "answered", ""
    try:
        reply = await client.ask([load.files[place] for place in places])
        numbers = np.array([[one.probability for one in each.findings] for each in reply.predictions])
        if np.abs(numbers - load.expected[places]).max() > _TOLERANCE:
            kind = "wrong"
    except ServerUnavailableError as error:
        text = str(error)
        kind = "failed" if error.retry_after is None else "full" if "full" in text else "expired"
    except LrclrError as error:
        kind, text = "failed", str(error)
    return Outcome(len(places), due, start - began - due, time.perf_counter() - start, kind, text)


async def _closed(address: str, load: Load, callers: int, seconds: float) -> list[Outcome]:
    """Callers that send their next request when the last one is answered."""
    remaining = iter(load.requests(100_000))
    outcomes: list[Outcome] = []

    async def call(client: AsyncClient, began: float) -> None:
        while time.perf_counter() - began < seconds:
            outcomes.append(await _one(client, load, next(remaining), time.perf_counter() - began, began))

    async with AsyncClient(address, ClientOptions(retries=0)) as client:
        await client.describe()
        began = time.perf_counter()
        await asyncio.gather(*(call(client, began) for _ in range(callers)))
    return outcomes


async def _opened(address: str, load: Load, rate: float, seconds: float) -> list[Outcome]:
    """Requests at the times when they are due."""
    moments = arrivals(rate, seconds, seed=load.seed).tolist()
    async with AsyncClient(address, ClientOptions(retries=0)) as client:
        await client.describe()
        began, tasks = time.perf_counter(), []
        for due, places in zip(moments, load.requests(len(moments)), strict=True):
            await asyncio.sleep(max(0.0, due - (time.perf_counter() - began)))
            tasks.append(asyncio.create_task(_one(client, load, places, due, began)))
        return list(await asyncio.gather(*tasks))


def _in_process(loop: Callable[..., Any], *arguments: Any) -> list[Outcome]:
    outcomes: list[Outcome] = asyncio.run(loop(*arguments))
    return outcomes


def run(bundle: Path, *, seconds: float, images: int = 32) -> dict[str, Any]:
    """Serve a bundle and offer it four times the load that it can take.

    Args:
        bundle: its folder.
        seconds: duration of the overload.
        images: number of different images.
    """
    opened = Bundle(bundle)
    facts = Facts.of(opened, DeployOptions("lrclr"))
    files = distinct_images(images)
    local = ZeroShotClassifier.from_bundle(bundle)
    answers = local.predict([read_image(file) for file in files])
    load = Load(files, np.array([[one.probability for one in each.findings] for each in answers]))
    measured_for = min(60.0, max(8.0, seconds / 4))
    with served(bundle) as watched:
        # Warm-up: each process answers, and memory is allocated.
        watched.during(_in_process, _closed, watched.grpc, load, facts.instances, measured_for / 4)
        taken = watched.during(_in_process, _closed, watched.grpc, load, facts.instances, measured_for)
        ended = max(one.due + one.seconds for one in taken)
        rate = len(taken) / ended
        before = max(watched.memory)
        outcomes = watched.during(_in_process, _opened, watched.grpc, load, _TIMES * rate, seconds)
        after = watched.during(_in_process, _closed, watched.grpc, load, facts.instances, 5.0)
        exited = watched.process.poll()
        notes = [line for line in watched.log.read_text().splitlines() if "warning" in line or "error" in line]
    limit = memory(facts, DeployOptions("lrclr"))
    by_kind = {
        kind: [one for one in outcomes if one.kind == kind]
        for kind in ("answered", "wrong", "full", "expired", "failed")
    }
    accepted = [one for kind in ("answered", "wrong", "failed") for one in by_kind[kind]]
    return {
        "queue": {"requests": MAX_QUEUED, "seconds": MAX_QUEUED_SECONDS, "processes": facts.instances},
        "mix": {
            "images": [1, _MANY],
            "share_of_large": _SHARE,
            "bytes_of_an_image": round(np.mean([*map(len, files)])),
        },
        "can_take": {
            "requests_per_second": round(rate, 2),
            "images_per_second": round(sum(one.images for one in taken) / ended, 1),
            "not_answered": sum(one.kind != "answered" for one in taken),
        },
        "offered": {
            "seconds": seconds,
            "requests": len(outcomes),
            "requests_per_second": round(len(outcomes) / seconds, 2),
            "images": sum(one.images for one in outcomes),
            "sent_late_ms": _milliseconds([one.late for one in outcomes]),
        },
        "accepted": {
            "requests": len(accepted),
            "images": sum(one.images for one in accepted),
            "answered_right": len(by_kind["answered"]),
            "answered_wrong": len(by_kind["wrong"]),
            "failed": len(by_kind["failed"]),
            "ms": _milliseconds([one.seconds for one in by_kind["answered"]]),
            "requests_per_second_in_tenths": _tenths([one.due for one in by_kind["answered"]], seconds),
        },
        "refused": {
            "at_once": len(by_kind["full"]),
            "at_once_ms": _milliseconds([one.seconds for one in by_kind["full"]]),
            "at_once_ms_of_one_image": _milliseconds([one.seconds for one in by_kind["full"] if one.images == 1]),
            "after_waiting": len(by_kind["expired"]),
            "after_waiting_ms": _milliseconds([one.seconds for one in by_kind["expired"]]),
        },
        "errors": sorted({one.text for one in by_kind["failed"]})[:10],
        "afterwards": {"requests": len(after), "answered_right": sum(one.kind == "answered" for one in after)},
        "server": {
            "memory_mib": {"before": round(before), "largest": round(max(watched.memory)), "limit": limit},
            "processes": len(watched.first),
            "processes_started_later": len(watched.later),
            "exit_code": exited,
            "warnings": notes[:10],
        },
    }


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    return {f"p{p}": round(float(np.percentile(seconds, p)) * 1e3, 1) for p in (50, 95, 99, 100)}


def _tenths(moments: Sequence[float], seconds: float) -> dict[str, float]:
    counts, _ = np.histogram(moments, bins=_PARTS, range=(0.0, seconds))
    rates = counts * _PARTS / seconds
    return {
        "least": round(float(rates.min()), 2),
        "median": round(float(np.median(rates)), 2),
        "most": round(float(rates.max()), 2),
    }


def page(result: dict[str, Any], found: dict[str, Any], command: str) -> str:
    """The results as Markdown.

    Args:
        result: result of `run`.
        found: the machine.
        command: the command that gave them.
    """

    def ms(values: dict[str, float]) -> str:
        return " / ".join(f"{values[key]:,.0f}" for key in ("p50", "p99", "p100")) if values else "none"

    return render_page("overload.md", **result, machine=found, command=command, tolerance=_TOLERANCE, ms=ms)


def main() -> None:
    """Run, print JSON, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=Path("triton_repo"))
    parser.add_argument("-o", "--output", type=Path, help="folder, such as benchmarks/results/overload")
    parser.add_argument("--seconds", type=float, default=600.0)
    given = parser.parse_args()
    with alone():
        result = run(given.bundle, seconds=given.seconds)
        found = environment()
    text = json.dumps({"environment": found, "overload": result}, indent=1)
    print(text)
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "overload.json").write_text(text + "\n", encoding="utf-8")
        command = f"python -m benchmarks.serving.overload --seconds {given.seconds:g}"
        (given.output / "README.md").write_text(page(result, found, command), encoding="utf-8")
    whole = result["accepted"]["answered_wrong"] == result["accepted"]["failed"] == 0
    raise SystemExit(0 if whole and result["server"]["exit_code"] is None else 1)


if __name__ == "__main__":
    main()
