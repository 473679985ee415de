"""The page `docs/howto/web.md`: its tables are up to date, and its examples run against a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

from lrclr.samples import SAMPLES
from lrclr.web import STATUS
from tests.docs.pages import ROOT, blocks

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from starlette.testclient import TestClient

    from lrclr.web import WebServer

PAGE = "docs/howto/web.md"


def rows(name: str) -> list[list[str]]:
    """The cells of a table between two comments."""
    table = (ROOT / PAGE).read_text().partition(f"<!-- {name} -->")[2].partition(f"<!-- end of {name} -->")[0]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.strip().splitlines()[2:]]


def test_the_tables_are_up_to_date(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert rows("operations") == [
        [f"`{method.upper()} {path}`", operation["summary"]]
        for path, item in paths.items()
        for method, operation in item.items()
    ]
    assert rows("errors") == [[f"`{kind.__name__}`", str(status)] for kind, status in STATUS.items()]


def test_the_examples_run(
    running: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLES[1].path(), "study.png")
    shutil.copy(SAMPLES[1].path("dicom"), "study.dcm")
    ran = 0
    for block in blocks(PAGE):
        code = block.code.replace("http://127.0.0.1:8080", running.url)
        if block.language == "python":
            exec(compile(code, f"{PAGE}:{block.line}", "exec"), {"__name__": "__main__"})
            assert re.search(r"-?0\.\d+", capsys.readouterr().out)
        elif block.language == "bash":
            done = subprocess.run(["bash", "-euc", code], capture_output=True, text=True, check=True)
            assert '"probability"' in done.stdout
        ran += block.language in {"python", "bash"}
    assert ran == 4
    assert {path.name for path in tmp_path.iterdir()} == {"study.png", "study.dcm", "heatmap.png", "report.dcm"}
