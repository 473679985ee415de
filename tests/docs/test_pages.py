"""The how-to pages: their commands run in the order of the page, and their figures are up to date."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from lrclr import Finding, FindingSet, ZeroShotClassifier
from lrclr.checkpoints import default_checkpoint, init_checkpoint
from lrclr.cli import main
from lrclr.preprocessing import PreprocessSpec
from lrclr.samples import SAMPLES

# Private: whether a Triton server is installed decides whether tests are skipped.
from lrclr.triton.server._locate import find_server
from tests import bundles
from tests.docs import pages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOWTO = pages.ROOT / "docs" / "howto"
FINDINGS = '[[finding]]\nname = "Edema"\npositive = ["Pulmonary edema."]\nnegative = ["No edema."]\n'
OWN_MODEL = """import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse(error=pb_utils.TritonError("nothing")) for _ in requests]
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each code block."""
    found = pages.blocks(f"docs/howto/{page}")
    return [(block.language, block.code) for block in found if block.language in {"console", "python", "toml"}]


def commands(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        assert line.startswith("$ "), line
        yield shlex.split(line[2:])


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_transformers: None) -> Path:
    """A folder with the files that the pages name: checkpoints, a findings file and a radiograph."""
    monkeypatch.chdir(tmp_path)
    for name in ("CheXzero.pt", "default", "model"):
        # The content of a folder decides how it is read, not its name.
        checkpoint = init_checkpoint("tiny")
        size = checkpoint.preprocess.image_size
        dataclasses.replace(checkpoint, preprocess=PreprocessSpec.clip(size)).save(tmp_path / name)
    (tmp_path / "findings.toml").write_text(FINDINGS)
    shutil.copy(SAMPLES[3].path(), tmp_path / "study.png")
    return tmp_path


@pytest.mark.slow
def test_the_page_about_changing_a_checkpoint(workspace: Path) -> None:
    for language, text in blocks("change-a-checkpoint.md"):
        if language == "python":
            exec(text, {})
            continue
        for command in commands(text):
            assert command[0] == "lrclr"
            assert main(command[1:]) == 0
    classifier = ZeroShotClassifier.from_bundle(workspace / "bundles" / "mine")
    assert classifier.spec.preprocess.std == (0.25, 0.25, 0.25)
    assert classifier.spec.findings == FindingSet.loads(FINDINGS)
    (answer,) = classifier.predict(["study.png"])
    heads = classifier.bundle.manifest.model["vision_config"]["num_attention_heads"]
    assert len(answer.regions) == 2 * heads
    other = ZeroShotClassifier.from_checkpoint(workspace / "mine-too")
    assert len(other.predict(["study.png"])[0].regions) == 2 * heads


@pytest.mark.slow
def test_the_page_about_an_existing_triton(workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = workspace / "models" / "own" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(OWN_MODEL)
    (folder.parent / "config.pbtxt").write_text('backend: "python"')
    grpc, http, metrics = bundles.free_ports(3)
    servers: list[subprocess.Popen[bytes]] = []

    def here(text: str) -> str:
        return text.replace("localhost:8001", f"127.0.0.1:{grpc}").replace("localhost:8000", f"127.0.0.1:{http}")

    seen = set()
    try:
        for language, text in blocks("existing-triton.md"):
            if language == "python":
                exec(here(text), {})
                assert 0 <= float(capfd.readouterr().out.splitlines()[-1]) <= 1
                continue
            for program, *arguments in commands(here(text)):
                seen.add(program)
                if program == "lrclr":
                    assert main(arguments) == 0
                elif program == "tritonserver":
                    servers.append(_start(arguments, grpc, http, metrics))
                else:
                    subprocess.run([program, *arguments], check=True, timeout=60)
        assert seen == {"lrclr", "tritonserver", "curl"}
        subprocess.run(["curl", "--silent", "--fail", f"http://127.0.0.1:{http}/v2/models/own/ready"], check=True)
    finally:
        for server in servers:
            server.terminate()
            server.wait(timeout=60)


def _start(arguments: list[str], grpc: int, http: int, metrics: int) -> subprocess.Popen[bytes]:
    installation = find_server()
    ports = [f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"]
    addresses = [f"--{kind}-address=127.0.0.1" for kind in ("grpc", "http", "metrics")]
    backends = [f"--backend-directory={installation.backends}"] if installation.backends else []
    process = subprocess.Popen(
        [str(installation.program), *arguments, *ports, *addresses, *backends, "--exit-timeout-secs=3"],
        env=installation.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{http}/v2/health/ready"
    deadline = time.monotonic() + 120
    while subprocess.run(["curl", "--silent", "--fail", address], check=False, timeout=60).returncode:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process


def test_the_findings_file_of_the_page_can_be_read() -> None:
    (text,) = (text for language, text in blocks("prompts.md") if language == "toml")
    assert FindingSet.loads(text).names == ("Pleural Effusion", "Pneumothorax")


def test_the_table_of_prompts_is_up_to_date() -> None:
    """The figures of the default checkpoint. A new checkpoint needs a new table, which the failure prints."""
    classifier = ZeroShotClassifier.from_checkpoint(default_checkpoint())
    own = classifier.spec.findings
    bare = FindingSet(tuple(Finding(name) for name in own.names))
    images = [sample.path() for sample in SAMPLES[:2]]
    columns = [
        answer
        for pair in zip(classifier.predict(images), classifier.predict(images, findings=bare), strict=True)
        for answer in pair
    ]
    page = (HOWTO / "prompts.md").read_text()
    table = page.partition("<!-- prompts")[2].partition("<!-- end of prompts")[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.splitlines() if "|" in line][2:]
    computed = [[name, *(100 * prediction.finding(name).probability for prediction in columns)] for name in own.names]
    shown = "\n".join(
        f"| {name} | " + " | ".join(f"{value:.1f}" for value in values) + " |" for name, *values in computed
    )
    assert [row[0] for row in rows] == list(own.names), shown
    for (name, *wanted), (_, *values) in zip(rows, computed, strict=True):
        # The page shows the figures of the fp16 bundle.
        assert [float(cell) for cell in wanted] == pytest.approx(values, abs=0.3), f"{name}: write\n{shown}"
