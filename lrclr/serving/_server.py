"""A Triton server's life: started, asked until it answers, watched, mended, stopped with nothing left."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from lrclr.bundle import GRAPHS, Bundle
from lrclr.contract import MODEL
from lrclr.errors import LrclrError, ServerError, ServerUnavailableError, UsageError
from lrclr.serving._command import command_line
from lrclr.serving._locate import find_server
from lrclr.serving._log import LogRelay
from lrclr.serving._options import ServeOptions
from lrclr.serving._ports import free_ports
from lrclr.serving._probe import Probe
from lrclr.serving._processes import dead_children, kill_group
from lrclr.serving._shared_memory import remove_regions, restrict_regions
from lrclr.serving._stage import MODELS, Stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

__all__ = ["TritonServer"]

# What the server takes to end beside the requests that it waits for.
_EXIT_MARGIN = 7
_PATIENCE = 15.0


class TritonServer:
    """A server of one bundle, as a context manager: inside, it answers; after it, nothing of it is left.

    Args:
        bundle: the bundle's folder.
        options: how to run.
        on_log: told level and message of each line of the server's log.

    Attributes:
        grpc, http, metrics: addresses as ``host:port``; None for one that does not listen.

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
        self._installation = find_server(self.options.server)
        self._on_log = on_log
        self._key = ("lrclr-" + secrets.token_hex(4), secrets.token_hex(16))
        self._prefix = f"lrclr_{os.getpid()}_{secrets.token_hex(4)}"
        self._process: subprocess.Popen[str] | None = None
        self._folder: Path | None = None
        self._mourned: set[str] = set()
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
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop, and remove what it leaves behind. Does nothing a second time."""
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(timeout=self.options.exit_timeout + _EXIT_MARGIN)
                except subprocess.TimeoutExpired:
                    process.kill()
            # The backends' processes are in its group; one that hangs outlives the server.
            kill_group(process.pid)
            process.wait()
            self._log.close()
            self._probe.close()
            self._process = None
        remove_regions(self._prefix)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def check(self, *, timeout: float = _PATIENCE) -> None:
        """Return when a radiograph was answered; where a backend's process has died, have the models loaded again.

        Raises:
            ServerError: the server has ended, or could not be mended.
        """
        self._raise_if_ended()
        try:
            if self._dead_backends() - self._mourned:
                # One of several instances: the others may have answered just now, and the next request may be its.
                raise ServerError("a backend's process has died")
            self._ask(timeout=timeout)
        except ServerError as error:
            self._raise_if_ended()
            if isinstance(error, ServerUnavailableError) and error.retry_after is not None:
                # The server works on so many requests that it refuses more.
                return
            self._on_log("warning", f"{error}: loading the models again")
            self.mend()

    def mend(self) -> None:
        """Have every model loaded again, in the same server: a backend process that died is not started by itself.

        Raises:
            ServerError: it still does not answer.
        """
        dead = self._dead_backends()
        self._stage.mark_changed()
        self._probe.load(MODELS)
        self._ask(timeout=_PATIENCE)
        # The server keeps them among its children until the last request that they had is given up.
        self._mourned = dead
        self._on_log("info", "mended: a radiograph was answered")

    def reload(self) -> int:
        """Let the bundle that is at the path now take over, without a pause; returns the new version.

        Raises:
            BundleError: it is not whole; the old one goes on serving.
            ServerError: the server could not load it, or it did not answer; the old one goes on serving.
        """
        bundle = self._read_bundle()
        before = self._stage.version
        version = self._stage.add(bundle)
        try:
            self._probe.load(GRAPHS)
            self._probe.load([MODEL])
            self._ask(timeout=_PATIENCE, version=version)
        except LrclrError as error:
            self._stage.drop(version)
            self._probe.load(MODELS)
            self._ask(timeout=_PATIENCE, version=before)
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
            return
        self._raise_if_ended()

    def _start(self) -> None:
        if self._process is not None:
            raise UsageError("the server runs already")
        self._folder = Path(tempfile.mkdtemp(prefix="lrclr-serve-"))
        self._stage = Stage(self._folder, instances=self.options.instances)
        self._require_backend()
        self._stage.add(self._bundle)
        wanted = [self.options.grpc_port, self.options.http_port, self.options.metrics_port]
        ports = free_ports(self.options.address, wanted)
        host = self._reachable()
        self.grpc = f"{host}:{ports[0]}"
        self.http = f"{host}:{ports[1]}" if self.options.http else None
        self.metrics = f"{host}:{ports[2]}" if self.options.metrics else None
        self._probe = Probe(self.grpc, self.options, self._key)
        command = command_line(
            self._installation,
            self._folder,
            self.options,
            ports=ports,
            key=self._key,
            shared_memory_prefix=self._prefix,
            exit_seconds=self.options.exit_timeout,
        )
        self._process = subprocess.Popen(
            command,
            env=self._installation.environment,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C in a terminal goes to a whole group; it is for us, and we stop the server in order.
            start_new_session=True,
        )
        assert self._process.stdout is not None  # noqa: S101 - for the type checker
        self._log = LogRelay(self._process.stdout, self._on_log)

    def _read_bundle(self) -> Bundle:
        bundle = Bundle(self._path)
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
        try:
            self._probe.infer(timeout=timeout, version=version)
        finally:
            # Whatever was loaded before it answered, or failed to, has its regions now.
            restrict_regions(self._prefix)

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

    def _dead_backends(self) -> set[str]:
        return set() if self._process is None else dead_children(self._process.pid)

    def _raise_if_ended(self) -> None:
        process = self._process
        if process is not None and process.poll() is not None:
            # A backend's process that waits for its dead server keeps the log open.
            kill_group(process.pid)
            self._log.close()
            raise ServerError(f"the server ended with exit code {process.returncode}", why=self._log.reason())
