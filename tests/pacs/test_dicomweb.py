"""`lrclr score` with a DICOMweb server: a real Orthanc, and an Orthanc behind a proxy that fails."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pydicom
import pytest

from lrclr.cli import main
from lrclr.errors import ImageError, ServerError, ServerUnavailableError, UsageError
from lrclr.pacs import DicomwebClient, DicomwebOptions, Query, find_web_images
from tests.bundles import LRCLR, run, wait_until
from tests.pacs.conftest import STUDIES
from tests.pacs.faulty import proxy
from tests.pacs.studies import PATIENT, study

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pacs.faulty import Answer, Fault, Request
    from tests.pacs.orthanc import Orthanc

    Capture = pytest.CaptureFixture[str]

QUICK = DicomwebOptions(first_pause=0.01)
QUERY = Query.parse(["Modality=DX"])


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def test_every_study_once_and_results_in_the_archive(
    archive: Orthanc, target: Orthanc, fp32_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = ["score", archive.web, "-o", str(tmp_path / "scores"), "-b", str(fp32_bundle), "--query", "Modality=DX"]
    command += ["--query", "StudyDate=20260101-20260108", "--store", target.web, "--sr", str(tmp_path / "sr")]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(captured.out)
    assert (summary["images"], summary["scored"], summary["failed"]) == (8, 8, 0)
    found = rows(tmp_path / "scores")
    wanted = {pydicom.dcmread(BytesIO(study(number))).SOPInstanceUID for number in range(8)}
    assert {row["file"].split("/")[2] for row in found} == wanted
    assert all(row["status"] == "scored" for row in found)
    # The results are in the archive, in the studies of the images.
    reports = [pydicom.dcmread(BytesIO(target.file(each))) for each in target.instances("SR")]
    captures = target.instances("SC")
    evidence = Counter(
        report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        .ReferencedSOPInstanceUID
        for report in reports
    )  # fmt: skip
    assert {uid: evidence[uid] for uid in wanted} == dict.fromkeys(wanted, 1)
    assert len(list((tmp_path / "sr").iterdir())) == 8
    # No patient data are printed.
    assert PATIENT not in captured.err + captured.out
    assert "SECRET" not in captured.err + captured.out
    # A second run fetches, scores and stores nothing.
    with proxy(archive.url, lambda number, request: None) as watched:
        assert main([command[0], f"{watched.url}/dicom-web", *command[2:], "--json"]) == 0
        assert not [request for request in watched.seen if "/instances/" in request.path]
    captured = capsys.readouterr()
    assert json.loads(captured.out)["kept"] == 8
    assert "0 images now, 8 before" in captured.err
    assert sorted(target.instances("SC")) == sorted(captures)
    # A report that was deleted is written again.
    next((tmp_path / "sr").iterdir()).unlink()
    assert main(command) == 0
    assert "1 images now, 7 before" in capsys.readouterr().err
    assert len(list((tmp_path / "sr").iterdir())) == 8
    assert len(target.instances("SR")) == len(reports)


@pytest.mark.slow
def test_each_image_is_fetched_once_for_its_scores_and_its_results(
    archive: Orthanc, target: Orthanc, fp32_bundle: Path, tmp_path: Path, capsys: Capture
) -> None:
    refusing = True

    def fault(_number: int, request: Request) -> Answer | None:
        # The archive does not take the results of the first run.
        return (400, {}, b"") if refusing and request.method == "POST" else None

    with proxy(archive.url, lambda *_: None) as source, proxy(target.url, fault) as sink:
        command = ["score", f"{source.url}/dicom-web", "-o", str(tmp_path / "scores"), "-b", str(fp32_bundle)]
        command += ["--query", "Modality=DX", "--query", "StudyDate=20260109-20260112"]
        command += ["--sr", str(tmp_path / "sr"), "--store", f"{sink.url}/dicom-web"]

        def fetched() -> list[int]:
            paths = Counter(request.path for request in source.seen if "/instances/" in request.path)
            source.seen.clear()
            return list(paths.values())

        assert main([*command[:-2], "--sc", str(tmp_path / "sc")]) == 0
        assert fetched() == [1] * 4
        assert "4 images now, 0 before" in capsys.readouterr().err
        assert len(list((tmp_path / "sr").iterdir())) == len(list((tmp_path / "sc").iterdir())) == 4
        # For another destination the rows suffice, and each image is fetched again.
        assert main(command) == 1
        assert "4 × it answered with status 400" in capsys.readouterr().err
        refusing = False
        fetched()
        assert main(command) == 0
        assert fetched() == [1] * 4
        assert "4 images now, 0 before" in capsys.readouterr().err


def test_a_server_that_falls_silent_does_not_hold_up_a_run(archive: Orthanc, fp32_bundle: Path, tmp_path: Path) -> None:
    """The first images are waited for with patience; then the run ends soon, and the next run fetches the others."""
    from lrclr.archive import ScoreOptions, score

    silent = True

    def fault(_number: int, request: Request) -> Answer | None:
        return (0, {}, b"") if silent and "/instances/" in request.path else None

    with proxy(archive.url, fault) as watched:
        source = find_web_images(DicomwebClient(f"{watched.url}/dicom-web", QUICK), QUERY)
        watched.seen.clear()
        summary = score(source, tmp_path, ScoreOptions(fp32_bundle))
        assert (summary.scored, summary.failed) == (0, STUDIES)
        assert "the file cannot be read: it did not answer the requests before" in summary.failures
        # Some threads may be in the midst of their requests when the third fails.
        assert len(watched.seen) < STUDIES * QUICK.attempts / 2
        silent = False
        again = find_web_images(DicomwebClient(f"{watched.url}/dicom-web", QUICK), QUERY)
        assert score(again, tmp_path, ScoreOptions(fp32_bundle)).scored == STUDIES


@pytest.mark.parametrize(
    ("content", "why", "right"),
    [
        (study(0), "the server sent another one", 1),
        (b"<html>Zzyzx</html>", "the server's answer is not a DICOM file", 0),
    ],
)
def test_something_else_than_the_image_that_was_asked_for(
    content: bytes, why: str, right: int, archive: Orthanc, fp32_bundle: Path, tmp_path: Path
) -> None:
    """A row would give one patient the scores of another. The next run asks again."""
    from lrclr.archive import ScoreOptions, score

    mistaken = True

    def fault(_number: int, request: Request) -> Answer | None:
        if not mistaken or "/instances/" not in request.path:
            return None
        return 200, {"Content-Type": "application/dicom"}, content

    with proxy(archive.url, fault) as watched:
        source = find_web_images(DicomwebClient(f"{watched.url}/dicom-web", QUICK), QUERY)
        summary = score(source, tmp_path, ScoreOptions(fp32_bundle))
        assert summary.failures == {f"the file cannot be read: {why}": STUDIES - right}
        mistaken = False
        assert score(source, tmp_path, ScoreOptions(fp32_bundle)).scored == STUDIES - right


PART = b"--x\r\nContent-Type: application/dicom\r\n\r\n"
MULTIPART = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=x'}


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (MULTIPART, PART + b"DICM"),
        (MULTIPART, b""),
        (MULTIPART, b"--x--"),
        ({"Content-Type": "multipart/related"}, PART + b"DICM\r\n--x--"),
        ({"Content-Type": "text/html"}, b"<html>Zzyzx</html>"),
        ({}, b"Zzyzx"),
    ],
)
def test_a_damaged_answer_to_a_retrieval(headers: dict[str, str], body: bytes) -> None:
    """The image is tried again by the next run."""
    with proxy("", lambda *_: (200, headers, body)) as watched, pytest.raises(ServerUnavailableError) as caught:
        DicomwebClient(f"{watched.url}/dicom-web", QUICK).retrieve("1.2", "1.3", "1.4")
    assert "damaged" in str(caught.value)
    assert "Zzyzx" not in str(caught.value)


def test_a_server_that_hangs() -> None:
    """Before its answer, and in the midst of it."""
    options = DicomwebOptions(first_pause=0.01, timeout=0.2, attempts=2)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        client = DicomwebClient(f"http://127.0.0.1:{server.getsockname()[1]}/dicom-web", options)
        with pytest.raises(ServerUnavailableError, match="did not answer in time"):
            client.retrieve("1.2", "1.3", "1.4")

        def begin() -> None:
            for _ in range(4):
                # Two connections wait since before.
                connection, _address = server.accept()
                connections.append(connection)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom\r\nContent-Length: 100\r\n\r\nx"
                )

        connections: list[socket.socket] = []
        beginning = pool.submit(begin)
        with pytest.raises(ServerUnavailableError):
            client.retrieve("1.2", "1.3", "1.4")
        beginning.result()
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"])
def test_a_server_that_drips(head: bytes) -> None:
    """In the headers, and in the body: a limit on silence alone would never end it."""
    options = DicomwebOptions(timeout=0.4, attempts=1)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        client = DicomwebClient(f"http://127.0.0.1:{server.getsockname()[1]}/dicom-web", options)

        def drip() -> None:
            connection, _address = server.accept()
            with connection, suppress(ConnectionError):
                connection.sendall(head)
                for byte in b"HTTP/1.1 200 OK" * 10:
                    connection.sendall(bytes([byte]))
                    time.sleep(0.05)

        dripping, begun = pool.submit(drip), time.monotonic()
        with pytest.raises(ServerUnavailableError, match="did not answer in time"):
            client.retrieve("1.2", "1.3", "1.4")
        assert time.monotonic() - begun < 3
        client._session().close()
        dripping.result()


@pytest.mark.parametrize("source", ["dicomweb://user:s3cret@pacs.example/x", "s3://bucket/x", "FTP://user:s3cret@x/"])
def test_other_schemes_are_refused_without_their_passwords(source: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["score", source, "-o", str(tmp_path / "scores")]) == 2
    captured = capsys.readouterr()
    assert "is not supported" in captured.err
    assert "s3cret" not in captured.err + captured.out


def test_a_killed_run_goes_on(archive: Orthanc, fp32_bundle: Path, tmp_path: Path) -> None:
    fetched: list[str] = []

    def note(_number: int, request: Request) -> Answer | None:
        if "/instances/" in request.path:
            fetched.append(request.path)
            if len(fetched) == 8 and process.poll() is None:
                # Images that were already fetched are scored meanwhile.
                wait_until(lambda: any(tmp_path.glob("part-*.parquet")), process)
                process.kill()
        return None

    with proxy(archive.url, note) as watched:
        command = [*LRCLR, "score", f"{watched.url}/dicom-web", "-o", str(tmp_path), "-b", str(fp32_bundle)]
        command += ["--query", "Modality=DX", "--workers", "1", "--rows-per-part", "1"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True)
        process.wait(120)
        assert process.returncode < 0
        before = {row["file"]: row for row in rows(tmp_path)}
        assert 0 < len(before) < STUDIES
        fetched.clear()
        assert main(command[len(LRCLR) :]) == 0
        assert len(fetched) == STUDIES - len(before)
    after = {row["file"]: row for row in rows(tmp_path)}
    assert len(after) == STUDIES
    assert all(after[file] == row for file, row in before.items())


def test_what_is_final_and_what_is_not(archive: Orthanc, fp32_bundle: Path, tmp_path: Path) -> None:
    images = find_web_images(DicomwebClient(archive.web), QUERY).items
    gone, busy = images[0].name.split("/")[2], images[1].name.split("/")[2]
    repaired = False

    def fault(_number: int, request: Request) -> Answer | None:
        if gone in request.path:
            return 404, {}, b""
        if busy in request.path and not repaired:
            return 503, {}, b""
        return None

    from lrclr.archive import ScoreOptions, score

    with proxy(archive.url, fault) as watched:
        source = find_web_images(DicomwebClient(f"{watched.url}/dicom-web", DicomwebOptions(first_pause=0.01)), QUERY)
        summary = score(source, tmp_path, ScoreOptions(fp32_bundle))
        assert sorted(summary.failures) == [
            "the file cannot be read: it answered with status 503",
            "the file cannot be read: the server no longer has it",
        ]
        asked = len([request for request in watched.seen if busy in request.path])
        assert asked == QUICK.attempts
        assert {row["file"].split("/")[2]: row["final"] for row in rows(tmp_path) if row["error"]} == {
            gone: True,
            busy: False,
        }
        repaired = True
        watched.seen.clear()
        summary = score(source, tmp_path, ScoreOptions(fp32_bundle))
        assert (summary.scored, summary.failed) == (1, 1)
        assert not [request for request in watched.seen if gone in request.path]


def _once(*answers: Answer) -> Fault:
    return lambda number, _: answers[number] if number < len(answers) else None


@pytest.mark.parametrize(
    "answers",
    [
        [(429, {"Retry-After": "0"}, b"")] * 3,
        [(500, {}, b"Zzyzx"), (502, {}, b""), (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"")],
        [(0, {}, b"")] * 2,
    ],
)
def test_a_server_that_is_busy_is_asked_again(archive: Orthanc, answers: list[Answer]) -> None:
    with proxy(archive.url, _once(*answers)) as watched:
        client = DicomwebClient(f"{watched.url}/dicom-web", QUICK)
        assert len(list(client.search("/studies", [("ModalitiesInStudy", "DX")]))) == STUDIES


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((503, {}, b"Zzyzx"), ServerUnavailableError, "status 503"),
        ((401, {}, b"Zzyzx"), ServerError, "a token is missing, wrong or too old"),
        ((403, {}, b""), ServerError, "--token-file"),
        ((302, {"Location": "http://127.0.0.1/x"}, b""), ServerError, "another address"),
        ((400, {}, b"Zzyzx"), ServerError, "status 400"),
        ((200, {}, b"<html>Zzyzx</html>"), ServerError, "not DICOM JSON"),
        ((200, {}, b'[{"0020000D": {"vr": "UI", "Value": ["../../x"]}}]'), ServerError, "lacks a UID"),
        ((200, {}, b"[" * 100_000), ServerError, "not DICOM JSON"),
        ((0, {}, b""), ServerUnavailableError, "the connection failed"),
    ],
)
def test_a_server_that_fails_is_told_of_in_a_sentence(
    archive: Orthanc, answer: Answer, kind: type[Exception], words: str
) -> None:
    with proxy(archive.url, lambda *_: answer) as watched, pytest.raises(kind, match=words) as caught:
        find_web_images(DicomwebClient(f"{watched.url}/dicom-web", QUICK), QUERY)
    assert type(caught.value) is kind
    assert "Zzyzx" not in str(caught.value)


def test_pages_and_servers_with_a_lower_limit(archive: Orthanc) -> None:
    """The search continues while the server reports more results, and ends if it repeats a page."""
    pages = [json.dumps([{"0020000D": {"Value": [f"1.{number}"]}}]).encode() for number in range(3)]
    warned = [(200, {"Warning": "299 x: the number of results exceeds the maximum"}, page) for page in pages]
    with proxy(archive.url, _once(*warned, (204, {}, b""))) as watched:
        client = DicomwebClient(f"{watched.url}/dicom-web", QUICK)
        assert len(list(client.search("/studies", []))) == 3
        assert [request.path.split("offset=")[1] for request in watched.seen] == ["0", "1", "2", "3"]
    with proxy(archive.url, lambda *_: warned[0]) as watched, pytest.raises(ServerError, match="offset"):
        list(DicomwebClient(f"{watched.url}/dicom-web", QUICK).search("/studies", []))


def test_pages_that_never_end(archive: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrclr.pacs._web._MOST_RESULTS", 5)

    def page(number: int, _: Request) -> Answer:
        return 200, {"Warning": "299 x"}, json.dumps([{"0020000D": {"Value": [f"1.{number}"]}}] * 2).encode()

    with proxy(archive.url, page) as watched, pytest.raises(ServerError, match="more than 5 results"):
        list(DicomwebClient(f"{watched.url}/dicom-web", QUICK).search("/studies", []))


def test_the_token_is_sent_and_is_in_no_pickle(
    archive: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login x password y\n")
    cases = {"s3cret": "Bearer s3cret", "Basic abc=": "Basic abc="}
    with proxy(archive.url, lambda *_: (204, {}, b"")) as watched:
        url = f"{watched.url}/dicom-web"
        for text, expected in cases.items():
            (tmp_path / "token").write_text(text + "\n")
            client = DicomwebClient(url, DicomwebOptions(token_file=tmp_path / "token"))
            content = pickle.dumps(client)
            assert b"s3cret" not in content
            list(pickle.loads(content).search("/studies", []))
            assert watched.seen[-1].headers["Authorization"] == expected
        monkeypatch.setenv("LRCLR_DICOMWEB_TOKEN", "other")
        list(DicomwebClient(url).search("/studies", []))
        assert watched.seen[-1].headers["Authorization"] == "Bearer other"
        monkeypatch.delenv("LRCLR_DICOMWEB_TOKEN")
        list(DicomwebClient(url).search("/studies", []))
        assert "Authorization" not in watched.seen[-1].headers


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://pacs.example/dicom-web", "without encryption"),
        ("https://user:s3cret@pacs.example/dicom-web", "a user name or a password"),
        ("https:///dicom-web", "cannot be used"),
        ("https://pacs.example/dicom-web?x=1", "cannot be used"),
        ("ftp://pacs.example/", "cannot be used"),
        ("https://[::1/dicom-web", "not a URL"),
    ],
)
def test_urls_that_are_refused(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        DicomwebClient(url)
    assert "s3cret" not in str(caught.value)


def test_plain_http_is_allowed_on_this_machine_or_if_asked() -> None:
    for url in ("http://localhost:8042/dicom-web", "http://[::1]:1/x"):
        DicomwebClient(url)
    DicomwebClient("http://pacs.example/dicom-web", DicomwebOptions(allow_http=True))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["Modality"], "a keyword and a value"),
        (["Modalty=DX"], "Did you mean Modality"),
        (["StudyDate=20260101"], "names no modality"),
        (["Modality=DX", "StudyDate=Zzyzx"], "not a date"),
        (["Modality=CR,DX"], "once for each value"),
        (["Modality=DX\\CR"], "once for each value"),
    ],
)
def test_queries_that_are_refused(texts: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        Query.parse(texts)
    assert "Zzyzx" not in str(caught.value)


def test_a_quiet_day_is_no_failure(archive: Orthanc, fp32_bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["score", archive.web, "-o", str(tmp_path / "scores"), "-b", str(fp32_bundle)]
    command += ["--query", "Modality=DX", "--query", "StudyDate=19990101"]
    assert main(command) == 0
    assert "no image matches the query" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


def test_keys_go_to_the_level_that_has_them(archive: Orthanc) -> None:
    client = DicomwebClient(archive.web)
    some = Query.parse(
        ["Modality=DX", "Modality=CR", "PatientID=SECRET0003", "BodyPartExamined=CHEST", "ViewPosition=PA"]
    )
    (item,) = find_web_images(client, some).items
    assert item.name.count("/") == 2
    assert not find_web_images(client, Query.parse(["Modality=DX", "ViewPosition=LL"])).items
    assert not find_web_images(client, Query.parse(["Modality=MR"])).items


def test_a_server_that_ignores_keys_gives_no_other_modality(archive: Orthanc) -> None:
    """The standard allows this. The proxy removes the modality from every search for series."""
    import requests

    def fault(_number: int, request: Request) -> Answer | None:
        if "/series?" not in request.path:
            return None
        path = request.path.replace("Modality=CR&", "")
        answer = requests.get(archive.url + path, headers={"Accept": "application/dicom+json"}, timeout=30)
        return answer.status_code, {}, answer.content

    def studies(_number: int, request: Request) -> Answer | None:
        return fault(_number, request)

    with proxy(archive.url, studies) as watched:
        client = DicomwebClient(f"{watched.url}/dicom-web", QUICK)
        query = Query({"ModalitiesInStudy": ("DX",), "Modality": ("CR",)})
        assert not find_web_images(client, query).items


def test_an_image_that_is_gone(archive: Orthanc) -> None:
    with pytest.raises(ImageError, match="no longer has it"):
        DicomwebClient(archive.web).retrieve("1.2", "1.3", "1.4")


def test_a_certificate_is_checked(archive: Orthanc, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "both.pem").write_text(key.read_text() + certificate.read_text())
    with proxy(archive.url, lambda *_: None, tmp_path / "both.pem") as watched:
        url = f"{watched.url}/dicom-web"
        with pytest.raises(ServerError, match=r"not trusted.*--ca-file"):
            list(DicomwebClient(url, QUICK).search("/studies", []))
        assert not watched.seen
        assert list(DicomwebClient(url, DicomwebOptions(ca_file=certificate)).search("/studies", []))


@pytest.mark.slow
def test_the_ray_runner_gives_the_same_rows(archive: Orthanc, fp32_bundle: Path, tmp_path: Path) -> None:
    found = []
    for runner in (("local",), ("ray", "--actors", "1")):
        folder = tmp_path / runner[0]
        command = ["score", archive.web, "-o", folder, "-b", fp32_bundle, "--query", "Modality=DX"]
        command += ["--sr", tmp_path / "sr" / runner[0], "--runner", *runner]
        done = run(command, timeout=240)
        assert done.returncode == 0, done.stderr
        found.append(rows(folder))
    assert found[0] == found[1]
    assert len(found[0]) == STUDIES
    reports = [sorted(file.name for file in (tmp_path / "sr" / name).iterdir()) for name in ("local", "ray")]
    assert reports[0] == reports[1]


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"no certificate", "no certificate in PEM")])
def test_certificates_that_cannot_be_read_are_refused_at_once(
    content: bytes | None, reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        DicomwebClient("https://pacs.example/dicom-web", DicomwebOptions(ca_file=file))
