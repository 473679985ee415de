"""Files and findings may have any name: the output stays complete and goes to the right stream."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lrclr
from lrclr.cli import main
from lrclr.file_names import path_of
from lrclr.samples import sample_paths
from tests import bundles

if TYPE_CHECKING:
    Capture = pytest.CaptureFixture[str]

NAMES = (
    *("[bold]x[/bold].png", "[/red].png", ":warning:.png", "日本語 ñ.png", "-dash.png", "🫁.png"),
    *("a\tb.png", "a\rb\n.png", "\x1b[31m.png"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        bundles.radiograph(tmp_path / name, seed)
    return tmp_path


def test_json_contains_every_name_unchanged(folder: Path, bundle: Path, capsys: Capture) -> None:
    assert main(["predict", str(folder), "-b", str(bundle), "--json"]) == 0
    files = [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(files) == sorted(str(folder / name) for name in NAMES)


def test_csv_contains_every_name_unchanged(folder: Path, bundle: Path, capsys: Capture) -> None:
    assert main(["predict", str(folder), "-b", str(bundle), "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert sorted(row["file"] for row in rows) == sorted(str(folder / name) for name in NAMES)


def test_tables_and_errors_show_brackets_and_colons_unchanged(
    folder: Path, bundle: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "[dim]bad[").mkdir()
    (folder / "[dim]bad[" / "].png").write_text("x")
    (folder / "f.toml").write_text('[[finding]]\nname = "[red]Edema[/red]"\n', encoding="utf-8")
    monkeypatch.chdir(folder)
    files = [f"./{name}" for name in (*NAMES, "[dim]bad[/].png")]
    assert main(["predict", *files, "-b", str(bundle), "--findings", "f.toml"]) == 1
    captured = capsys.readouterr()
    # Control characters, which terminals obey, are escaped.
    for name in ("[bold]x[/bold].png", "[/red].png", ":warning:.png", "日本語 ñ.png", r"\x1b[31m.png"):
        assert f"\n{name}\n" in f"\n{captured.out}"
    assert captured.out.count("[red]Edema[/red]") == len(NAMES)
    assert "error: [dim]bad[/].png: " in captured.err


@pytest.mark.slow
def test_a_name_that_is_not_unicode_is_answered(bundle: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    bundles.radiograph(tmp_path / "a.png")
    Path(os.fsdecode(name)).write_bytes((tmp_path / "a.png").read_bytes())
    for option in ("--json", "--csv", None):
        command = ["predict", tmp_path, "-b", bundle, *([option] if option else [])]
        done = bundles.run(command, env=bundles.environment(PYTHONUTF8="1"))
        assert done.returncode == 0, done.stderr
        if option == "--json":
            files = [json.loads(line)["file"] for line in done.stdout.splitlines()]
            assert os.fsencode(path_of(files[1])) == name
        else:
            assert ("caf\\xe9.png" if option else "caf\\udce9.png") in done.stdout


def test_stdout_has_only_results(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    bundles.radiograph(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("x")
    assert main(["predict", str(tmp_path), "-b", str(bundle), "--heatmap", str(tmp_path / "maps"), "--json"]) == 1
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    assert [{"alpha", "error", "file"} & line.keys() for line in lines] == [{"alpha", "file"}, {"error", "file"}]
    for note in ("heat maps are in", "Research use only", "b.png"):
        assert note in captured.err


def test_heat_maps_are_not_answered_as_radiographs(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    """A second run over the folder into which the first run wrote."""
    bundles.radiograph(tmp_path / "a.png")
    for again in (False, True):
        assert main(["predict", str(tmp_path), "-b", str(bundle), "--heatmap", str(tmp_path), "--json"]) == 0
        captured = capsys.readouterr()
        assert len(captured.out.splitlines()) == 1
        assert ("1 of them replaced an earlier file" in captured.err) == again
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "a.png.heatmap.png"]


def test_a_file_in_the_place_of_the_heat_map_folder_is_refused(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    image = bundles.radiograph(tmp_path / "a.png")
    assert main(["predict", str(image), "-b", str(bundle), "--heatmap", str(image)]) == 2
    assert "--heatmap takes a folder, not" in capsys.readouterr().err


def test_a_closed_pipe_ends_the_command_without_an_error(bundle: Path) -> None:
    """Like `lrclr predict … --json

    head -1`.
    """
    # A radiograph without warnings, which would be printed on stderr.
    image = sample_paths("png")[0]
    command = [*bundles.LRCLR, "predict", *[str(image)] * 200, "-b", str(bundle), "--json", "--batch-size", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["file"] == str(image)
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_importing_lrclr_imports_nothing_heavy() -> None:
    code = "import sys, lrclr, lrclr.cli; print([m for m in sys.modules if '.' not in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "onnx", "onnxruntime", "onnxscript", "tritonclient", "safetensors", "pydicom"}
    assert heavy.isdisjoint(ast.literal_eval(done.stdout))


def test_every_public_name_can_be_imported() -> None:
    assert len(lrclr.__all__) == len(set(lrclr.__all__))
    assert set(lrclr.__all__) == {*lrclr._PACKAGES, "__version__"}
    for name in lrclr.__all__:
        assert getattr(lrclr, name) is not None
    assert dir(lrclr) == sorted(lrclr.__all__)
    with pytest.raises(AttributeError, match="no attribute 'torch'"):
        _ = lrclr.torch


def test_type_checkers_see_the_public_names() -> None:
    """The names under TYPE_CHECKING equal the names that are looked up at run time."""
    tree = ast.parse(Path(lrclr.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"lrclr.{home}" for name, home in lrclr._PACKAGES.items()}


def test_version_is_printed(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lrclr {lrclr.__version__}\n"
