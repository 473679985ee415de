"""Runs the commands of docs/hospital that need a PACS, with other names of machines and files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
import pytest

from lrclr.pacs import DicomwebClient, Listener, ListenOptions, WebDestination
from tests.bundles import LRCLR, free_ports
from tests.dicom_results import conformance
from tests.pacs.orthanc import Orthanc
from tests.pacs.studies import PATIENT, study

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.inference import ZeroShotClassifier

PAGES = Path(__file__).parents[2] / "docs" / "hospital"


def blocks(page: str, language: str = "bash") -> list[str]:
    """Blocks of a language on a page."""
    found = re.findall(rf"(?ms)^```{language}\n(.*?)^```", (PAGES / page).read_text())
    assert found
    return found


@pytest.fixture
def place(fp32_bundle: Path, tmp_path: Path) -> Path:
    """A folder with the files that the pages assume."""
    (tmp_path / "triton_repo").symlink_to(fp32_bundle)
    (tmp_path / "token").write_text("token\n")
    tool = tmp_path / "bin" / "lrclr"
    tool.parent.mkdir()
    tool.write_text(f"#!{sys.executable}\n{LRCLR[2]}\n")
    tool.chmod(0o755)
    return tmp_path


def run(script: str, place: Path, replaced: dict[str, str]) -> subprocess.CompletedProcess[str]:
    for text, other in {"/etc/lrclr/token": str(place / "token"), **replaced}.items():
        script = script.replace(text, other)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=place, env=environment(place), capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.slow
def test_dicomweb(place: Path) -> None:
    with Orthanc(place / "orthanc") as orthanc:
        orthanc.add(study(1), study(2, StudyDate=time.strftime("%Y%m%d")))
        for script in blocks("dicomweb.md"):
            done = run(script, place, {"https://pacs.example/dicom-web": orthanc.web})
            assert done.returncode == 0, done.stderr
        assert [len(orthanc.instances(kind)) for kind in ("SR", "SC")] == [2, 2]


@contextmanager
def running(script: str, place: Path) -> Iterator[None]:
    with (place / "log").open("w") as log:
        process = subprocess.Popen(["bash", "-c", f"exec {script}"], cwd=place, env=environment(place), stdout=log)
    try:
        wait(lambda: "listening" in (place / "log").read_text())
        yield
    finally:
        process.terminate()
        assert process.wait(60) == 0


def wait(condition: object) -> None:
    end = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_listen(place: Path) -> None:
    command, push = blocks("listen.md")
    (port,) = free_ports(1)
    with Orthanc(place / "orthanc", modalities={"lrclr": ("LRCLR", port)}) as orthanc:
        orthanc.add(study(1))
        changes = {"11112": str(port), "/var/spool": str(place), "pacs.example:4242": f"127.0.0.1:{orthanc.dicom}"}
        for text, other in changes.items():
            command = command.replace(text, other)
        with running(command, place):
            done = run(push, place, {"http://localhost:8042": orthanc.url})
            assert done.returncode == 0, done.stdout + done.stderr
            wait(lambda: [len(orthanc.instances(kind)) for kind in ("SR", "SC")] == [1, 1])


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A key and its certificate."""
    key, made = folder / f"{name}.key", folder / f"{name}.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True)
    return key, made


@pytest.mark.slow
@pytest.mark.parametrize("script", [0, 1])
def test_a_router(script: int, place: Path, classifier: ZeroShotClassifier) -> None:
    """Over TLS into Orthanc, whose script sends on; the results come back by DICOMweb."""
    (settings, _mercure), route = blocks("routers.md", "json"), blocks("routers.md", "lua")[script]
    (port,) = free_ports(1)
    sender_key, _ = certificate(place, "senders")
    certificate(place, "orthanc")
    (place / "route.lua").write_text(route)
    read = json.loads(settings.replace("/etc/orthanc", str(place)).replace("11112", str(port)))
    (place / "image.dcm").write_bytes(study(1))
    (place / "ct.dcm").write_bytes(study(2, Modality="CT"))
    with Orthanc(place / "orthanc", settings={**read, "StableAge": 1}) as orthanc:
        results = WebDestination(DicomwebClient(orthanc.web))
        with Listener(classifier, place / "spool", [results], ListenOptions(port=port, kinds=("sr",))):
            send = ["-aec", "ORTHANC", "127.0.0.1", orthanc.dicom]
            with pytest.raises(subprocess.CalledProcessError):
                conformance.dcmtk("storescu", *send, place / "image.dcm")
            tls = ["+tls", sender_key, place / "senders.crt", "+cf", place / "orthanc.crt"]
            conformance.dcmtk("storescu", *tls, *send, place / "image.dcm", place / "ct.dcm")
            wait(lambda: len(orthanc.instances("SR")) == 1)
        report = pydicom.dcmread(BytesIO(orthanc.file(orthanc.instances("SR")[0])))
    assert (report.PatientName == PATIENT) == (script == 0)
