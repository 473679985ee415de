"""`lrclr serve` in a process of its own, and the memory and processes that it takes."""

from __future__ import annotations

import multiprocessing
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped, unused-ignore]

from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Watched", "memory_by_process", "served"]

_LRCLR = (sys.executable, "-c", "import sys; from lrclr.cli import main; sys.exit(main())")


def memory_by_process(server: int) -> dict[int, tuple[float, str]]:
    """MiB (PSS: shared pages are counted once) and command line of a server's process and all its descendants.

    Processes that end meanwhile are left out.

    Raises:
        psutil.NoSuchProcess: the server has ended.
    """
    found = {}
    for process in (psutil.Process(server), *psutil.Process(server).children(recursive=True)):
        try:
            found[process.pid] = process.memory_full_info().pss / 2**20, " ".join(process.cmdline())
        except psutil.Error:
            continue
    return found


@dataclass
class Watched:
    """A running `lrclr serve`.

    Attributes:
        process: the process.
        grpc: its address.
        log: file of its messages.
        memory: MiB of the process and its descendants at each observation.
        first: descendants when it was ready.
        later: descendants that appeared after that, for example at a reload.
    """

    process: subprocess.Popen[str]
    grpc: str
    log: Path
    memory: list[float] = field(default_factory=list)
    first: set[int] = field(default_factory=set)
    later: set[int] = field(default_factory=set)

    def observe(self) -> None:
        """Note memory and processes."""
        if self.process.poll() is not None:
            return
        try:
            found = memory_by_process(self.process.pid)
        except psutil.NoSuchProcess:
            return
        self.memory.append(sum(held for held, _ in found.values()))
        self.later |= found.keys() - self.first if self.first else set()
        self.first = self.first or set(found)

    def during(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run `work` in another process, and observe the server every two seconds meanwhile."""
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            pending = pool.apply_async(work, arguments)
            while not pending.ready():
                pending.wait(2)
                self.observe()
            return pending.get()


@contextmanager
def served(bundle: Path) -> Iterator[Watched]:
    """`lrclr serve` on free ports, ready to answer; it is stopped at the end."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "out", Path(folder) / "log"
        ports = ("--grpc-port", "0", "--no-http", "--no-metrics")
        with out.open("w") as printed, log.open("w") as noted:
            process = subprocess.Popen([*_LRCLR, "serve", str(bundle), *ports], stdout=printed, stderr=noted, text=True)
        try:
            while not (found := re.search(r"gRPC +(\S+)\n", out.read_text())):
                if process.poll() is not None:
                    raise LrclrError("the server did not start", why=log.read_text()[-500:])
                time.sleep(0.1)
            watched = Watched(process, found[1], log)
            watched.observe()
            yield watched
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=120)
