"""`lrclr serve`."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr._signals import handlers
from lrclr.cli._console import RESEARCH_ONLY, ServerProgram, note
from lrclr.contract import MODEL
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from types import FrameType

    from lrclr.triton.server import TritonServer

_TERMINATED = 143
_TICK = 0.25  # seconds between two looks at signals
_LOOK = 1.0  # seconds between two looks at the processes of the models
_LONGEST_CHECK = 86_400  # seconds


def serve(  # noqa: PLR0913, PLR0917 - one parameter an option
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")] = Path("triton_repo"),
    server: ServerProgram = None,
    address: Annotated[str, typer.Option("--address", help="IPv4 or IPv6 address to listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option("--grpc-port", help="gRPC port; 0 for any free port.")] = 8001,
    http_port: Annotated[int, typer.Option("--http-port", help="HTTP port; 0 for any free port.")] = 8000,
    metrics_port: Annotated[
        int, typer.Option("--metrics-port", help="Port of the metrics; 0 for any free port.")
    ] = 8002,
    http: Annotated[bool, typer.Option("--http/--no-http", help="Listen on the HTTP port.")] = True,
    metrics: Annotated[bool, typer.Option("--metrics/--no-metrics", help="Serve metrics.")] = True,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="PEM certificate, to encrypt gRPC.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="PEM key of the certificate.")] = None,
    tls_name: Annotated[str, typer.Option("--tls-name", help="Name in the certificate.")] = "localhost",
    instances: Annotated[
        int | None,
        typer.Option(
            "--instances", help="Processes that decode images and answer requests.  [default: as the bundle says]"
        ),
    ] = None,
    model_control: Annotated[bool, typer.Option("--model-control", hidden=True)] = False,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Let clients on this machine send images by shared memory.")
    ] = False,
    startup_timeout: Annotated[
        float, typer.Option("--startup-timeout", help="Seconds until the server must answer.")
    ] = 120.0,
    exit_timeout: Annotated[
        int, typer.Option("--exit-timeout", help="Seconds for requests in flight when the server is stopped.")
    ] = 5,
    expect: Annotated[
        str | None, typer.Option("--expect", help="SHA-256 of manifest.json: serve no other bundle.")
    ] = None,
    health_every: Annotated[
        float, typer.Option("--health-every", help="Seconds between test requests with a sample radiograph.")
    ] = 10.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print the whole log of the server.")] = False,
) -> None:
    """Serve a bundle with Triton, until Ctrl-C.

    The server is ready when it has answered for a sample radiograph. Ctrl-C and SIGTERM stop it, with exit code 0.
    SIGHUP loads the bundle again after an export, without a pause. Backend processes that die are started again.
    """
    from lrclr.triton.server import ServeOptions, TritonServer

    if model_control:
        raise UsageError(
            "--model-control was removed",
            why="it let every client upload a model, and so run code on this machine",
            fix="Export the bundle again and send SIGHUP. The server then loads it.",
        )
    if not 0 < health_every <= _LONGEST_CHECK:
        raise UsageError(f"--health-every cannot be {health_every:g}", fix=f"Give 1 to {_LONGEST_CHECK} seconds.")
    options = ServeOptions(
        server=server,
        address=address,
        grpc_port=grpc_port,
        http_port=http_port,
        metrics_port=metrics_port,
        http=http,
        metrics=metrics,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_name=tls_name,
        instances=instances,
        shared_memory=shared_memory,
        startup_timeout=startup_timeout,
        exit_timeout=exit_timeout,
        expect=expect,
    )

    def on_log(level: str, message: str) -> None:
        if verbose or level != "info":
            _log(f"triton {level}: {message}")

    signals = _Signals()
    stop = signals.stop
    with handlers({signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGHUP: signals.request_reload}):
        triton = TritonServer(bundle, options, on_log=on_log)
        _log("starting the server")
        with triton:
            _print_addresses(triton)
            signals.serving = True
            with contextlib.suppress(_Stopped):
                _watch(triton, signals, health_every)
        _log("stopped")


def _watch(triton: TritonServer, signals: _Signals, health_every: float) -> None:
    """Check a server regularly until a signal ends it."""
    checked = looked = time.monotonic()
    while True:
        triton.wait(_TICK)
        if signals.take_reload():
            _reload(triton)
        due = time.monotonic() - checked >= health_every
        if not due and time.monotonic() - looked >= _LOOK:
            due = triton.has_lost_process()
            looked = time.monotonic()
        if due:
            triton.check()
            checked = time.monotonic()


class _Stopped(BaseException):
    """A signal asked the server to end."""


class _Signals:
    """Handlers of signals: SIGTERM and Ctrl-C stop the server, SIGHUP requests a reload of the bundle.

    Attributes:
        serving: whether the server has started, so that a signal to stop is not an error.
    """

    def __init__(self) -> None:
        self.serving = False
        self._reload = False

    def take_reload(self) -> bool:
        """Return whether a reload was requested since the last call."""
        requested, self._reload = self._reload, False
        return requested

    def request_reload(self, _number: int, _frame: FrameType | None) -> None:
        self._reload = True

    def stop(self, number: int, _frame: FrameType | None) -> None:
        # A second signal must not interrupt the shutdown.
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)
        if self.serving:
            raise _Stopped
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(_TERMINATED)


def _print_addresses(triton: TritonServer) -> None:
    typer.echo(f"gRPC     {triton.grpc}")
    if triton.model != MODEL:
        typer.echo(f"model    {triton.model}")
    if triton.http:
        typer.echo(f"HTTP     http://{triton.http}")
    if triton.metrics:
        typer.echo(f"metrics  http://{triton.metrics}/metrics")
    options = triton.options
    if not options.local:
        tls = "gRPC is encrypted, HTTP and metrics are not" if options.tls_cert else "nothing is encrypted"
        _log(f"warning: exposed: every client that can reach {options.address} gets answers, without a login; {tls}")
    if options.shared_memory:
        _log("warning: exposed: clients on this machine can map shared memory")
    _log("ready: the server answered for a radiograph. Ctrl-C stops it")
    _log(RESEARCH_ONLY)


def _reload(triton: TritonServer) -> None:
    try:
        version = triton.reload()
    except LrclrError as error:
        _log(f"error: {error}")
    else:
        _log(f"the bundle was loaded again: version {version} answers now")


def _log(text: str) -> None:
    """Print a line of the log. A log that cannot be written, as on a full disk, must not stop the server."""
    with contextlib.suppress(OSError):
        note(text)
