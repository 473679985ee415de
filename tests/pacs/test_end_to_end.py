"""Orthanc A sends studies to `lrclr listen`, whose results arrive in Orthanc B. Parts are killed meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from io import BytesIO
from typing import TYPE_CHECKING

import pydicom
import pytest

from tests.bundles import LRCLR, free_ports
from tests.dicom_results import conformance
from tests.pacs.orthanc import Orthanc
from tests.pacs.studies import study

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

SECONDS = 1500
LARGE = pytest.param(200, id="200", marks=[pytest.mark.slow, pytest.mark.timeout(2 * SECONDS)])


def receiver(bundle: Path, folder: Path, port: int, store: str) -> subprocess.Popen[str]:
    """`lrclr listen`, after it has started to listen."""
    command = [*LRCLR, "listen", str(folder / "spool"), "--port", str(port), "--accept", "ORTHANC", "--store", store]
    starts = _starts(folder)
    with (folder / "log").open("a") as log:
        process = subprocess.Popen([*command, "-b", str(bundle)], stdout=log, stderr=log, text=True)
    wait(lambda: _starts(folder) > starts, process)
    return process


def _starts(folder: Path) -> int:
    log = folder / "log"
    return log.read_text().count("listening on") if log.exists() else 0


def wait(condition: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert process is None or process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)


def check_results(archive: Orthanc, contents: Iterable[bytes], folder: Path) -> None:
    """Every image has one report and one heat map, and all of them conform to the standard."""
    wanted = {str(pydicom.dcmread(BytesIO(content)).SOPInstanceUID) for content in contents}
    for kind in ("SR", "SC"):
        referenced: Counter[str] = Counter()
        for identifier in archive.instances(kind):
            file = folder / "result.dcm"
            file.write_bytes(archive.file(identifier))
            assert not conformance.errors_of(file)
            result = pydicom.dcmread(file)
            sources = {e.value for e in result.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
            referenced.update(str(uid) for uid in sources)
        assert referenced == dict.fromkeys(wanted, 1)


def push(source: Orthanc, process: subprocess.Popen[str]) -> None:
    """Send every instance by a REST job, and repeat until the job succeeds. A Lua rule of Orthanc does not repeat."""
    wait(lambda: process.poll() is not None or source.send("LRCLR").ok)


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(4, id="4"), LARGE])
def test_pushed_studies_are_answered_once(number: int, fp32_bundle: Path, tmp_path: Path) -> None:
    """The receiver is killed twice, and the archive for the results is stopped once."""
    contents = [study(each) for each in range(number)]
    (port,) = free_ports(1)
    begin = time.monotonic()
    with Orthanc(tmp_path / "a", modalities={"LRCLR": ("LRCLR", port)}) as source, Orthanc(tmp_path / "b") as target:
        source.add(*contents)
        store = f"ORTHANC@127.0.0.1:{target.dicom}"
        spool = tmp_path / "spool"
        process = receiver(fp32_bundle, tmp_path, port, store)
        try:
            for moment in (1, 2):
                job = source.post(
                    "/modalities/LRCLR/store", {"Resources": source.get("/instances"), "Synchronous": False}
                )
                # During receiving, scoring and sending.
                reached = number * moment // 3
                wait(lambda reached=reached: accepted(spool) + answered(target) >= reached)  # type: ignore[misc]
                process.kill()
                process.wait()
                assert job.ok
                if moment == 1:
                    target.stop()
                process = receiver(fp32_bundle, tmp_path, port, store)
                if moment == 1:
                    wait(lambda: (spool / "results").is_dir() and any((spool / "results").iterdir()), process)
                    target.start()
            push(source, process)
            wait(lambda: not any((spool / "received").iterdir()) and not any((spool / "results").iterdir()), process)
            wait(lambda: answered(target) >= 2 * number, process)
        finally:
            process.terminate()
            code, peak = ended(process)
            assert code == 0
        seconds = time.monotonic() - begin
        check_results(target, contents, tmp_path)
    print(f"{number} studies pushed: {seconds:.1f} s, {peak:.0f} MiB", file=sys.stderr)


@pytest.mark.parametrize("number", [LARGE])
def test_pulled_studies_are_answered_once(number: int, fp32_bundle: Path, tmp_path: Path) -> None:
    """The run is killed during scoring and during sending. `test_dicomweb` has a quick form of this test."""
    contents = [study(each) for each in range(number)]
    begin = time.monotonic()
    with Orthanc(tmp_path / "a") as source, Orthanc(tmp_path / "b") as target:
        source.add(*contents)
        scores = tmp_path / "scores"
        command = [*LRCLR, "score", source.web, "-o", str(scores), "-b", str(fp32_bundle), "--query", "Modality=DX"]
        command += ["--store", target.web, "--rows-per-part", "20"]
        for reached in (lambda: any(scores.glob("part-*.parquet")), lambda: answered(target) > number // 2):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
            wait(reached, process)
            process.kill()
            process.wait()
        code, peak = ended(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True))
        assert code == 0
        seconds = time.monotonic() - begin
        check_results(target, contents, tmp_path)
    print(f"{number} studies pulled: {seconds:.1f} s, {peak:.0f} MiB", file=sys.stderr)


def accepted(spool: Path) -> int:
    return len(list((spool / "received").glob("*.dcm"))) if spool.is_dir() else 0


def answered(target: Orthanc) -> int:
    try:
        return int(target.get("/statistics")["CountInstances"])
    except OSError:
        # The archive is stopped.
        return 0


def ended(process: subprocess.Popen[str]) -> tuple[int, float]:
    """Exit code of a process, when it has ended, and its largest resident size in MiB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, usage.ru_maxrss / 1024
