"""Names and identifiers in the places where hospitals have them do not appear in files or output of lrclr.

There are three kinds. Text in DICOM tags and in reports never appears. The name of a file appears only in the answer
about this file, and in an error on the terminal where the file was given. Names of findings appear in the answers,
their prompts never.
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
class InputsAndOutputs:
    """Input files full of identifiers, and folders that are empty before a command runs."""

    given: Path
    outputs: Path
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
    """The fp32 bundle. Shared: copy it before changing it."""
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture
def folders(tmp_path: Path) -> InputsAndOutputs:
    folders = InputsAndOutputs(*(tmp_path / name for name in ("given", "made", "temporary")))
    for folder in (folders.images, folders.outputs, folders.temporary):
        folder.mkdir(parents=True)
    rows = []
    for number, damage in enumerate(DAMAGE):
        study = pydicom.dcmread(SAMPLES[number % len(SAMPLES)].path("dicom"))
        for tag, value in {**TAGS, **damage}.items():
            setattr(study, tag, value)
        # All files differ, since an image must not be in two splits.
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
def run(folders: InputsAndOutputs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``lrclr --debug`` with a temporary folder of the test. The output is read at descriptors 1 and 2."""
    monkeypatch.setenv("TMPDIR", str(folders.temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(folders.given)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        given = ["--debug", *map(str, arguments)]
        capfd.readouterr()
        code = main(given)
        return subprocess.CompletedProcess(given, code, *capfd.readouterr())

    return run


def content(path: Path) -> str:
    """All text in a file, decompressed where necessary."""
    text = path.read_bytes().decode("latin-1")
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        text += f"{table.to_pylist()} {table.schema.metadata}"
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
            text += str(image.info)
    return text


def files_below(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and content of each file below a folder."""
    for path in sorted(folder.rglob("*")):
        yield str(path.relative_to(folder)), content(path) if path.is_file() else ""


def secrets_in(text: str, secrets: tuple[str, ...]) -> list[str]:
    """The secrets that a text contains, as they are or in UTF-16."""
    return [secret for secret in secrets if secret in text or "\0".join(secret) in text]


def check_no_patient_data(folders: InputsAndOutputs, *output: str, named: bool = False) -> None:
    """Output and files contain no patient data, and the files no file name unless `named`."""
    for text in output:
        assert secrets_in(text, INSIDE) == []
    for folder in (folders.outputs, folders.temporary):
        for name, text in files_below(folder):
            assert (name, secrets_in(name + text, INSIDE)) == (name, [])
            assert named or (name, secrets_in(name + text, (FILE,))) == (name, [])


def test_predict(folders: InputsAndOutputs, bundle: Path, run: Run) -> None:
    common = ("predict", folders.images, "-b", bundle, "--findings", folders.findings)
    for extra in (("--csv",), ("--json", "--heatmap", folders.outputs)):
        done = run(*common, *extra)
        assert done.returncode == 1
        assert f"{FILE}0.dcm" in done.stdout
        assert f"{FILE}cut.dcm" in done.stderr
        check_no_patient_data(folders, done.stdout, done.stderr, named=True)
    assert len(list(folders.outputs.iterdir())) == WHOLE  # a picture is named after its radiograph


def test_score(folders: InputsAndOutputs, bundle: Path, run: Run) -> None:
    out = folders.outputs / "scores"
    for source in (folders.images, folders.manifest):
        done = run("score", source, "-o", out, "-b", bundle, "--findings", folders.findings, "--rescore")
        assert done.returncode == 1
        check_no_patient_data(folders, done.stdout, done.stderr, named=True)
        for name, text in files_below(out):
            if secrets_in(name + text, (FILE,)):
                assert name.endswith(".parquet"), f"{name} is not a row about a file, but names one"


def test_evaluate(folders: InputsAndOutputs, bundle: Path, run: Run) -> None:
    arguments = ("-o", folders.outputs / "report", "--scores", folders.outputs / "scores.npz", "--bootstrap", 10)
    command = ("evaluate", bundle, folders.bad_manifest, "--findings", folders.findings, *arguments)
    done = run(*command)
    assert done.returncode == 1, done.stderr
    check_no_patient_data(folders, done.stdout, done.stderr)
    done = run(*command, "--skip-bad-rows")
    assert done.returncode == 0, done.stderr
    check_no_patient_data(folders, done.stdout, done.stderr)


@pytest.mark.slow
def test_train(folders: InputsAndOutputs, checkpoint_folder: Path, run: Run) -> None:
    options = ("--epochs", 1, "--batch-size", 2, "--workers", 0, "--findings", folders.findings)
    command = ("train", folders.bad_manifest, "--base", checkpoint_folder, "-o", folders.outputs / "run", *options)
    done = run(*command)
    assert done.returncode == 1, done.stderr
    check_no_patient_data(folders, done.stdout, done.stderr)
    done = run(*command, "--skip-bad-rows")
    assert done.returncode == 0, done.stderr
    for text in (done.stdout, done.stderr):
        assert secrets_in(text, INSIDE) == []
    forbidden = (*(secret for secret in INSIDE if secret != PROMPTED), FILE)
    for name, text in files_below(folders.outputs):
        assert (name, secrets_in(name + text, forbidden)) == (name, [])


@pytest.mark.slow
def test_bench(folders: InputsAndOutputs, bundle: Path, run: Run) -> None:
    brief = ("--what", "files", "--batch", 1, "--concurrency", 1, *bundles.SHORT_WARMUP)
    image = folders.images / f"{FILE}0.dcm"
    done = run("bench", bundle, "-o", folders.outputs / "bench", "--file", image, *brief)
    assert done.returncode == 0, done.stderr
    assert {path.suffix for path in (folders.outputs / "bench").iterdir()} == {".json", ".md", ".html"}
    check_no_patient_data(folders, done.stdout, done.stderr)


def test_deploy(folders: InputsAndOutputs, bundle: Path, run: Run) -> None:
    for kind in ("kubernetes", "kserve"):
        done = run("deploy", kind, bundle, "-o", folders.outputs / kind, "--image", "registry.test/lrclr:1")
        assert done.returncode == 0, done.stderr
        check_no_patient_data(folders, done.stdout, done.stderr)


def test_wrong_files(folders: InputsAndOutputs, bundle: Path, run: Run) -> None:
    """Invalid files are refused without being quoted."""
    long = folders.given / "long.toml"
    long.write_text(f'[[finding]]\nname = "Edema"\npositive = ["{PROMPTED} {"edema " * 99}"]\n')
    twice = folders.given / "twice.toml"
    twice.write_text(f'[[finding]]\nname = "Edema"\npositive = ["{PROMPTED}", "{PROMPTED}"]\n')
    for findings in (long, twice):
        done = run("predict", folders.images, "-b", bundle, "--findings", findings)
        assert done.returncode != 0
        check_no_patient_data(folders, done.stdout, done.stderr)
    for manifest in (folders.images / f"{FILE}0.dcm", folders.bad_manifest):
        done = run("evaluate", bundle, manifest)
        assert done.returncode != 0
        check_no_patient_data(folders, done.stdout, done.stderr)


def shared(since: float) -> dict[Path, str]:
    """Names and content of shared memory that was created or written after a time."""
    contents = {}
    for path in Path("/dev/shm").iterdir():
        # Shared memory of other tests may disappear at any time.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_mtime > since:
                contents[path] = content(path)
    return contents


@pytest.mark.triton
def test_serve(folders: InputsAndOutputs, bundle: Path, run: Run) -> None:
    ports = ("--grpc-port", 0, "--http-port", 0, "--metrics-port", 0, "--shared-memory", "--verbose", "--instances", 2)
    log = folders.temporary / "serve.log"
    started = time.time() - 1
    environment = bundles.environment(TMPDIR=str(folders.temporary))
    command = [*bundles.LRCLR, "serve", str(bundle), *(str(port) for port in ports)]
    with log.open("w") as file:
        server = subprocess.Popen(command, text=True, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        bundles.wait_until(lambda: "gRPC" in log.read_text(), server)
        addresses = dict(line.split()[:2] for line in log.read_text().splitlines() if len(line.split()) > 1)
        for extra in ((), ("--heatmap", folders.outputs)):
            done = run(
                "predict",
                folders.images,
                "--server",
                addresses["gRPC"],
                "--findings",
                folders.findings,
                *extra,
            )
            assert done.returncode == 1
            assert f"{FILE}0.dcm" in done.stdout
            assert f"{FILE}cut.dcm" in done.stderr
            check_no_patient_data(folders, done.stdout, done.stderr, named=True)
        with urllib.request.urlopen(addresses["metrics"]) as page:
            metrics = page.read().decode()
        assert "lrclr" in metrics
        holding = [path for path, held in shared(started).items() if secrets_in(held, INSIDE)]
        assert holding  # Triton passes whole files to its backends through it
        assert {path.stat().st_mode & 0o077 for path in holding} == {0}
        assert secrets_in(metrics, (*INSIDE, FILE)) == []
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    for path, held in shared(started).items():
        assert secrets_in(f"{path.name} {held}", (*INSIDE, FILE)) == []
    assert secrets_in(log.read_text(), (*INSIDE, FILE)) == []


def test_web(folders: InputsAndOutputs, bundle: Path) -> None:
    log = folders.temporary / "web.log"
    environment = bundles.environment(TMPDIR=str(folders.temporary))
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
        for path in sorted(folders.images.iterdir()):
            kept = send("/v1/images", path.read_bytes(), "application/dicom")
            assert secrets_in(kept, INSIDE) == []
            if '"id"' not in kept:
                continue
            number = json.loads(kept)["id"]
            for body in (question, wrong, b'{"prompts": 7}'):
                for asked in ("findings", "heatmap"):
                    assert secrets_in(send(f"/v1/images/{number}/{asked}", body, "application/json"), INSIDE) == []
            # The report belongs to the patient's study. It contains the name and stays in memory.
            assert NAME in send(f"/v1/images/{number}/report", question, "application/json")
        with urllib.request.urlopen(f"{url}/metrics") as page:
            assert secrets_in(page.read().decode(), (*INSIDE, number)) == []
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    check_no_patient_data(folders)
    assert "/v1" not in log.read_text()
