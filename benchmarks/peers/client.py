"""Starts the process of a candidate and asks it."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any, Self

import psutil  # type: ignore[import-untyped, unused-ignore]

from benchmarks.peers.environments import ROOT, python_of
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from benchmarks.peers.catalogue import Candidate
    from benchmarks.peers.rounds import Plan
    from benchmarks.peers.works import Array


class PeerError(LrclrError):
    """A candidate failed; `why` is its own message."""


def process_environment(threads: int) -> dict[str, str]:
    """Environment variables of a candidate's process: this code, the number of threads, no telemetry."""
    own = {name: value for name, value in os.environ.items() if name not in {"PYTHONHOME", "VIRTUAL_ENV"}}
    counted = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **own,
        **dict.fromkeys(counted, str(threads)),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'export'}",
        "DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }


class Worker:
    """A candidate in a process of its own, which waits until it is asked.

    Args:
        candidate: the candidate.
        plan: where environments, weights and logs are, and the number of threads.
        checkpoint: name of the weights.
        network: whether it may reach a network; without, it runs in an empty network namespace.

    Attributes:
        name: name of the candidate.
        works: for each work that it offers, the numbers of images that it takes.
        idle_seconds, idle_cpu: how long others were measured, and the processor time that it took meanwhile.

    Raises:
        PeerError: it could not be opened.
    """

    def __init__(self, candidate: Candidate, plan: Plan, checkpoint: str, *, network: bool = True) -> None:
        self.name = candidate.name
        self.idle_seconds = self.idle_cpu = 0.0
        options = json.dumps({**candidate.options, "threads": str(plan.threads)})
        self._pipe, theirs = Pipe()
        command = [
            *(() if network else ("unshare", "--map-root-user", "--net")),
            *(str(python_of(plan.environments, candidate)), "-W", "ignore", "-m", "benchmarks.peers.worker"),
            *(candidate.adapter, str(plan.folder(checkpoint)), options, str(theirs.fileno())),
        ]
        with plan.log(candidate.name).open("a") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=process_environment(plan.threads),
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        self._usage = psutil.Process(self._process.pid)
        try:
            self.works: dict[str, list[int]] = self._receive()
        except PeerError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def offers(self, work: str, batch: int) -> bool:
        """Whether it offers this work for that many images."""
        return batch in self.works.get(work, ())

    def seconds(self, work: str, batch: int) -> float:
        """Seconds of one run.

        Raises:
            PeerError: it failed.
        """
        return float(self._ask("time", work, batch))

    def answer(self, work: str, batch: int) -> tuple[Array, int]:
        """The array that one run gives, and the most memory that the process has had, in MB.

        Raises:
            PeerError: it failed.
        """
        array, peak_mb = self._ask("answer", work, batch)
        return array, peak_mb

    def processor_seconds(self) -> float:
        """Processor time of the process so far, of all its threads."""
        try:
            used = self._usage.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return float(used.user + used.system)

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, *request: Any) -> Any:
        with suppress(BrokenPipeError, ConnectionResetError):
            self._pipe.send(request)
        return self._receive()

    def _receive(self) -> Any:
        try:
            error, value = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            raise PeerError(f"{self.name} has ended", why=f"exit code {code}", fix="Read its log.") from None
        if error:
            raise PeerError(f"{self.name} failed", why=error)
        return value
