"""The page for users of other clients: each code block runs as it is written."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lrclr.images import read_reduced
from lrclr.samples import sample_paths
from tests import bundles
from tests.docs.pages import with_ports_of

if TYPE_CHECKING:
    from lrclr import ZeroShotClassifier
    from lrclr.triton.server import TritonServer

pytestmark = pytest.mark.triton
PAGE = (Path(__file__).parents[3] / "docs" / "howto" / "ask.md").read_text()


def section(title: str, language: str) -> list[str]:
    """The code blocks of a section."""
    text = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with the files that the page names."""
    shutil.copy(sample_paths()[1], tmp_path / "study.png")
    shutil.copy(sample_paths("dicom")[1], tmp_path / "study.dcm")
    return tmp_path


def test_curl(server: TritonServer, study: Path, local: ZeroShotClassifier) -> None:
    about, request = section("With curl", "bash")
    for code, wanted in ((about, '"name":"lrclr"'), (request, '"probability"')):
        done = subprocess.run(
            ["bash", "-euc", with_ports_of(code, server)], cwd=study, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert wanted in done.stdout
    (expected,) = local.predict(
        [read_reduced(study / "study.png", local.spec.preprocess)], findings=local.spec.findings.only(["Edema"])
    )
    assert f"{expected.findings[0].probability:.4f}"[:5] in done.stdout


def test_tritonclient(server: TritonServer, study: Path, local: ZeroShotClassifier) -> None:
    (code,) = section("With tritonclient", "python")
    done = subprocess.run(
        [bundles.PYTHON, "-c", with_ports_of(code, server)], cwd=study, capture_output=True, text=True, check=True
    )
    (expected,) = local.predict([read_reduced(study / "study.png", local.spec.preprocess)])
    lines = [f"{finding.name} {finding.probability}" for finding in expected.findings]
    assert [line.rsplit(" ", 1)[0] for line in done.stdout.splitlines()] == [line.rsplit(" ", 1)[0] for line in lines]
    for line, finding in zip(done.stdout.splitlines(), expected.findings, strict=True):
        assert float(line.rsplit(" ", 1)[1]) == pytest.approx(finding.probability, abs=1e-6)


def test_lrclrs_client(server: TritonServer, study: Path) -> None:
    first, streamed = section("With lrclr", "python")
    wrapped = "\n".join(f"    {line}" for line in streamed.replace("...", "print(answer.height)").splitlines())
    code = f"{first}\nimport asyncio\nfrom lrclr.triton.client import AsyncClient\npaths = ['study.png', 'study.dcm']\n"
    code += f"async def main():\n{wrapped}\nasyncio.run(main())\n"
    done = subprocess.run(
        [bundles.PYTHON, "-W", "error", "-c", with_ports_of(code, server)],
        cwd=study,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["960", "960"]
