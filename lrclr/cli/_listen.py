"""`lrclr listen`."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr._signals import handlers
from lrclr.cli import _dicom_results, _pacs
from lrclr.cli._console import RESEARCH_ONLY, EngineName, Exact, Findings, Threads, note, note_engine, out
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from lrclr.pacs import Listener

_TICK = 0.25  # seconds until a signal is noticed
_GIB = 1 << 30
_LARGEST_SPOOL = 1 << 30  # GiB; no file system is larger


def listen(  # noqa: PLR0913, PLR0917 - one parameter an option
    spool: Annotated[Path, typer.Argument(help="Folder for accepted images that are not processed yet.")],
    port: Annotated[int, typer.Option("--port", help="Port to listen on; 0 for any free port.")] = 11112,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    ae_title: Annotated[
        str, typer.Option("--ae-title", help="AE title of the receiver, also when it sends results.")
    ] = "LRCLR",
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept", help="AE title of an accepted sender. May be repeated. On loopback, all senders are accepted."
        ),
    ] = None,
    store: _pacs.Store = None,
    kinds: _pacs.Kinds = None,
    sr: _dicom_results.Sr = None,
    sc: _dicom_results.Sc = None,
    gsps: _dicom_results.Gsps = None,
    bundle: Annotated[Path, typer.Option("-b", "--bundle", help="Folder of the bundle.")] = Path("triton_repo"),
    findings: Findings = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Weight of the local score, 0 to 1.")] = None,
    exact: Exact = False,
    refuse: Annotated[
        list[str] | None,
        typer.Option(
            "--refuse",
            metavar="CODES",
            help="Make no results for images with one of these warnings, such as colour,inverted. Their senders get "
            "the success status, and the images go to the folder failed of the spool.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images encoded at once.")] = 8,
    engine: EngineName = None,
    provider: Annotated[str, typer.Option("--provider", help="cpu or cuda.")] = "cpu",
    threads: Threads = None,
    spool_gib: Annotated[
        float,
        typer.Option(
            "--spool-gib",
            help="Largest size of the spool in GiB. When it is full, senders get the status that makes them retry.",
        ),
    ] = 10.0,
    token_file: _pacs.TokenFile = None,
    ca_file: _pacs.CaFile = None,
    allow_http: _pacs.AllowHttp = False,
) -> None:
    """Receive radiographs by C-STORE, score them, and send DICOM results on, until Ctrl-C.

    An accepted image is on the disk before the sender gets the success status. SIGTERM and Ctrl-C stop the receiver
    with exit code 0. When it is started again, it continues with the images in the spool.
    """
    from lrclr.cli._extras import require

    folders = _dicom_results.chosen(sr, sc, gsps)
    # The receiver itself repeats what failed, and says so.
    pacs = _pacs.Pacs(folders, store, kinds, token_file, ca_file, allow_http, attempts=1, ae_title=ae_title)
    if not pacs.wants_results:
        raise UsageError("no destination for the results is given", fix="Give --store, --sr, --sc or --gsps.")
    require("pacs")
    from lrclr.auto import open_engine
    from lrclr.bundle import Bundle
    from lrclr.cli._findings import load_findings
    from lrclr.engines import EngineOptions
    from lrclr.inference import ZeroShotClassifier
    from lrclr.input_checks import known_codes
    from lrclr.pacs import Listener, ListenOptions

    if not 0 < spool_gib < _LARGEST_SPOOL:
        raise UsageError(f"--spool-gib {spool_gib:g} is not the size of a spool", fix="Give GiB, such as 10.")
    opened = Bundle(bundle)
    options = ListenOptions(
        host=host,
        port=port,
        ae_title=ae_title,
        accept=tuple(accept or ()),
        spool_bytes=int(spool_gib * _GIB),
        batch_size=batch_size,
        findings=None if findings is None else load_findings(findings, opened.findings, opened.tokenizer),
        alpha=alpha,
        exact=exact,
        refuse=known_codes(*refuse) if refuse else frozenset(),
        kinds=pacs.kinds,
    )
    destinations = list(pacs.destinations().values())
    classifier = ZeroShotClassifier(opened, open_engine(opened, EngineOptions(engine, provider, threads)))
    note_engine(classifier)
    stopped = threading.Event()
    signals = dict.fromkeys((signal.SIGTERM, signal.SIGINT), lambda *_: stopped.set())
    with handlers(signals), Listener(classifier, spool, destinations, options, on_event=note) as listener:
        out().print(f"listening on {host}:{listener.port} as {ae_title}")
        note(RESEARCH_ONLY)
        _watch(listener, stopped)
    note("stopped")


def _watch(listener: Listener, stopped: threading.Event) -> None:
    while not stopped.wait(_TICK):
        listener.check()
