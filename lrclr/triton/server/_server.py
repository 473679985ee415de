"""A Triton server's life: it is started, asked until it answers, watched, mended, and stopped with nothing left."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lrclr.bundle import Bundle
from lrclr.errors import LrclrError, ServerError, ServerUnavailableError, UsageError
from lrclr.triton.server import _guard
from lrclr.triton.server._command import command_line
from lrclr.triton.server._locate import find_server
from lrclr.triton.server._log import LogRelay
from lrclr.triton.server._options import ServeOptions
from lrclr.triton.server._ports import free_ports
from lrclr.triton.server._probe import Probe
from lrclr.triton.server._processes import backends_of, kill, kill_group, unsent_bytes
from lrclr.triton.server._repository import ServedRepository
from lrclr.triton.server._shared_memory import Claim, remove_leftovers, restrict_regions

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["TritonServer"]

# Seconds for requests that clients send to the graphs themselves, when the server ends.
_GRAPHS_SECONDS: Final = 1.0
_PATIENCE: Final = 15.0
# So often in a row the server may be found with no request finished since the time before. With the ten seconds
# between two looks and the patience of each, that is more than a minute.
_SILENT_LOOKS: Final = 3
_MENDING_TRIES: Final = 5
# How long requests of a superseded version may run on when the next version is to take over.
_DRAIN: Final = 30.0
_TICK: Final = 0.1
# How long nothing may wait to be sent before the server counts as having sent all. A round trip takes less.
_QUIET: Final = 0.3


class TritonServer:
    """A server of one bundle, as a context manager: inside, it answers; after it, nothing of it is left.

    Args:
        bundle: the bundle's folder.
        options: how to run.
        on_log: told level and message of each line of the server's log.

    Attributes:
        grpc, http, metrics: addresses as ``host:port``; None for one that does not listen.
        model: name of the model that answers for files.

    Raises:
        BundleError: there is no whole bundle, or another one than was expected.
        ServerError: there is no server program, or it did not start.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        options: ServeOptions | None = None,
        *,
        on_log: Callable[[str, str], None] = lambda _level, _message: None,
    ) -> None:
        self.options = options or ServeOptions()
        self._path = Path(bundle)
        self._bundle = self._read_bundle()
        self._names = self._bundle.manifest.names
        self._installation = find_server(self.options.server)
        self._on_log = on_log
        self._guard: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._probe: Probe | None = None
        self._claim: Claim | None = None
        self._versions: dict[int, tuple[str, int]] = {}
        self._superseded: list[int] = []
        self._finished: dict[str, tuple[int, int]] | None = None
        self._silent_looks = 0
        self._failed_mendings = 0
        self._answers = False
        self.model = self._names.classifier
        self.grpc = ""
        self.http: str | None = None
        self.metrics: str | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process.

        Raises:
            UsageError: it was not started.
        """
        if self._process is None:
            raise UsageError("the server was not started")
        return self._process.pid

    def start(self) -> None:
        """Start, and return when a radiograph was answered.

        Raises:
            ServerError: it ended, or did not answer in time; nothing of it is left.
        """
        try:
            # A signal's exception strikes the main thread, and would lose a process that has no name there yet.
            with ThreadPoolExecutor(1) as another_thread:
                another_thread.submit(self._start).result()
            self._await_answer()
            self._answers = True
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop, and remove what it leaves behind. Does nothing a second time.

        Requests in flight have `ServeOptions.exit_timeout` seconds. A server that has none ends at once.
        """
        if self._process is not None and self._process.poll() is None:
            self._end(self._process)
        if self._guard is not None:
            # The backends' processes are in its group.
            kill_group(self._guard.pid)
            self._guard.wait()
            assert self._guard.stdin is not None  # noqa: S101 - for the type checker
            self._guard.stdin.close()
            self._guard = None
        if self._process is not None:
            self._process.wait()
            self._log.close()
            self._process = None
            self._answers = False
        if self._probe is not None:
            self._probe.close()
            self._probe = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def check(self, *, timeout: float = _PATIENCE) -> None:
        """Look after the server once: mend it if a process of a model has died or nothing goes on in it.

        A busy server is left alone: one that answers late, or refuses requests because its queue is full, but has
        finished a request since the last look.

        Args:
            timeout: seconds to wait for the radiograph that the server is asked about.

        Raises:
            ServerError: the server has ended, or could not be mended in several tries.
        """
        self._raise_if_ended()
        self._retire()
        reason = self._broken() or self._wrong(timeout)
        stalled = reason is None and self._stalled
        if reason is None and not stalled:
            return
        self._on_log("warning", f"{reason or 'nothing goes on in the server'}: loading the models again")
        try:
            self.mend()
        except ServerError as error:
            self._raise_if_ended()
            # A server that is merely slow to load is not given up.
            self._failed_mendings += not stalled
            if self._failed_mendings >= _MENDING_TRIES:
                raise ServerError(
                    f"the server could not be mended in {_MENDING_TRIES} tries", why=str(error), fix="Start it again."
                ) from error
            self._on_log("error", f"mending failed, and is tried again: {error}")

    def mend(self) -> None:
        """Have every model loaded again, in the same server: Triton does not start a process that died.

        Raises:
            ServerError: the models could not be loaded, or did not answer.
        """
        self._silent_looks = 0
        self._take_over(self._repository.prepare_again())
        self._failed_mendings = 0
        self._on_log("info", "mended: the models were loaded again")

    def reload(self) -> int:
        """Let the bundle that is at the path now take over, without a pause; returns the new version.

        Raises:
            BundleError: it is not whole; the old one goes on serving.
            ServerError: the server could not load it, or it did not answer; the old one goes on serving.
        """
        bundle = self._read_bundle()
        try:
            if _version_compatible(bundle) and not _version_compatible(self._bundle):
                raise ServerError(
                    "its plans are version compatible, and the server was not started for such plans",
                    fix="Start the server again.",
                )
            version = self._repository.prepare(bundle)
            self._take_over(version)
        except LrclrError as error:
            self._raise_if_ended()
            raise ServerError("the new bundle was refused, and the old one goes on serving", why=str(error)) from error
        self._bundle = bundle
        return version

    def wait(self, seconds: float) -> None:
        """Sleep, or less if the server ends.

        Raises:
            ServerError: it ended.
        """
        if self._process is None:
            raise UsageError("the server was not started")
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._retire()
            return
        self._raise_if_ended()

    def _start(self) -> None:
        if self._process is not None:
            raise UsageError("the server runs already")
        remove_leftovers()
        self._claim = Claim.make()
        names = self._names
        self._repository = ServedRepository(self._claim.folder, names, instances=self.options.instances)
        self._require_backend()
        self._repository.publish(self._repository.prepare(self._bundle), names.all)
        wanted = [self.options.grpc_port, self.options.http_port, self.options.metrics_port]
        ports = free_ports(self.options.address, wanted)
        host = self._reachable()
        self.grpc = f"{host}:{ports[0]}"
        self.http = f"{host}:{ports[1]}" if self.options.http else None
        self.metrics = f"{host}:{ports[2]}" if self.options.metrics else None
        self._ports = set(ports)
        self._probe = Probe(self.grpc, self.options, names.classifier)
        command = command_line(
            self._installation,
            self._repository.repository,
            self.options,
            ports=ports,
            shared_memory_prefix=self._claim.prefix,
            exit_seconds=self.options.exit_timeout,
            version_compatible=_version_compatible(self._bundle),
        )
        # Ctrl-C in a terminal goes to a whole group. It is for this process, which stops the server in order, so the
        # guard makes a group of its own, and the server joins that.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_guard.__file__), str(self._claim.folder), self._claim.prefix],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        self._process = subprocess.Popen(
            command,
            env=self._installation.environment,
            cwd=self._claim.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=self._guard.pid,
            pass_fds=[self._claim.descriptor],
        )
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        self._log = LogRelay(self._process.stdout, self._on_log)

    def _read_bundle(self) -> Bundle:
        bundle = Bundle(self._path)
        bundle.require_servable()
        if self.options.expect is not None:
            bundle.require(self.options.expect)
        return bundle

    def _require_backend(self) -> None:
        """The server would say so too, in many more words."""
        backends, engine = self._installation.backends, self._bundle.manifest.engine["name"]
        if engine in {"tensorrt", "openvino"} and backends is not None and not (backends / engine).is_dir():
            raise ServerError(
                f"the bundle is to be served by {engine}, and this server cannot",
                why=f"it has the backends {', '.join(sorted(path.name for path in backends.iterdir()))}",
                # One of `make triton` that is older than the stand-in for this backend lacks it too.
                fix=f"Use the vendor's server, or that of a new `make triton`, or run: "
                f"lrclr build {self._path} --engine onnxruntime",
            )

    def _reachable(self) -> str:
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.options.address, self.options.address)  # noqa: S104
        return f"[{address}]" if ":" in address else address

    def _ask(self, *, timeout: float, version: int | None = None) -> None:
        assert self._probe is not None  # noqa: S101 - for the type checker
        try:
            self._probe.infer(timeout=timeout, version=version)
        finally:
            self._note_processes()

    def _broken(self) -> str | None:
        """Which process has died, if one has.

        The other instances of its model may answer well, but the next request may be for the dead one.
        """
        self._note_processes()
        dead = self._dead_backends()
        return f"a process of the model {dead[0]} has died" if dead else None

    def _wrong(self, timeout: float) -> str | None:
        """What is wrong with the answer for a radiograph; None if it is right or there is none. Counts silent looks."""
        assert self._probe is not None  # noqa: S101 - for the type checker
        try:
            self._ask(timeout=timeout)
        except ServerUnavailableError as error:
            before, self._finished = self._finished, self._probe.finished(self._repository.version)
            busy = self._finished is not None and self._finished != before
            self._silent_looks = 0 if busy else self._silent_looks + 1
            state = "it is busy" if busy else "nothing else was finished since the last look"
            self._on_log("info" if busy else "warning", f"{error}: {state}")
        except ServerError as error:
            return str(error)
        else:
            self._silent_looks = 0
        return None

    @property
    def _stalled(self) -> bool:
        """Whether nothing at all was finished for several looks."""
        return self._silent_looks >= _SILENT_LOOKS

    def _take_over(self, version: int) -> None:
        """Let a version that was prepared answer in place of the one that answers now.

        Raises:
            ServerError: it cannot be loaded, or its answer is an error; the one before goes on.
        """
        assert self._probe is not None  # noqa: S101 - for the type checker
        before = self._repository.version
        # The server keeps two versions of a graph.
        self._retire(drain=_DRAIN)
        try:
            for models in (self._names.graphs, (self._names.classifier,)):
                self._repository.publish(version, models)
                self._await_loaded(models, version)
            self._await_first_answer(version)
        except LrclrError:
            self._repository.drop(version)
            self._probe.cancel()
            self._raise_if_ended()
            self._await_loaded((self._names.classifier,), before)
            raise
        self._superseded.append(before)
        self._retire()

    def _retire(self, *, drain: float | None = None) -> None:
        """Delete superseded versions whose requests have been answered: they hold a bundle's weights.

        Args:
            drain: seconds after which the processes that answer them are ended. By default they are left alone.
        """
        deadline = None if drain is None else time.monotonic() + drain
        while self._superseded:
            pids = {version: self._living(version) for version in self._superseded}
            for version in [version for version, living in pids.items() if not living]:
                self._superseded.remove(version)
                self._repository.drop(version)
            if deadline is None or not self._superseded:
                return
            self._raise_if_ended()
            if time.monotonic() > deadline:
                self._on_log("warning", "a superseded model has not ended: its processes are killed")
                kill([pid for version in self._superseded for pid in pids[version]])
            time.sleep(_TICK)

    def _living(self, version: int) -> list[int]:
        """Processes of the model `lrclr` of a version."""
        assert self._process is not None  # noqa: S101 - for the type checker
        wanted = (self._names.classifier, version)
        found = backends_of(self._process.pid)
        return [one.pid for one in found if (one.model, one.version) == wanted and not one.dead]

    def _await_loaded(self, models: Sequence[str], version: int) -> None:
        assert self._probe is not None  # noqa: S101 - for the type checker
        deadline = time.monotonic() + self.options.startup_timeout
        waiting = list(models)
        while waiting:
            self._raise_if_ended()
            self._note_processes()
            for model in models:
                failure = self._log.failure(model, version)
                if failure is not None:
                    raise ServerError(f"the server could not load {model}", why=failure)
            # It may be too busy for that question.
            with contextlib.suppress(ServerUnavailableError):
                waiting = [model for model in waiting if not self._probe.is_ready(model, version)]
            if waiting and time.monotonic() > deadline:
                raise ServerError(
                    f"the server did not load {', '.join(waiting)} within {self.options.startup_timeout:g} s",
                    fix="Give it longer with --startup-timeout.",
                )
            time.sleep(_TICK if waiting else 0)
        self._note_processes()

    def _await_first_answer(self, version: int) -> None:
        """Until the version has answered a request, of ours or of a client: those may have filled its queue."""
        assert self._probe is not None  # noqa: S101 - for the type checker
        deadline = time.monotonic() + self.options.startup_timeout
        while True:
            try:
                self._ask(timeout=1.0, version=version)
            except ServerUnavailableError:
                self._raise_if_ended()
                if (self._probe.finished(version) or {}).get(self._names.classifier, (0, 0))[0]:
                    return
                if self._dead_backends(version) or time.monotonic() > deadline:
                    raise
                time.sleep(_TICK)
            else:
                return

    def _end(self, process: subprocess.Popen[str]) -> None:
        """Have a server answer the requests that it has taken on, and end it.

        Triton does not do so by itself. When it is told to end, its models take no request any more, also not from the
        model `lrclr`, whose requests in flight then fail. And it ends Python's processes one after another, which takes
        more than a second for each.
        """
        deadline = time.monotonic() + self.options.exit_timeout
        if self._answers and not self._drained(process, deadline):
            self._on_log("warning", f"requests were in flight after {self.options.exit_timeout} s, and are given up")
        process.terminate()
        # Requests for the graphs themselves, if clients send any.
        self._log.idle.wait(_GRAPHS_SECONDS)
        quiet = time.monotonic()
        while process.poll() is None and time.monotonic() - quiet < _QUIET:
            if unsent_bytes(self._ports) and time.monotonic() < deadline:
                quiet = time.monotonic()
            time.sleep(0.02)
        process.kill()

    def _drained(self, process: subprocess.Popen[str], deadline: float) -> bool:
        """Wait until the model `lrclr` has answered all requests; returns whether it has."""
        waiting: dict[int, set[int]] = {}
        for backend in backends_of(process.pid):
            if backend.model == self._names.classifier:
                waiting.setdefault(backend.version, set()).add(backend.pid)
        # Something may have removed the folder: systems clean up the one for temporary files.
        with contextlib.suppress(OSError):
            self._repository.withdraw()
        while process.poll() is None:
            # Triton tells the processes of a version to end when all of its requests have been answered.
            waiting = {
                version: pids
                for version, pids in waiting.items()
                if pids <= set(self._living(version)) - self._log.done
            }
            if not waiting or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return not waiting

    def _note_processes(self) -> None:
        """Remember of which model each process is: a dead one does not tell. Close their regions to other accounts."""
        # Whatever was loaded by now has its regions.
        if self._claim is not None:
            restrict_regions(self._claim.prefix)
        if self._process is not None:
            for backend in backends_of(self._process.pid):
                if backend.model:
                    self._versions[backend.pid] = (backend.model, backend.version)

    def _dead_backends(self, version: int | None = None) -> list[str]:
        """Models of a version, by default the newest, of which a process has died."""
        if self._process is None:
            return []
        dead = [backend.pid for backend in backends_of(self._process.pid) if backend.dead]
        known = [self._versions.get(pid, ("", 0)) for pid in dead]
        return [model for model, its in known if its == (self._repository.version if version is None else version)]

    def _await_answer(self) -> None:
        deadline = time.monotonic() + self.options.startup_timeout
        while True:
            self._raise_if_ended()
            try:
                self._ask(timeout=max(0.1, min(_PATIENCE, deadline - time.monotonic())))
            except ServerUnavailableError as error:
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"the server did not answer within {self.options.startup_timeout:g} s",
                        why=self._log.reason() or str(error),
                        fix="Give it longer with --startup-timeout, or look at its log.",
                    ) from error
                time.sleep(0.05)
            else:
                return

    def _raise_if_ended(self) -> None:
        process = self._process
        if process is not None and process.poll() is not None:
            # A backend's process that waits for its dead server keeps the log open.
            if self._guard is not None:
                kill_group(self._guard.pid)
            self._log.close()
            raise ServerError(f"the server ended with exit code {process.returncode}", why=self._log.reason())


def _version_compatible(bundle: Bundle) -> bool:
    """Whether Triton must be told that plans may bring TensorRT's runtime of their own version."""
    return any(entry["options"]["version_compatible"] for entry in bundle.manifest.served_plans)
