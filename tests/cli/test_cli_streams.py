"""Standard output and standard error that are full, closed or abandoned, and locales that are not UTF-8.

Each command runs here in this process, with other files behind its descriptors 0, 1 and 2.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import fcntl
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from lrclr.cli import main

# Private: the names of CheXpert's columns, for a table in its format.
from lrclr.datasets._imported import CHEXPERT_FINDINGS
from lrclr.file_names import path_of
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CLOSED, FULL, GONE = "closed", "full", "gone"


@dataclass(frozen=True)
class Done:
    code: int
    out: bytes
    err: str


@contextlib.contextmanager
def _replaced_stream(descriptor: int, kind: str | Path, encoding: str) -> Iterator[None]:
    """Replace a standard descriptor and Python's stream on it for a while."""
    name = ("stdin", "stdout", "stderr")[descriptor]
    # A high number: the number of another closed descriptor must stay free.
    saved, stream = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100), getattr(sys, name)
    if kind == CLOSED:
        os.close(descriptor)
        setattr(sys, name, None)
    else:
        if kind == GONE:
            reader, opened = os.pipe()
            os.close(reader)
        else:
            opened = os.open("/dev/full" if kind == FULL else kind, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)
        mode = "r" if descriptor == 0 else "w"
        setattr(sys, name, open(descriptor, mode, encoding=encoding, closefd=False))  # noqa: SIM115
    try:
        yield
    finally:
        setattr(sys, name, stream)
        os.dup2(saved, descriptor)
        os.close(saved)


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run ``lrclr``.

    `out` and `err` are what stdout and stderr write to; by default files, whose content is returned.
    """

    def run(*arguments: object, out: str = "", err: str = "", encoding: str = "utf-8") -> Done:
        files = [tmp_path / ".out", tmp_path / ".err"]
        for file in files:
            file.write_bytes(b"")
        with capfd.disabled(), contextlib.ExitStack() as stack:
            if out == CLOSED:
                stack.enter_context(_replaced_stream(0, CLOSED, encoding))
            stack.enter_context(_replaced_stream(2, err or files[1], encoding))
            stack.enter_context(_replaced_stream(1, out or files[0], encoding))
            code = main([str(argument) for argument in arguments])
            # As the interpreter does at its end: flushing a remaining buffer must not raise.
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        return Done(code, files[0].read_bytes(), files[1].read_text(encoding="utf-8", errors="replace"))

    return run


@pytest.fixture(scope="session")
def commands(
    bundle: Path, checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Callable[[], list[object]]]:
    """Arguments for each command. Each call has a new output path."""
    data = tmp_path_factory.mktemp("streams")
    images = data / "images"
    images.mkdir()
    for number in range(4):
        bundles.radiograph(images / f"{number}.png", number)
    (images / "bad.png").write_bytes(b"no picture")
    rows: list[list[object]] = [["image", "split", "report", "Edema"]]
    rows += [[f"images/{number}.png", "train" if number < 2 else "test", "Oedema.", number % 2] for number in range(4)]
    with (data / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    picture = data / "chexpert" / "valid" / "patient1" / "study1" / "view1_frontal.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes((images / "0.png").read_bytes())
    (data / "chexpert" / "valid.csv").write_text(
        f"Path,Frontal/Lateral,{','.join(CHEXPERT_FINDINGS)}\n"
        f"CheXpert-v1.0/valid/patient1/study1/view1_frontal.jpg,Frontal{',1.0' * 14}\n"
    )
    measured = data / "measured"
    assert main(["bench", str(bundle), *bundles.BRIEF_BENCH, "-o", str(measured)]) == 0

    def new() -> Path:
        return tmp_path_factory.mktemp("made") / "new"

    arguments: dict[str, Callable[[], list[object]]] = {
        "--version": lambda: ["--version"],
        "--help": lambda: ["--help"],
        "predict --help": lambda: ["predict", "--help"],
        "init": lambda: ["init", new(), "--arch", "tiny"],
        "convert": lambda: ["convert", checkpoint_folder, new()],
        "predict": lambda: ["predict", images, "-b", bundle],
        "predict --json": lambda: ["predict", images, "-b", bundle, "--json"],
        "predict --csv": lambda: ["predict", images, "-b", bundle, "--csv"],
        "score": lambda: ["score", images, "-o", new(), "-b", bundle],
        "score --json": lambda: ["score", images, "-o", new(), "-b", bundle, "--json"],
        "evaluate": lambda: ["evaluate", bundle, data / "manifest.csv", "--bootstrap", "5", "-o", new()],
        "evaluate --json": lambda: ["evaluate", bundle, data / "manifest.csv", "--bootstrap", "5", "--json"],
        "verify": lambda: ["verify", bundle],
        "verify --json": lambda: ["verify", bundle, "--json"],
        "bench": lambda: ["bench", bundle, *bundles.BRIEF_BENCH],
        "bench compare": lambda: ["bench", "compare", measured, measured],
        "bench compare --json": lambda: ["bench", "compare", measured, measured, "--json"],
        "bench compare --markdown": lambda: ["bench", "compare", measured, measured, "--markdown"],
        "deploy": lambda: ["deploy", "kubernetes", bundle, "-o", new(), "--image", "registry.example/lrclr:0.1.0"],
        "dataset": lambda: ["dataset", "chexpert", data / "chexpert", "-o", new().with_suffix(".csv")],
        "wrong": lambda: ["predict", data / "nowhere.png", "-b", bundle],
        "no such option": lambda: ["predict", "--nothing"],
    }
    return arguments


COMMANDS = (
    "--version", "--help", "predict --help", "init", "convert", "predict", "predict --json", "predict --csv", "score",
    "score --json", "evaluate", "evaluate --json", "verify", "verify --json", "bench", "bench compare",
    "bench compare --json", "bench compare --markdown", "dataset", "deploy", "wrong", "no such option",
)  # fmt: skip


# These commands print through the same functions as the others.
SLOW_COMMANDS = {
    *("convert", "predict --csv", "score", "score --json", "evaluate", "evaluate --json"),
    *("verify", "verify --json", "bench"),
}


# `bench compare` and the forms with ``--json`` print through the same functions as these.
LEFT_OUT = {"bench", "evaluate", "score", "verify"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LEFT_OUT)) for name in COMMANDS]
)
def test_lost_stdout_fails_a_command_and_lost_stderr_does_not(
    name: str, commands: dict[str, Callable[[], list[object]]], run: Callable[..., Done]
) -> None:
    arguments = commands[name]
    usual = run(*arguments())
    answers = usual.out != b""
    assert "unexpected" not in usual.err
    reasons = {FULL: "No space left on device", CLOSED: "Bad file descriptor", GONE: ""}
    kinds = (FULL,) if name in SLOW_COMMANDS else (FULL, CLOSED, GONE)
    for kind in kinds:
        lost = run(*arguments(), out=kind)
        assert lost.code == (usual.code or 1 if answers else usual.code)
        assert "unexpected" not in lost.err
        assert "Traceback" not in lost.err
        message = f"error: standard output could not be written: {reasons[kind]}\n"
        assert (message in lost.err) == (answers and kind != GONE)
        if kind == GONE and answers and usual.code == 0:
            assert "error" not in lost.err
    if len(kinds) > 1:
        assert run(*arguments(), out=CLOSED, err=CLOSED).code == lost.code
    for kind in kinds:
        silent = run(*arguments(), err=kind)
        assert silent.code == usual.code
        # Times and names of new files differ between runs.
        assert len(silent.out.splitlines()) == len(usual.out.splitlines())


def test_a_closed_descriptor_is_not_given_to_a_file(
    commands: dict[str, Callable[[], list[object]]], run: Callable[..., Done]
) -> None:
    """A file that lrclr opens must not get descriptor 1, or it would receive what C code prints there."""
    arguments = commands["score"]()
    assert run(*arguments, out=CLOSED, err=CLOSED).code == 1
    assert run(*arguments).code == 1  # one image is bad; all parts are complete
    command = [*bundles.LRCLR, "--version"]
    code = "import os, sys; os.close(1); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: standard output could not be written: Bad file descriptor\n")


def test_a_file_that_received_descriptor_1_is_not_written(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "os.close(1); sys.stdout = None\n"
        "assert os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY) == 1\n"
        "from lrclr.cli import main\n"
        "code = main(['--version']); os._exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "file"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: standard output could not be written: Bad file descriptor\n")
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize(("out", "err", "code"), [("/dev/full", None, 1), (None, "/dev/full", 0), (None, None, 0)])
def test_the_exit_of_python_does_not_change_the_exit_code(
    out: str | None, err: str | None, code: int, bundle: Path, tmp_path: Path
) -> None:
    """Python exits with 120 if it cannot flush a standard stream."""
    image = bundles.radiograph(tmp_path / "a.png")
    with contextlib.ExitStack() as stack:
        opened = [
            subprocess.PIPE if name is None else stack.enter_context(open(name, "w"))  # noqa: PTH123
            for name in (out, err)
        ]
        command = [*bundles.LRCLR, "predict", str(image), "-b", str(bundle), "--json"]
        done = subprocess.run(command, stdout=opened[0], stderr=opened[1], text=True, check=False)
    assert done.returncode == code
    if out is None:
        assert json.loads(done.stdout)["file"] == str(image)


ENCODINGS = ("utf-8", "ascii", "latin-1", "cp1252", "cp437", "shift_jis", "utf-16", "utf-32")


@pytest.fixture
def named(tmp_path: Path) -> list[str]:
    """Images, and a file that cannot be read. Their names are in many scripts, or are not Unicode."""
    names = ["日本語 ñ.png", "é.png", "a\\b.png", "\\xe9.png", "🫁.png", 'quote"\n.png', os.fsdecode(b"caf\xe9.png")]
    (tmp_path / "in").mkdir()
    for seed, name in enumerate(names):
        bundles.radiograph(tmp_path / "in" / name, seed)
    bad = os.fsdecode(b"bad\xff.png")
    (tmp_path / "in" / bad).write_bytes(b"no picture")
    return [*names, bad]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_and_csv_are_utf_8_in_every_locale(
    encoding: str, named: list[str], bundle: Path, tmp_path: Path, run: Callable[..., Done]
) -> None:
    wanted = sorted(os.fsencode(tmp_path / "in" / name) for name in named)
    done = run("predict", tmp_path / "in", "-b", bundle, "--json", encoding=encoding)
    assert done.code == 1
    lines = [json.loads(line) for line in done.out.decode("utf-8").splitlines()]
    assert sorted(os.fsencode(path_of(line["file"])) for line in lines) == wanted
    for line in lines:
        json.dumps(line, ensure_ascii=False).encode()  # lone surrogates cannot be encoded
    done = run("predict", tmp_path / "in", "-b", bundle, "--csv", encoding=encoding)
    rows = list(csv.DictReader(io.StringIO(done.out.decode("utf-8"), newline="")))
    assert sorted(os.fsencode(path_of(row["file"])) for row in rows) == wanted


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tables_and_errors_are_printed_in_every_locale(
    encoding: str, named: list[str], bundle: Path, tmp_path: Path, run: Callable[..., Done]
) -> None:
    done = run("predict", tmp_path / "in", "-b", bundle, encoding=encoding)
    assert done.code == 1
    shown = done.out.decode(encoding)
    assert shown.count("probability") == len(named) - 1
    assert "unexpected" not in done.err
    for command in (["verify", bundle], ["bench", "--help"]):
        done = run(*command, encoding=encoding)
        assert done.code == 0
        assert done.out.decode(encoding)


@pytest.mark.parametrize("name", ["score --json", "evaluate --json", "verify --json", "bench compare --json"])
@pytest.mark.parametrize("encoding", ["ascii", "utf-16"])
def test_every_json_is_utf_8(
    name: str, encoding: str, commands: dict[str, Callable[[], list[object]]], run: Callable[..., Done]
) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    done = run(*commands[name](), encoding=encoding)
    assert json.loads(done.out.decode("utf-8"), parse_constant=refuse)
    assert not done.out.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16))
