"""`lrclr probe`."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from lrclr.cli._console import TlsRoot, out
from lrclr.contract import MODEL
from lrclr.errors import ServerError, ServerUnavailableError, UsageError


def probe(
    address: Annotated[
        str,
        typer.Argument(
            metavar="HOST:PORT", help="Address of the server's gRPC port. Write an IPv6 address in brackets."
        ),
    ],
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait for the answer.")] = 10.0,
    expect: Annotated[
        str | None, typer.Option("--expect", help="SHA-256 of the manifest of the expected bundle.")
    ] = None,
    busy_ok: Annotated[bool, typer.Option("--busy-ok", help="Exit code 0 also if the server is busy.")] = False,
    model_name: Annotated[
        str, typer.Option("--model-name", help="Name of its model: PREFIXlrclr for a bundle with --name-prefix PREFIX.")
    ] = MODEL,
    tls_root: TlsRoot = None,
    tls_name: Annotated[
        str | None,
        typer.Option(
            "--tls-name", help="Name in the server's certificate, if it is not HOST. Needs --tls-root.", metavar="NAME"
        ),
    ] = None,
) -> None:
    """Send a sample radiograph to a server and check the answer. A server can report ready and still not answer.

    The exit code is 0 if the expected bundle answered. The request is not repeated: the caller decides how often to
    probe. A busy server refuses requests while too many wait. With --busy-ok that counts as success, and the bundle is
    not checked.
    """
    from lrclr.bundle import require_digest
    from lrclr.samples import sample_paths
    from lrclr.triton.client import Client, ClientOptions

    if expect is not None:
        require_digest(expect)
    if tls_name is not None and tls_root is None:
        raise UsageError("--tls-name needs --tls-root")
    options = ClientOptions(timeout=timeout, retries=0, tls_root=tls_root, tls_name=tls_name, model=model_name)
    smallest = min(sample_paths(), key=lambda path: path.stat().st_size)
    began = time.perf_counter()
    try:
        with Client(address, options) as client:
            reply = client.ask([smallest])
    except ServerUnavailableError as error:
        if not busy_ok or error.retry_after is None:
            raise
        out().print(f"{address} is busy: {error.why}")
        return
    if expect is not None and reply.bundle != expect:
        raise ServerError(
            f"{address} serves another bundle", why=f"its manifest has the hash {reply.bundle}, not {expect}"
        )
    out().print(f"{address} answered in {(time.perf_counter() - began) * 1e3:.0f} ms, bundle {reply.bundle}")
