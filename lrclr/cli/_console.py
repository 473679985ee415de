"""Output of commands: results on stdout; notes, progress and errors on stderr.

Texts are printed literally: the name of a file or a finding may contain markup such as ``[bold]``.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lrclr.engines import Engine
    from lrclr.inference import ZeroShotClassifier
    from lrclr.verification import GateResult

_FILE_WIDTH = 130
_REASONS = 5
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
EngineName = Annotated[
    str | None,
    typer.Option(
        "--engine",
        help="onnxruntime, openvino, tensorrt, tensorrt-rtx, or auto for the fastest on this machine.  "
        "[default: the engine that the bundle was made for]",
    ),
]
TlsRoot = Annotated[
    Path | None,
    typer.Option("--tls-root", help="PEM certificates to verify the server with. Its gRPC port is encrypted then."),
]
ServerProgram = Annotated[
    Path | None,
    typer.Option("--server", help="Path of the tritonserver program.  [default: from the PATH, else from make triton]"),
]
Findings = Annotated[Path | None, typer.Option("--findings", help="A findings file, instead of the bundle's findings.")]
Frame = Annotated[
    int | None, typer.Option("--frame", min=0, help="Frame to read of files with several frames, from 0.")
]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads of the engine.  [default: one per core]")]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact",
        help="Decode every pixel. By default, large JPEG 2000 images are decoded at a lower resolution, which is "
        "faster.",
    ),
]
REFUSE_HELP = (
    "Refuse images with one of these warnings, such as colour,inverted: they get an error instead of an answer."
)
RESEARCH_ONLY = "Research use only. Not a medical device."


def check_tls_root(tls_root: Path | None, server: str | None) -> None:
    """Raise UsageError for --tls-root without --server."""
    if tls_root is not None and server is None:
        raise UsageError("--tls-root needs --server")


def out() -> Console:
    """Return the console for results. Without a terminal, it is wide enough for the tables."""
    width = None if sys.stdout.isatty() else _FILE_WIDTH
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True, width=width)


def err() -> Console:
    """Return the console for notes, progress and errors."""
    return Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Text with escapes for control characters, which names of files may contain and terminals obey."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def note(text: str) -> None:
    """Print a note on stderr."""
    err().print(printable(text))


def note_failures(failures: Counter[str]) -> None:
    """Print the most frequent reasons of failures, with their counts."""
    for reason, count in failures.most_common(_REASONS):
        note(f"failed: {count} × {reason}")
    if len(failures) > _REASONS:
        note(f"and for {len(failures) - _REASONS} other reasons")


def print_json(content: Any, *, indent: int | None = None) -> None:
    """Print JSON on stdout, on one line or indented. The encoding is UTF-8 in every locale.

    NaN and infinity become null. Bytes of a file name that are not text become ``\\xNN``.
    """
    text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, indent=indent)
    # JSON writes a backslash in a string as two.
    print_utf8(_SURROGATE.sub(lambda found: rf"\\{_escape(found)}", text) + "\n")


def print_utf8(text: str) -> None:
    """Print text for programs, such as JSON or CSV, on stdout. The encoding is UTF-8 in every locale."""
    data = _SURROGATE.sub(lambda found: rf"\{_escape(found)}", text).encode()
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:
        # The application has replaced stdout by a text stream of its own.
        sys.stdout.write(data.decode())
        return
    buffer.write(data)
    buffer.flush()


def _escape(found: re.Match[str]) -> str:
    """Return the escape sequence of a surrogate without its backslash. U+DCNN stands for an undecodable byte NN."""
    code = ord(found[0])
    return f"x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"u{code:04x}"


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def note_choice(engine: Engine) -> None:
    """Print the engine and the reason for its choice, if it was chosen."""
    why = getattr(engine, "why", None)
    if why is not None:
        note(f"engine {engine.name} ({why})")


def note_engine(classifier: ZeroShotClassifier) -> None:
    """As `note_choice`, and say so where the gates of the bundle were run in another engine."""
    note_choice(classifier.engine)
    if classifier.spec.kind != "bundle" or hasattr(classifier.engine, "why"):
        return
    used, checked = classifier.engine.name.partition(" ")[0], classifier.bundle.manifest.engine["name"]
    if used not in {checked, "triton"}:
        note(f"the gates of this bundle were run in {checked}; run them in {used} with lrclr verify --engine {used}")


def complain(text: str) -> None:
    """Print an error on one line."""
    err().print(f"error: {printable(' '.join(text.split()))}", style="red" if sys.stderr.isatty() else "")


class ConsoleProgress:
    """Progress callbacks that print the running task; see `lrclr_export.ProgressCallbacks`.

    If stderr is not a terminal, they print one line for each task.
    """

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self._console, self._progress = console, progress
        self._task: TaskID | None = None
        self._text = ""
        self._phase, self._began = "", (0.0, 0)

    def task(self, text: str) -> None:
        """Begin a task. The task before has ended."""
        if self._progress is None:
            self._console.print(f"- {text}")
            return
        self.finish()
        self._text, self._phase = text, ""
        self._task = self._progress.add_task(text, total=None)

    def step(self, phase: str, done: int, steps: int) -> None:
        """Show the progress of a phase of the task and the time left in it, on a terminal."""
        if self._progress is not None and self._task is not None:
            text = f"{self._text}: {phase} {done}/{steps}"
            if phase != self._phase:
                self._phase, self._began = phase, (time.monotonic(), done)
            began, at_first = self._began
            if done > at_first:
                left = (time.monotonic() - began) / (done - at_first) * (steps - done)
                text += f", about {left:.0f} s left"
            self._progress.update(self._task, description=text)

    def gates(self, results: Sequence[GateResult]) -> None:
        """Print the gates that failed, and how many passed."""
        if failed := [result for result in results if not result.passed]:
            out().print(gate_table(failed))
        self._console.print(f"  {len(results) - len(failed)} of {len(results)} gates passed")

    def finish(self) -> None:
        """End the last task."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, total=1, completed=1, description=self._text)


@contextlib.contextmanager
def console_progress() -> Iterator[ConsoleProgress]:
    """Show the running task and its time."""
    console = err()
    if not console.is_terminal:
        yield ConsoleProgress(console, None)
        return
    with Progress(SpinnerColumn(), _description(), TimeElapsedColumn(), console=console) as progress:
        running = ConsoleProgress(console, progress)
        yield running
        running.finish()


@contextlib.contextmanager
def counter(description: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar over `total` items if stderr is a terminal."""
    columns = (_description(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = err()
    with Progress(*columns, console=console, disable=not console.is_terminal or total < 2) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)


@contextlib.contextmanager
def gauge(description: str) -> Iterator[Callable[[str, float], None]]:
    """Show a progress bar if stderr is a terminal. Yields a function that takes a text and the share that is done."""
    console = err()
    columns = (BarColumn(bar_width=24), TimeElapsedColumn(), _description())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=1.0)
        yield lambda text, share: progress.update(task, description=text, completed=share)


def _description() -> TextColumn:
    return TextColumn("{task.description}", markup=False)


def new_table(title: str | None, words: Iterable[str], numbers: Iterable[str], last_words: Iterable[str] = ()) -> Table:
    """Return a table without rows, from the headings of its columns. Numbers are aligned on the right."""
    table = Table(title=title, title_justify="left")
    for name in words:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    for name in last_words:
        table.add_column(name)
    return table


def gate_table(results: Sequence[GateResult]) -> Table:
    """Return a table of gates with the measured values."""
    table = new_table("Gates, against PyTorch in float32", ("gate", "of"), ("measured", "limit"), ("",))
    for result in results:
        sign = "≥" if result.limit == "min" else "≤"
        verdict = Text("passed", "green") if result.passed else Text("FAILED", "red bold")
        table.add_row(result.gate, result.subject, f"{result.value:.6g}", f"{sign} {result.tolerance:.6g}", verdict)
    return table
