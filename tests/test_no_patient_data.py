"""Names and identifiers, planted wherever a hospital has them, are in nothing that lrclr writes or says.

Three kinds of them. What is in a DICOM file's tags or in a manifest's reports is nowhere. A file's name is in the
answer about that file, and in an error on the terminal where it was given. A finding's name is in the answers, its
prompts are nowhere.
"""

from __future__ import annotations

import contextlib
import csv
import json
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from lrclr.cli import main
from lrclr.samples import SAMPLES
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Run = Callable[..., subprocess.CompletedProcess[str]]

NAME, NUMBER, BORN, COMMENT = "QUUXMANN", "MRN7741903", "19310207", "COUGHSATNIGHT"
UID, ACCESSION, PHYSICIAN, SITE = "1.2.826.0.7741.55", "ACC5550123", "DRZEBRA", "StVeitKlinik"
REPORTED, PROMPTED, FILE = "GRANDMAHILDE", "BYDROKAPI", "okapifile"
TAGS = {
    "PatientName": f"{NAME}^IRMGARD",
    "PatientID": NUMBER,
    "PatientBirthDate": BORN,
    "PatientComments": COMMENT,
    "StudyInstanceUID": UID,
    "AccessionNumber": ACCESSION,
    "ReferringPhysicianName": PHYSICIAN,
    "InstitutionName": SITE,
}
INSIDE = (NAME, "IRMGARD", NUMBER, BORN, COMMENT, UID, ACCESSION, PHYSICIAN, SITE, REPORTED, PROMPTED)
WHOLE = 6
DAMAGE: tuple[dict[str, object], ...] = (
    *({},) * WHOLE,
    {"BitsAllocated": 13},
    {"PhotometricInterpretation": NAME},
    {"PixelData": encapsulate([NAME.encode() * 10])},
    {"Rows": 1, "ImageComments": COMMENT},
)


@dataclass(frozen=True)
class Planted:
    """Files full of identifiers, and folders that are empty until a command runs."""

    given: Path
    made: Path
    temporary: Path

    @property
    def images(self) -> Path:
        return self.given / "images"

    @property
    def findings(self) -> Path:
        return self.given / "findings.toml"

    @property
    def manifest(self) -> Path:
        return self.given / "manifest.csv"

    @property
    def bad_manifest(self) -> Path:
        return self.given / "bad.csv"


@pytest.fixture(scope="session")
def bundle(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared: copy it before changing anything."""
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture
def planted(tmp_path: Path) -> Planted:
    folders = Planted(*(tmp_path / name for name in ("given", "made", "temporary")))
    for folder in (folders.images, folders.made, folders.temporary):
        folder.mkdir(parents=True)
    rows = []
    for number, damage in enumerate(DAMAGE):
        study = pydicom.dcmread(SAMPLES[number % len(SAMPLES)].path("dicom"))
        for tag, value in {**TAGS, **damage}.items():
            setattr(study, tag, value)
        # No two files are the same: images of one split must not be in another.
        study.InstanceNumber = number
        path = folders.images / f"{FILE}{number}.dcm"
        study.save_as(path)
        rows.append(
            {
                "image": f"images/{path.name}",
                "report": f"Edema {number}. {REPORTED} coughs.",
                "split": ("train", "validation", "test")[number % 3],
                "patient": f"{NUMBER}-{number}",
                "Edema": number // 3 % 2,
            }
        )
    whole = path.read_bytes()
    (folders.images / f"{FILE}cut.dcm").write_bytes(whole[: len(whole) // 2])
    rows.append({**rows[0], "image": f"images/{FILE}gone.dcm"})
    for name, bad in ((folders.manifest, []), (folders.bad_manifest, [{**rows[1], "Edema": REPORTED}])):
        with name.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows([*rows, *bad])
    folders.findings.write_text(f'[[finding]]\nname = "Edema"\npositive = ["edema, {PROMPTED}"]\n')
    return folders


@pytest.fixture
def run(planted: Planted, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``lrclr --debug`` with the temporary folder of the test; what it prints is read at descriptors 1 and 2."""
    monkeypatch.setenv("TMPDIR", str(planted.temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(planted.given)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        given = ["--debug", *map(str, arguments)]
        capfd.readouterr()
        code = main(given)
        return subprocess.CompletedProcess(given, code, *capfd.readouterr())

    return run


def content(path: Path) -> str:
    """Everything that a file says, packed or not."""
    text = path.read_bytes().decode("latin-1")
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        text += f"{table.to_pylist()} {table.schema.metadata}"
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
            text += str(image.info)
    return text


def written(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and content of each file below a folder."""
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)), content(path) if path.is_file() else ""


def found(text: str, secrets: tuple[str, ...]) -> list[str]:
    """Those of the secrets that a text holds, as they are or in UTF-16."""
    return [one for one in secrets if one in text or "\0".join(one) in text]


def check(planted: Planted, *said: str, named: bool = False) -> None:
    """Nothing of a patient is in what was said or written, and unless `named` no file's name is in what was written."""
    for text in said:
        assert found(text, INSIDE) == []
    for folder in (planted.made, planted.temporary):
        for name, text in written(folder):
            assert (name, found(name + text, INSIDE)) == (name, [])
            assert named or (name, found(name + text, (FILE,))) == (name, [])


def test_predict(planted: Planted, bundle: Path, run: Run) -> None:
    common = ("predict", planted.images, "-b", bundle, "--findings", planted.findings)
    for extra in (("--csv",), ("--json", "--heatmap", planted.made)):
        done = run(*common, *extra)
        assert done.returncode == 1
        assert f"{FILE}0.dcm" in done.stdout
        assert f"{FILE}cut.dcm" in done.stderr
        check(planted, done.stdout, done.stderr, named=True)
    assert len(list(planted.made.iterdir())) == WHOLE  # a picture is called as the file that it is of


def test_score(planted: Planted, bundle: Path, run: Run) -> None:
    out = planted.made / "scores"
    for source in (planted.images, planted.manifest):
        done = run("score", source, "-o", out, "-b", bundle, "--findings", planted.findings, "--rescore")
        assert done.returncode == 1
        check(planted, done.stdout, done.stderr, named=True)
        for name, text in written(out):
            if found(name + text, (FILE,)):
                assert name.endswith(".parquet"), f"{name} is not a row about a file, but names one"


def test_evaluate(planted: Planted, bundle: Path, run: Run) -> None:
    arguments = ("-o", planted.made / "report", "--scores", planted.made / "scores.npz", "--bootstrap", 10)
    command = ("evaluate", bundle, planted.bad_manifest, "--findings", planted.findings, *arguments)
    done = run(*command)
    assert done.returncode == 1, done.stderr
    check(planted, done.stdout, done.stderr)
    done = run(*command, "--skip-bad-rows")
    assert done.returncode == 0, done.stderr
    check(planted, done.stdout, done.stderr)


def test_train(planted: Planted, checkpoint_folder: Path, run: Run) -> None:
    options = ("--epochs", 1, "--batch-size", 2, "--workers", 0, "--findings", planted.findings)
    command = ("train", planted.bad_manifest, "--base", checkpoint_folder, "-o", planted.made / "run", *options)
    done = run(*command)
    assert done.returncode == 1, done.stderr
    check(planted, done.stdout, done.stderr)
    done = run(*command, "--skip-bad-rows")
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert found(text, INSIDE) == []
    for name, text in written(planted.made):
        assert (name, found(name + text, (*(one for one in INSIDE if one != PROMPTED), FILE))) == (name, [])


def test_bench(planted: Planted, bundle: Path, run: Run) -> None:
    files = [argument for path in sorted(planted.images.glob("*[0-2].dcm")) for argument in ("--file", path)]
    one = ("--what", "files", "--batch", 1, "--concurrency", 1, "--rate", "none", "--no-peak")
    done = run("bench", bundle, "-o", planted.made / "bench", *files, *one, "--seconds", 0.2, "--rounds", 2)
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in (planted.made / "bench").iterdir()} == {".json", ".md", ".html"}
    check(planted, done.stdout, done.stderr)


def test_deploy(planted: Planted, bundle: Path, run: Run) -> None:
    for kind in ("kubernetes", "kserve"):
        done = run("deploy", kind, bundle, "-o", planted.made / kind, "--image", "registry.test/lrclr:1")
        assert done.returncode == 0, done.stderr
        check(planted, done.stdout, done.stderr)


def test_wrong_files(planted: Planted, bundle: Path, run: Run) -> None:
    """What cannot be read is refused without being quoted."""
    long = planted.given / "long.toml"
    long.write_text(f'[[finding]]\nname = "Edema"\npositive = ["{PROMPTED} {"edema " * 99}"]\n')
    twice = planted.given / "twice.toml"
    twice.write_text(f'[[finding]]\nname = "Edema"\npositive = ["{PROMPTED}", "{PROMPTED}"]\n')
    for findings in (long, twice):
        done = run("predict", planted.images, "-b", bundle, "--findings", findings)
        assert done.returncode != 0
        check(planted, done.stdout, done.stderr)
    for manifest in (planted.images / f"{FILE}0.dcm", planted.bad_manifest):
        done = run("evaluate", bundle, manifest)
        assert done.returncode != 0
        check(planted, done.stdout, done.stderr)


def shared(since: float) -> dict[Path, str]:
    """Shared memory that was made or written after a time, and what it holds."""
    held = {}
    for path in Path("/dev/shm").iterdir():
        # That of other tests may go at any time.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_mtime > since:
                held[path] = content(path)
    return held


@pytest.mark.triton
def test_serve(planted: Planted, bundle: Path, run: Run) -> None:
    ports = ("--grpc-port", 0, "--http-port", 0, "--metrics-port", 0, "--shared-memory", "--verbose", "--instances", 2)
    log = planted.temporary / "serve.log"
    started = time.time() - 1
    environment = bundles.environment(TMPDIR=str(planted.temporary))
    command = [*bundles.LRCLR, "serve", str(bundle), *(str(one) for one in ports)]
    with log.open("w") as file:
        server = subprocess.Popen(command, text=True, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        bundles.wait_until(lambda: "gRPC" in log.read_text(), server)
        addresses = dict(line.split()[:2] for line in log.read_text().splitlines() if len(line.split()) > 1)
        for extra in ((), ("--heatmap", planted.made)):
            done = run(
                "predict",
                planted.images,
                "--server",
                addresses["gRPC"],
                "--findings",
                planted.findings,
                *extra,
            )
            assert done.returncode == 1
            assert f"{FILE}0.dcm" in done.stdout
            assert f"{FILE}cut.dcm" in done.stderr
            check(planted, done.stdout, done.stderr, named=True)
        with urllib.request.urlopen(addresses["metrics"]) as page:
            metrics = page.read().decode()
        assert "lrclr" in metrics
        holding = [path for path, held in shared(started).items() if found(held, INSIDE)]
        assert holding  # Triton hands whole files to its backends there
        assert {path.stat().st_mode & 0o077 for path in holding} == {0}
        assert found(metrics, (*INSIDE, FILE)) == []
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    for path, held in shared(started).items():
        assert found(f"{path.name} {held}", (*INSIDE, FILE)) == []
    assert found(log.read_text(), (*INSIDE, FILE)) == []


def test_web(planted: Planted, bundle: Path) -> None:
    log = planted.temporary / "web.log"
    environment = bundles.environment(TMPDIR=str(planted.temporary))
    command = [*bundles.LRCLR, "--debug", "web", str(bundle), "--port", "0"]
    with log.open("w") as file:
        server = subprocess.Popen(command, text=True, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        bundles.wait_until(lambda: "Ctrl-C" in log.read_text(), server)
        url = log.read_text().split()[0]

        def send(path: str, content: bytes, kind: str) -> str:
            request = urllib.request.Request(url + path, content, {"Content-Type": kind})
            try:
                with urllib.request.urlopen(request) as response:
                    return str(response.read(), "latin-1")
            except urllib.error.HTTPError as error:
                with error:
                    return str(error.read(), "latin-1")

        question = json.dumps({"findings": [{"name": "Edema", "positive": [f"edema, {PROMPTED}"]}]}).encode()
        wrong = json.dumps({"findings": [{"name": "Edema", "positive": [f"{PROMPTED} {'edema ' * 99}"]}]}).encode()
        for path in sorted(planted.images.iterdir()):
            kept = send("/v1/images", path.read_bytes(), "application/dicom")
            assert found(kept, INSIDE) == []
            if '"id"' not in kept:
                continue
            number = json.loads(kept)["id"]
            for body in (question, wrong, b'{"prompts": 7}'):
                for asked in ("findings", "heatmap"):
                    assert found(send(f"/v1/images/{number}/{asked}", body, "application/json"), INSIDE) == []
            # The report is for the patient's study: it names the patient, and stays in memory.
            assert NAME in send(f"/v1/images/{number}/report", question, "application/json")
        with urllib.request.urlopen(f"{url}/metrics") as page:
            assert found(page.read().decode(), (*INSIDE, number)) == []
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    check(planted)
    assert "/v1" not in log.read_text()
