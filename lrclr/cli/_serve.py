"""`lrclr serve`."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from lrclr.cli._console import RESEARCH_ONLY, note
from lrclr.contract import MODEL
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from types import FrameType

    from lrclr.triton.server import TritonServer

_TERMINATED = 143
_TICK = 0.25  # seconds until a signal is heeded


def serve(  # noqa: PLR0913, PLR0917 - one parameter an option
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")] = Path("triton_repo"),
    server: Annotated[Path | None, typer.Option("--server", help="The tritonserver program.")] = None,
    address: Annotated[str, typer.Option("--address", help="IPv4 or IPv6 address to listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option("--grpc-port", help="0 for any that is free.")] = 8001,
    http_port: Annotated[int, typer.Option("--http-port", help="0 for any that is free.")] = 8000,
    metrics_port: Annotated[int, typer.Option("--metrics-port", help="0 for any that is free.")] = 8002,
    http: Annotated[bool, typer.Option("--http/--no-http", help="Listen for HTTP.")] = True,
    metrics: Annotated[bool, typer.Option("--metrics/--no-metrics", help="Serve metrics.")] = True,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="PEM certificate for gRPC.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its PEM key.")] = None,
    tls_name: Annotated[str, typer.Option("--tls-name", help="The name in the certificate.")] = "localhost",
    instances: Annotated[int | None, typer.Option("--instances", help="Processes of the model lrclr.")] = None,
    model_control: Annotated[bool, typer.Option("--model-control", hidden=True)] = False,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Let clients on this machine pass inputs by shared memory.")
    ] = False,
    startup_timeout: Annotated[float, typer.Option("--startup-timeout", help="Seconds until it must answer.")] = 120.0,
    exit_timeout: Annotated[
        int, typer.Option("--exit-timeout", help="Seconds that requests in flight have when it is stopped.")
    ] = 5,
    expect: Annotated[
        str | None, typer.Option("--expect", help="Serve only the bundle whose manifest.json has this SHA-256.")
    ] = None,
    health_every: Annotated[
        float, typer.Option("--health-every", help="Seconds between radiographs that test it.")
    ] = 10.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show all of the server's log.")] = False,
) -> None:
    """Put a bundle behind a port with a Triton server, until Ctrl-C.

    It is ready when a radiograph was answered. SIGTERM and Ctrl-C stop it, with exit code 0. SIGHUP lets a bundle that
    was exported anew take over without a pause.
    A backend process that dies is found and started again.
    """
    from lrclr.triton.server import ServeOptions, TritonServer

    if model_control:
        raise UsageError(
            "--model-control was removed",
            why="it let every client upload a model, and so run code as this account",
            fix="Export the bundle anew and send SIGHUP. The server then loads it.",
        )
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
            _tell(f"triton {level}: {message}")

    with _Signals() as signals:
        triton = TritonServer(bundle, options, on_log=on_log)
        _tell("starting the server")
        with triton:
            _announce(triton)
            signals.serving = True
            with contextlib.suppress(_Stopped):
                _watch(triton, signals, health_every)
        _tell("stopped")


def _watch(triton: TritonServer, signals: _Signals, health_every: float) -> None:
    """Look after a server until a signal ends it."""
    checked = time.monotonic()
    while True:
        triton.wait(_TICK)
        if signals.take_reload():
            _reload(triton)
        if time.monotonic() - checked >= health_every:
            triton.check()
            checked = time.monotonic()


class _Stopped(BaseException):
    """A signal asked the server to end."""


class _Signals:
    """SIGTERM and Ctrl-C end the server in order; SIGHUP asks for the bundle to be read again.

    A context manager: on leaving it, the handlers are those that were there before.

    Attributes:
        serving: whether the server has started, so that its end is what was wanted and no failure.
    """

    def __init__(self) -> None:
        self.serving = False
        self._reload = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        handlers = {signal.SIGTERM: self._end, signal.SIGINT: self._end, signal.SIGHUP: self._ask}
        self._before = {one: signal.signal(one, handler) for one, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

    def take_reload(self) -> bool:
        """Whether it was asked for since the last call."""
        asked, self._reload = self._reload, False
        return asked

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._reload = True

    def _end(self, number: int, _frame: FrameType | None) -> None:
        # A second signal must not interrupt the end of the server.
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)
        if self.serving:
            raise _Stopped
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(_TERMINATED)


def _announce(triton: TritonServer) -> None:
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
        _tell(f"warning: exposed: whoever reaches {options.address} gets answers; {tls}; nobody is asked for a name")
    if options.shared_memory:
        _tell("warning: exposed: clients may share memory")
    _tell("ready: a radiograph was answered. Ctrl-C stops the server")
    _tell(RESEARCH_ONLY)


def _reload(triton: TritonServer) -> None:
    try:
        version = triton.reload()
    except LrclrError as error:
        _tell(f"error: {error}")
    else:
        _tell(f"the bundle was read again: version {version} answers now")


def _tell(text: str) -> None:
    """A line of the log. A full disk behind it must not stop the answers."""
    with contextlib.suppress(OSError):
        note(text)
