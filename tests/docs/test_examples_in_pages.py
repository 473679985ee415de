"""Every command line and every Python block in the documents runs, or the page says why it is not run.

A page is run from top to bottom in a folder with the files that pages name: see `workspace`. Commands of lrclr whose
options do not exist fail here even if they are not run. Slow commands are replaced by their results in the quick test,
and run in the slow test.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import typer

from lrclr.cli import app, main
from lrclr.samples import sample_paths
from tests import bundles
from tests.docs.pages import ROOT, RUN, SHOWN, blocks, pages, with_ports_of, words

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.triton.server import TritonServer
    from tests.docs.pages import Block

PAGES = pages()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# Commands that prepare a machine. The tests run on a prepared machine.
SETUP_COMMANDS = ("git", "cd", "python3", ".", "pip", "make")
# Languages whose blocks on a page are run by another test: `ask.md` by tests/triton/client/test_client_page.py,
# `web.md` by tests/web/test_howto.py, `hospital` by tests/pacs/test_pages.py, `families` by tests/families, and the
# other two by tests/docs/test_pages.py.
RUN_ELSEWHERE = {
    "docs/hospital/dicomweb.md": ("bash",),
    "docs/hospital/listen.md": ("bash",),
    "docs/howto/ask.md": ("python", "bash"),
    "docs/howto/change-a-checkpoint.md": RUN,
    "docs/howto/existing-triton.md": RUN,
    "docs/howto/web.md": RUN,
    "docs/families/index.md": ("bash",),
    "docs/families/adding-a-family.md": RUN,
    "docs/families/dual-encoder.md": ("bash",),
}
ADDRESS = re.compile(r"127\.0\.0\.1:800\d|localhost:800\d")


def _run_blocks(page: str) -> list[Block]:
    """The blocks of a page that this file runs."""
    elsewhere = RUN_ELSEWHERE.get(page, ())
    return [
        block
        for block in blocks(page)
        if block.language in RUN and block.language not in elsewhere and not block.not_run
    ]


PAGES_WITH_SERVER = [page for page in PAGES if any(ADDRESS.search(block.code) for block in _run_blocks(page))]
PAGES_WITHOUT_SERVER = [page for page in PAGES if page not in PAGES_WITH_SERVER and _run_blocks(page)]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fp16_bundle: Path) -> Path:
    """The folder in which a page is run, with the files that pages name.

    ``triton_repo`` is a bundle of the tiny network; ``study.png``, ``study.dcm`` and those below ``radiographs``,
    ``archive`` and ``lrclr/data/samples`` are samples; ``heart.png`` is a mask; ``turned.png`` lies on its side;
    ``findings.toml`` holds findings.
    """
    monkeypatch.chdir(tmp_path)
    bundles.copied(fp16_bundle, tmp_path / "triton_repo")
    for folder in ("radiographs", "archive", "lrclr/data/samples"):
        (tmp_path / folder).mkdir(parents=True)
    for path in (*sample_paths(), *sample_paths("dicom")):
        shutil.copy(path, tmp_path / "lrclr/data/samples")
    for path in sample_paths():
        shutil.copy(path, tmp_path)
    for path in (sample_paths()[0], sample_paths("dicom")[1]):
        shutil.copy(path, tmp_path / "radiographs")
        shutil.copy(path, tmp_path / "archive")
    shutil.copy(sample_paths()[1], tmp_path / "study.png")
    shutil.copy(sample_paths("dicom")[1], tmp_path / "study.dcm")
    (tmp_path / "findings.toml").write_text(
        '[[finding]]\nname = "Edema"\npositive = ["Edema."]\nnegative = ["No edema."]\n'
    )
    _mask_of(tmp_path / "cardiomegaly.png", tmp_path / "heart.png")
    _turned(tmp_path / "normal.png", tmp_path / "turned.png")
    return tmp_path


def _turned(image: Path, turned: Path) -> None:
    from PIL import Image

    with Image.open(image) as opened:
        opened.transpose(Image.Transpose.ROTATE_90).save(turned, compress_level=1)


def _mask_of(image: Path, mask: Path) -> None:
    import numpy as np
    from PIL import Image

    with Image.open(image) as opened:
        pixels = np.zeros((opened.height, opened.width), np.uint8)
    pixels[400:600, 300:550] = 255
    Image.fromarray(pixels).save(mask)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_names_its_language(page: str) -> None:
    for block in blocks(page):
        assert block.language in (*RUN, *SHOWN), f"{page}:{block.line}: ```{block.language}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    """Options of lrclr, extras, targets of make and modules of Python exist, also in blocks that are not run."""
    for block in blocks(page):
        for command in block.commands if block.language == "console" else ():
            for part in command.split(" && "):
                _check(words(part), block)


def _check(given: Sequence[str], block: Block) -> None:
    where = f"{block.page}:{block.line}: {' '.join(given)}"
    program = given[0].rpartition("/")[2]
    if program == "lrclr":
        _parse(given[1:])
    elif program == "pip":
        for extra in re.findall(r"\[([\w,-]+)\]", " ".join(given)):
            assert set(extra.split(",")) <= EXTRAS.keys(), where
    elif program == "make":
        assert {word for word in given[1:] if "=" not in word} <= TARGETS, where
    elif program in ("python", "pytest"):
        for word in given[1:]:
            if re.fullmatch(r"(tools|tests|benchmarks|examples)[/.][\w/.:]+", word):
                path = ROOT / word.partition("::")[0]
                module = ROOT / word.replace(".", "/")
                assert path.exists() or module.is_dir() or module.with_suffix(".py").is_file(), where
    elif program not in SETUP_COMMANDS:
        elsewhere = block.language in RUN_ELSEWHERE.get(block.page, ())
        assert block.not_run or elsewhere, f"{where}: no test can run this; say why with <!-- not run: … -->"


@cache
def _root() -> Any:
    return typer.main.get_command(app)


def _parse(arguments: Sequence[str]) -> None:
    """Let typer parse the arguments of a command without running it."""
    command = _root()
    context, rest = None, list(arguments)
    name = "lrclr"
    while hasattr(command, "resolve_command"):
        context = command.make_context(name, rest, parent=context)
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


@pytest.mark.triton
@pytest.mark.parametrize("page", PAGES_WITH_SERVER)
def test_page_with_a_server(
    page: str, workspace: Path, served: TritonServer, capfd: pytest.CaptureFixture[str]
) -> None:
    _run_page(page, workspace, served)


@pytest.mark.parametrize("page", PAGES_WITHOUT_SERVER)
def test_page_without_a_server(page: str, workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _run_page(page, workspace, None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/howto/export.md"])
def test_page_with_real_exports(page: str, workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Runs the exports of these pages. The rest of these pages runs in the quick tests."""
    _random_chexzero(workspace / "CheXzero.pt")
    for block in _run_blocks(page):
        for command in block.commands if block.language == "console" else ():
            if words(command)[:2] in (["lrclr", "export"], ["lrclr", "init"], ["lrclr", "verify"]):
                assert main(words(command)[1:]) == 0, command


def _random_chexzero(path: Path) -> None:
    """A file in CheXzero's layout with random weights."""
    from examples.export_chexzero import random_chexzero

    random_chexzero(path)


def _run_page(page: str, folder: Path, server: TritonServer | None) -> None:
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.code)
    for block in _run_blocks(page):
        code = with_ports_of(block.code, server)
        where = f"{page}:{block.line}"
        if block.language == "python":
            exec(compile(code, where, "exec"), {"__name__": "__main__"})
        elif block.language == "bash":
            subprocess.run(["bash", "-euc", code], cwd=folder, check=True)
        elif block.language == "console":
            for command in block.commands:
                given = words(with_ports_of(command, server))
                if given[0] == "lrclr":
                    assert _run(given[1:], folder) == 0, f"{where}: {command}"


def _run(arguments: Sequence[str], folder: Path) -> int:
    command = arguments[0]
    if command == "serve":
        # This command runs until it is stopped. The server `served` takes its place.
        return 0
    if command == "export":
        output = arguments[list(arguments).index("-o") + 1] if "-o" in arguments else "triton_repo"
        if not (folder / output).exists():
            bundles.copied(folder / "triton_repo", folder / output)
        return 0
    return main(list(arguments))
