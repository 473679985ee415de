"""The command line. One function for each command: it parses options, calls the library and prints.

Exit codes: 0 success; 1 the work failed, or some files failed, or standard output could not be written; 2 wrong usage;
3 a gate failed, there is drift, or no configuration is fast enough; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import sys
import traceback
from functools import cache
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from typer.main import get_command

from lrclr._files import os_reason
from lrclr._signals import stop_signals_raise
from lrclr._version import __version__
from lrclr.cli import (
    _bench,
    _build,
    _checkpoints,
    _dataset,
    _deploy,
    _drift,
    _embed,
    _evaluate,
    _export,
    _listen,
    _predict,
    _probe,
    _push,
    _score,
    _serve,
    _train,
    _tune,
    _verify,
    _web,
)
from lrclr.cli._console import complain
from lrclr.cli._streams import guarded_streams
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrclr.cli._streams import Output

INTERRUPTED, TERMINATED = 130, 143
_INTERRUPTED_TEXT = "interrupted"
# Newer versions of Typer contain their own copy of click. Its errors are reached through the one that Typer exports.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="lrclr",
    help="Chest x-ray findings, and the image regions that support them, from a CLIP-like checkpoint.\n\n"
    "Research use only: this is not a medical device.",
    epilog="Exit codes: 0 success; 1 the work failed, or some files failed, or stdout could not be written; "
    "2 wrong usage; 3 a gate failed, there is drift, or no configuration is fast enough; 130 interrupted; "
    "143 terminated.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("export", short_help="Export checkpoints to a bundle, checked by gates.")(_export.export)
app.command("build")(_build.build)
app.command("verify", short_help="Check a bundle: hashes and gates, on this machine.")(_verify.verify)
app.command("predict")(_predict.predict)
app.command("score", short_help="Score an archive: one row per image, in Parquet files.")(_score.score)
app.command("embed", short_help="Write embeddings of images or texts to a Parquet file.")(_embed.embed)
app.command("listen", short_help="Receive radiographs by C-STORE, and send DICOM results.")(_listen.listen)
app.command("drift", short_help="Compare the scores of current images with earlier ones.")(_drift.drift)
app.command("evaluate", short_help="Evaluate a model on labelled images.")(_evaluate.evaluate)
app.command("serve")(_serve.serve)
app.command("tune", short_help="Find the best server configuration for a latency limit.")(_tune.tune)
app.command("web")(_web.web)
app.command("probe", short_help="Send a sample radiograph to a server and check the answer.")(_probe.probe)
app.add_typer(_deploy.app, name="deploy")
app.add_typer(_bench.app, name="bench", help="Measure speed and quality of models; compare results.")
app.command("train")(_train.train)
app.command("dataset", short_help="Convert your copy of a public dataset.")(_dataset.dataset)
app.command("manifest", hidden=True)(_dataset.manifest)
app.command("push", short_help="Push a bundle to the Hugging Face Hub.")(_push.push)
app.command("convert", short_help="Convert a checkpoint, and change its settings.")(_checkpoints.convert)
app.command("init")(_checkpoints.init)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lrclr {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. May be anywhere in the command.")
    ] = False,
) -> None:
    pass


@cache
def _command() -> Callable[..., object]:
    """`app` as click runs it. Typer builds it anew for each call otherwise, from the signatures of all commands."""
    return get_command(app)


def run() -> NoReturn:
    """Run the command line and end the process with its exit code: the program `lrclr`.

    Python would free every object first, of which the weights of a network take a tenth of a second.
    """
    code = main()
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no public way
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be full, closed or None
        sys.stderr.flush()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    # lrclr does not use the thread pool of the package tokenizers, which warns on stderr when a process forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with guarded_streams() as output, stop_signals_raise():
        code = _run(given, output, debug=debug)
        try:
            sys.stdout.flush()
        except OSError as error:
            if output is None:
                raise
            output.failed = output.failed or error
        if output is not None and output.failed is not None:
            # A reader that closed the pipe, such as `head`, needs no more output: this is not an error to report.
            if output.failed.errno != errno.EPIPE:
                complain(f"standard output could not be written: {os.strerror(output.failed.errno or 0)}")
            code = code or 1
    return code


def _run(given: Sequence[str], output: Output | None, *, debug: bool) -> int:
    """Run a command and return its exit code, without regard to errors of standard output."""
    try:
        _require_not_empty(given)
        code = _command()(given or ["--help"], standalone_mode=False, prog_name="lrclr")
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - no traceback may reach a user
        if output is not None and output.failed is not None:
            # This error is a consequence of the failed output: Typer and Rich turn a broken pipe into SystemExit.
            return 1
        if debug:
            traceback.print_exception(error)
        text, code = _explained(error)
        complain(text)
        return code
    if not given:
        return 2
    if code == INTERRUPTED:
        # Typer turns Ctrl-C into this exit code and prints nothing.
        complain(_INTERRUPTED_TEXT)
    return code if isinstance(code, int) else 0


def _require_not_empty(given: Sequence[str]) -> None:
    """Refuse an empty argument, which as a path would be the current folder."""
    for number, argument in enumerate(given, 1):
        option, _, value = argument.partition("=")
        if not argument or (option.startswith("--") and argument != option and not value):
            raise UsageError(
                f"{option or f'argument {number}'} is empty",
                why="a shell variable in the command may not be set",
                fix="Write . for the current folder.",
            )


def _explained(error: BaseException) -> tuple[str, int]:
    """Return the line to print for an error, and the exit code."""
    if isinstance(error, LrclrError):
        return str(error), error.exit_code
    if isinstance(error, _ClickError):
        context = getattr(error, "ctx", None)
        command = "lrclr" if context is None else context.command_path
        message = error.format_message().rstrip(".")  # type: ignore[attr-defined]
        return f"{message}. Try `{command} --help`.", 2
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return _INTERRUPTED_TEXT, INTERRUPTED
    if isinstance(error, SystemExit) and error.code == TERMINATED:
        return "terminated", TERMINATED
    if isinstance(error, OSError):
        return f"{os_reason(error)}{f': {error.filename}' if error.filename else ''}", 1
    return f"unexpected {type(error).__name__}. Run the command again with --debug, and report the traceback.", 1
