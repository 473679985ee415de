"""`lrclr web`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrclr.cli._console import RESEARCH_ONLY, EngineName, Threads, TlsRoot, check_tls_root, note, note_engine, out
from lrclr.errors import UsageError


def web(  # noqa: PLR0913, PLR0917 - one parameter an option
    bundle: Annotated[Path | None, typer.Argument(help="Folder of the bundle.  [default: triton_repo]")] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            help="HOST:PORT of a Triton server (gRPC) that gives the answers. If its BUNDLE is given too, each image "
            "is encoded once, and texts have embeddings.",
        ),
    ] = None,
    model_name: Annotated[
        str | None,
        typer.Option("--model-name", help="With --server alone, name of its model.  [default: lrclr]"),
    ] = None,
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 for any free port.")] = 8080,
    host: Annotated[str, typer.Option("--host", help="Address to listen on. Beyond loopback, a token is needed.")] = (
        "127.0.0.1"
    ),
    token_file: Annotated[
        Path | None,
        typer.Option("--token-file", help="File with the token of requests; else LRCLR_WEB_TOKEN is used if set."),
    ] = None,
    engine: EngineName = None,
    provider: Annotated[
        str | None, typer.Option("--provider", help="Where ONNX Runtime runs: cpu or cuda.  [default: cpu]")
    ] = None,
    threads: Threads = None,
    tls_root: TlsRoot = None,
) -> None:
    """Serve a page to look at studies, and a REST API, until Ctrl-C.

    The page shows findings, the image regions that support them, and answers to free prompts. Images stay in memory and
    are removed when the page is closed.
    """
    if server is not None and not (engine is None and provider is None and threads is None):
        raise UsageError("--server cannot be used with --engine, --provider or --threads", why="the server has its own")
    if model_name is not None and (server is None or bundle is not None):
        raise UsageError("--model-name needs --server, without a bundle", why="a bundle knows the names of its models")
    check_tls_root(tls_root, server)
    from lrclr.cli._extras import require

    require("web")
    from lrclr.web import BundleBackend, WebOptions, WebServer, open_backend, read_token

    # Before the model is opened, which takes seconds.
    options = WebOptions(host=host, port=port, token=read_token(token_file))
    backend = open_backend(
        bundle,
        server=server,
        model_name=model_name,
        engine=engine,
        provider=provider or "cpu",
        threads=threads,
        tls_root=tls_root,
    )
    if isinstance(backend, BundleBackend):
        note_engine(backend.classifier)
    running = WebServer(backend, options)
    out().print(running.url)
    if not options.local:
        note(
            "warning: connections are not encrypted: to protect images and the token, put a proxy with TLS in front of "
            "this port"
        )
    note("Ctrl-C stops it")
    note(RESEARCH_ONLY)
    running.run()
    note("stopped")
