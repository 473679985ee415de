"""`lrclr probe`."""

from __future__ import annotations

import time
from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import Annotated

import typer

from lrclr.cli._console import out
from lrclr.contract import MODEL
from lrclr.errors import ServerError, ServerUnavailableError


def probe(
    address: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Of the server's gRPC; an IPv6 address in brackets.")
    ],
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds until it must have answered.")] = 10.0,
    expect: Annotated[
        str | None, typer.Option("--expect", help="SHA-256 that the manifest of the bundle that answers must have.")
    ] = None,
    busy_ok: Annotated[
        bool, typer.Option("--busy-ok", help="Exit code 0 too if the server refuses because it is busy.")
    ] = False,
    model_name: Annotated[
        str, typer.Option("--model-name", help="Name of its model: PREFIXlrclr for a bundle with --name-prefix PREFIX.")
    ] = MODEL,
    tls_root: Annotated[Path | None, typer.Option("--tls-root", help="PEM certificates to check it against.")] = None,
) -> None:
    """Ask a server about one radiograph that lrclr carries. A server can say that it is ready and answer nothing.

    Exit code 0: it answered, with the bundle that was expected. Each request is sent once: an orchestrator decides how
    often to probe. A server refuses requests at once while too many wait. It works then, but its bundle is not checked.
    """
    from lrclr.bundle import require_digest
    from lrclr.samples import sample_paths
    from lrclr.triton.client import Client, ClientOptions

    if expect is not None:
        require_digest(expect)
    smallest = min(sample_paths(), key=lambda path: path.stat().st_size)
    began = time.perf_counter()
    try:
        with Client(address, ClientOptions(timeout=timeout, retries=0, tls_root=tls_root, model=model_name)) as client:
            reply = client.ask([smallest])
    except ServerUnavailableError as error:
        if not busy_ok or error.retry_after is None:
            raise
        out().print(f"{address} is busy: {error.why}")
        return
    if expect is not None and reply.bundle != expect:
        raise ServerError(
            f"{address} serves another bundle", why=f"its manifest has the hash {reply.bundle}, expected was {expect}"
        )
    out().print(f"{address} answered in {(time.perf_counter() - began) * 1e3:.0f} ms, bundle {reply.bundle}")
