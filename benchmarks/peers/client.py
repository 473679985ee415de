"""The other end of a peer's process."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from types import TracebackType

    from benchmarks.peers.catalogue import Candidate
    from benchmarks.peers.works import Array

ROOT = Path(__file__).resolve().parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")


def environment_of_process(threads: int) -> dict[str, str]:
    """The same for every peer: its threads, and no word to a network about models that are there."""
    own = {name: value for name, value in os.environ.items() if name not in {"PYTHONHOME", "VIRTUAL_ENV"}}
    counted = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        **own,
        **dict.fromkeys(counted, str(threads)),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'export'}",
        "DO_NOT_TRACK": "1",
        "ORT_DISABLE_TELEMETRY": "1",
    }


class PeerError(LrclrError):
    """A peer failed; the message is its own."""


class Worker:
    """A peer in a process, which waits until it is asked.

    Args:
        candidate: who.
        python: what runs it.
        folder: the checkpoint in everybody's format.
        threads: of its runtime.
        log: where what it prints goes.
        network: whether it may reach one; without, it runs in an empty network namespace.

    Attributes:
        works: the numbers of images of each work that it offers.
        seconds_to_open: from nothing until it was open.
        idle_seconds, idle_cpu: how long it was watched while others ran, and the processor time it took meanwhile.

    Raises:
        PeerError: it could not be opened.
    """

    def __init__(
        self, candidate: Candidate, python: Path, folder: Path, *, threads: int, log: Path, network: bool = True
    ) -> None:
        options = json.dumps({**candidate.options, "threads": str(threads)})
        command = [
            str(python),
            "-W",
            "ignore",
            "-m",
            "benchmarks.peers.worker",
            candidate.adapter,
            str(folder),
            options,
        ]
        if not network:
            command = ["unshare", "--map-root-user", "--net", *command]
        self.name = candidate.name
        self.idle_seconds = self.idle_cpu = 0.0
        began = time.perf_counter()
        with log.open("a", encoding="utf-8") as log_file:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
                cwd=ROOT,
                env=environment_of_process(threads),
            )
        try:
            self.works: dict[str, list[int]] = self._listen()["works"]
        except PeerError:
            self.close()
            raise
        self.seconds_to_open = time.perf_counter() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def seconds(self, work: str, batch: int, times: int = 1) -> list[float]:
        """Time it.

        Raises:
            PeerError: it failed.
        """
        found: list[float] = self._ask(do="time", work=work, batch=batch, times=times)["seconds"]
        return found

    def answer(self, work: str, batch: int) -> tuple[Array, int]:
        """What it gives, and the most memory it has taken so far, in MB.

        Raises:
            PeerError: it failed.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "answer.npy"
            peak = self._ask(do="answer", work=work, batch=batch, file=str(file))["peak_mb"]
            return np.load(file, allow_pickle=False), peak

    def processor_seconds(self) -> float:
        """Processor time of the process so far, all its threads together."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise PeerError(f"{self.name} has ended", fix="Look into its log.") from error
        return self._listen()

    def _listen(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(f"{self.name} has ended", why=f"exit code {self._process.wait()}", fix="Look into its log.")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise PeerError(f"{self.name} failed", why=found["error"])
        return found
