"""A Triton server as a context manager: start, health checks, reload of the bundle, and stop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Final, Self

from lrclr.bundle import Bundle
from lrclr.errors import LrclrError, ServerError, ServerUnavailableError, UsageError
from lrclr.triton.server._command import command_line
from lrclr.triton.server._locate import find_server
from lrclr.triton.server._models import PATIENCE, ServedModels
from lrclr.triton.server._options import ServeOptions
from lrclr.triton.server._ports import free_ports
from lrclr.triton.server._probe import Probe
from lrclr.triton.server._process import ServerProcess
from lrclr.triton.server._repository import ServedRepository
from lrclr.triton.server._shared_memory import Claim, remove_leftovers

# Number of checks in a row that find no finished request before the models are loaded again. With ten seconds between
# two checks, and up to `PATIENCE` for each, that is more than a minute.
_SILENT_CHECKS: Final = 3
_MENDING_TRIES: Final = 5


class TritonServer:
    """A server of one bundle. Inside the context it answers; afterwards its processes and files are gone.

    Args:
        bundle: the bundle's folder.
        options: how to run.
        on_log: called with level and message of each line of the server's log.

    Attributes:
        grpc, http, metrics: addresses as ``host:port``; None for one that does not listen.
        model: name of the model that answers requests with files.

    Raises:
        BundleError: the bundle is missing or damaged, or is not the expected one.
        ServerError: the server program was not found, or did not start.
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
        # Held while processes and files are made or removed. The thread that makes them may outlive `start`.
        self._lock = Lock()
        self._stopped = False
        self._claim: Claim | None = None
        self._probe: Probe | None = None
        self._process: ServerProcess | None = None
        self._served: ServedModels | None = None
        self._finished: dict[str, tuple[int, int]] | None = None
        self._silent_checks = 0
        self._failed_mendings = 0
        self._steady = True
        self._answers = False
        self.model = self._names.classifier
        self.grpc = ""
        self.http: str | None = None
        self.metrics: str | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the server.

        Raises:
            UsageError: it was not started.
        """
        return self._started().pid

    def start(self) -> None:
        """Start, and return when a radiograph was answered.

        Raises:
            ServerError: it ended, or did not answer in time. Its processes and files are gone.
        """
        try:
            self._stopped = False
            # A signal raises its exception in the main thread, where it could hit between the start of a process and
            # the assignment of its name.
            with ThreadPoolExecutor(1) as another_thread:
                another_thread.submit(self._start_unless_stopped).result()
            self._models().await_answer()
            self._answers = True
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop, and remove processes and files. Does nothing a second time.

        Requests in flight have `ServeOptions.exit_timeout` seconds. A server without requests ends at once.
        """
        # A signal may hit `start` before it waits for its thread, which then has not begun or still runs.
        self._stopped = True
        with self._lock:
            self._remove()

    def check(self, *, timeout: float = PATIENCE) -> None:
        """Check the server once, and load its models again if a process of a model has died or no request finishes.

        A server counts as busy, and is left alone, if it answers late or refuses requests because its queue is full,
        but has finished a request since the last check.

        Args:
            timeout: seconds to wait for the answer to a radiograph.

        Raises:
            ServerError: the server has ended, or could not be mended in several tries.
        """
        process, models = self._started(), self._models()
        process.raise_if_ended()
        models.retire()
        if self.options.shared_memory:
            models.probe.release_shared_memory()
        # The other processes of a model may answer well, but the next request may be for the dead one.
        dead = models.dead()
        reason = f"a process of the model {dead[0]} has died" if dead else self._wrong(timeout)
        stalled = reason is None and self._silent_checks >= _SILENT_CHECKS
        self._steady = reason is None and not stalled
        if self._steady:
            return
        self._on_log("warning", f"{reason or 'no request finishes in the server'}: loading the models again")
        try:
            self.mend()
        except ServerError as error:
            process.raise_if_ended()
            # A server that is only slow to load gets more tries.
            self._failed_mendings += not stalled
            if self._failed_mendings >= _MENDING_TRIES:
                raise ServerError(
                    f"the server could not be repaired in {_MENDING_TRIES} tries", why=str(error), fix="Start it again."
                ) from error
            self._on_log("error", f"mending failed, and is tried again: {error}")

    def has_lost_process(self) -> bool:
        """Whether a process of a model has died since the last `check`, which is due then.

        It sends no request. False if the last check found something wrong, so that models that die again and again are
        not loaded more often than `check` is called for other reasons.
        """
        return self._steady and bool(self._models().dead())

    def mend(self) -> None:
        """Load every model again, in the same server: Triton does not start a process that died.

        Raises:
            ServerError: the models could not be loaded, or did not answer.
        """
        self._silent_checks = 0
        self._models().take_over(self._repository.prepare_again())
        self._failed_mendings = 0
        self._on_log("info", "mended: the models were loaded again")

    def reload(self) -> int:
        """Let the bundle that is at the path now take over, without a pause.

        Returns:
            The new version.

        Raises:
            BundleError: the bundle is damaged; the old one is still served.
            ServerError: the server could not load it, or it did not answer; the old one is still served.
        """
        bundle = self._read_bundle()
        try:
            if _version_compatible(bundle) and not _version_compatible(self._bundle):
                raise ServerError(
                    "its plans are version compatible, and the server was not started for such plans",
                    fix="Start the server again.",
                )
            version = self._repository.prepare(bundle)
            self._models().take_over(version)
        except LrclrError as error:
            if self._process is not None:
                self._process.raise_if_ended()
            raise ServerError("the new bundle was refused, and the old one is still served", why=str(error)) from error
        self._bundle = bundle
        return version

    def wait(self, seconds: float) -> None:
        """Sleep, or less if the server ends.

        Raises:
            ServerError: it ended.
        """
        process = self._started()
        process.wait(seconds)
        process.raise_if_ended()
        self._models().retire()

    def _started(self) -> ServerProcess:
        if self._process is None:
            raise UsageError("the server was not started")
        return self._process

    def _models(self) -> ServedModels:
        self._started()
        assert self._served is not None  # noqa: S101 - for the type checker
        return self._served

    def _remove(self) -> None:
        if self._process is not None:
            if self._process.running:
                deadline = time.monotonic() + self.options.exit_timeout
                if self._answers and not self._models().drain(deadline):
                    self._on_log(
                        "warning", f"requests were in flight after {self.options.exit_timeout} s, and are given up"
                    )
                self._process.end(self._ports, deadline)
            self._process.close()
            self._process = self._served = None
            self._answers = False
        if self._probe is not None:
            self._probe.close()
            self._probe = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def _start_unless_stopped(self) -> None:
        with self._lock:
            if not self._stopped:
                self._start()

    def _start(self) -> None:
        if self._process is not None:
            raise UsageError("the server runs already")
        options = self.options
        remove_leftovers()
        self._claim = Claim.make()
        names = self._names
        self._repository = ServedRepository(self._claim.folder, names, instances=options.instances)
        self._require_backend()
        self._repository.publish(self._repository.prepare(self._bundle), names.all)
        ports = free_ports(options.address, options.asked_ports)
        host = self._reachable()
        self.grpc = f"{host}:{ports[0]}"
        self.http = f"{host}:{ports[1]}" if options.http else None
        self.metrics = f"{host}:{ports[2]}" if options.metrics else None
        self._ports = set(ports)
        self._probe = Probe(self.grpc, options, names.classifier)
        command = command_line(
            self._installation,
            self._repository.repository,
            options,
            ports=ports,
            shared_memory_prefix=self._claim.prefix,
            exit_seconds=options.exit_timeout,
            version_compatible=_version_compatible(self._bundle),
        )
        self._process = ServerProcess(command, self._installation.environment, self._claim, self._on_log)
        self._served = ServedModels(
            self._process, self._repository, self._probe, names, options.startup_timeout, self._on_log
        )

    def _read_bundle(self) -> Bundle:
        bundle = Bundle(self._path)
        bundle.require_servable()
        if self.options.expect is not None:
            bundle.require(self.options.expect)
        return bundle

    def _require_backend(self) -> None:
        """Refuse a bundle whose backend the server does not have. Triton's own message is long and hard to read."""
        backends, engine = self._installation.backends, self._bundle.manifest.engine["name"]
        if engine in {"tensorrt", "openvino"} and backends is not None and not (backends / engine).is_dir():
            raise ServerError(
                f"this server cannot run the bundle's engine {engine}",
                why=f"it has the backends {', '.join(sorted(path.name for path in backends.iterdir()))}",
                # An installation by an older `make triton` may lack the stand-in for this backend.
                fix=f"Use the vendor's server, or that of a new `make triton`, or run: "
                f"lrclr build {self._path} --engine onnxruntime",
            )

    def _reachable(self) -> str:
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.options.address, self.options.address)  # noqa: S104
        return f"[{address}]" if ":" in address else address

    def _wrong(self, timeout: float) -> str | None:
        """What is wrong with the answer to a radiograph; None if it is right or late. Counts silent checks."""
        models = self._models()
        try:
            models.ask(timeout=timeout)
        except ServerUnavailableError as error:
            before, self._finished = self._finished, models.probe.finished(self._repository.version)
            busy = self._finished is not None and self._finished != before
            self._silent_checks = 0 if busy else self._silent_checks + 1
            state = "it is busy" if busy else "no other request finished since the last check"
            self._on_log("info" if busy else "warning", f"{error}: {state}")
        except ServerError as error:
            return str(error)
        else:
            self._silent_checks = 0
        return None


def _version_compatible(bundle: Bundle) -> bool:
    """Whether plans bring TensorRT's runtime of their own version, which Triton must be told."""
    return any(entry["options"]["version_compatible"] for entry in bundle.manifest.served_plans)
