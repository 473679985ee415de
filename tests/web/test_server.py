"""A real uvicorn server: OpenAI's client, limits of connections, a real Triton server behind it, and the command."""

from __future__ import annotations

import base64
import http.client
import select
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from starlette.testclient import TestClient

from lrclr.errors import UsageError
from lrclr.samples import SAMPLES
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer
from lrclr.web import ServerBackend, WebOptions, WebServer, create_app, open_backend, read_token
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrclr import ZeroShotClassifier
    from lrclr.web import BundleBackend

FILE = SAMPLES[1].path().read_bytes()
TOKEN = "a-token-for-the-tests-0123"


def test_the_openai_client_gets_embeddings(running: WebServer, classifier: ZeroShotClassifier) -> None:
    import openai

    url = f"data:image/png;base64,{base64.b64encode(FILE).decode()}"
    wanted = np.stack([*classifier.embed_texts(["pleural effusion"]), *classifier.embed_images([FILE])])
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none") as client:
        inputs = ["pleural effusion", url]
        # By default, the client requests base64.
        for reply in (
            client.embeddings.create(model="lrclr", input=inputs),
            client.embeddings.create(model="lrclr", input=inputs, encoding_format="float"),
        ):
            np.testing.assert_allclose([item.embedding for item in reply.data], wanted, atol=1e-6)
            assert reply.model == f"lrclr-{classifier.spec.sha256[:12]}"
        with pytest.raises(openai.UnprocessableEntityError, match="dimensions"):
            client.embeddings.create(model="lrclr", input="gas", dimensions=7)


def test_the_openai_client_sends_the_token(backend: BundleBackend) -> None:
    import openai

    with WebServer(backend, WebOptions(port=0, token=TOKEN)) as server:
        for key, right in ((TOKEN, True), ("wrong", False)):
            with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) as client:
                if right:
                    assert client.embeddings.create(model="lrclr", input="gas").data
                else:
                    with pytest.raises(openai.AuthenticationError):
                        client.embeddings.create(model="lrclr", input="gas")


def test_an_endless_body_is_refused(backend: BundleBackend) -> None:
    """The server answers before it has read all of the refused body."""
    options = WebOptions(port=0, body_bytes=2**20, body_seconds=0.05)
    with WebServer(backend, options) as server:
        address = urlsplit(server.url).netloc
        headers = {"Content-Type": "application/octet-stream", "Transfer-Encoding": "chunked"}
        connection = http.client.HTTPConnection(address)
        connection.putrequest("POST", "/v1/images")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        part = b"%x\r\n%s\r\n" % (2**16, bytes(2**16))
        for _ in range(17):
            connection.send(part)
        assert connection.getresponse().status == 413
        connection.close()
        # A body that stops is refused, too.
        connection = http.client.HTTPConnection(address)
        connection.putrequest("POST", "/v1/images")
        connection.putheader("Content-Type", "application/octet-stream")
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b"ten bytes.")
        assert connection.getresponse().status == 408
        connection.close()


def test_slow_clients_do_not_block_connections(backend: BundleBackend) -> None:
    """A body that arrives byte by byte is refused, and a silent connection is closed."""
    with WebServer(backend, WebOptions(port=0, body_seconds=0.3)) as server:
        address = urlsplit(server.url)
        slow = http.client.HTTPConnection(address.netloc)
        slow.putrequest("POST", "/v1/images")
        slow.putheader("Content-Type", "application/octet-stream")
        slow.putheader("Content-Length", "1000")
        slow.endheaders()
        assert slow.sock is not None
        slow.sock.settimeout(0.05)
        answer = b""
        for _ in range(900):
            slow.sock.send(b"x")
            with suppress(TimeoutError):
                answer = slow.sock.recv(100)
                break
        assert answer.startswith(b"HTTP/1.1 408 ")
        slow.close()
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: "):
            with socket.create_connection((address.hostname, address.port), timeout=60) as silent:
                silent.sendall(sent)
                assert silent.recv(100) == b""


def test_a_client_that_does_not_read_is_disconnected(backend: BundleBackend) -> None:
    sample = SAMPLES[0].path("dicom")
    with WebServer(backend, WebOptions(port=0, body_seconds=0.3)) as server, socket.socket() as silent:
        address = urlsplit(server.url)
        # More answers than the system keeps for a small window.
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect((address.hostname, address.port))
        silent.sendall(f"GET /samples/{sample.name} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode() * 20)
        # The system tells a client that it is disconnected when the client sends something.
        closed = select.poll()
        closed.register(silent, 0)
        for _ in range(600):
            if closed.poll(100):
                break
            silent.send(b"x")
        else:
            pytest.fail("the client is still connected")
        # One that reads with pauses gets its answer.
        with socket.create_connection((address.hostname, address.port), timeout=60) as reading:
            reading.sendall(
                f"GET /samples/{sample.name} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode()
            )
            answer = b""
            while part := reading.recv(2**16):
                answer += part
                time.sleep(0.1)
        assert answer.endswith(sample.read_bytes())


def test_an_upload_of_a_closed_page_is_removed(backend: BundleBackend) -> None:
    """The file is larger than uvicorn's read-ahead."""
    content = SAMPLES[1].path("dicom").read_bytes()
    with WebServer(backend, WebOptions(port=0)) as server:
        address = urlsplit(server.url)

        def lines() -> str:
            connection = http.client.HTTPConnection(address.netloc)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            connection.close()
            return text

        closed = http.client.HTTPConnection(address.netloc)
        closed.request("POST", "/v1/images", content, {"Content-Type": "application/dicom"})
        closed.close()
        while 'lrclr_web_requests_total{method="POST",path="/v1/images",' not in lines():
            pass
        assert "\nlrclr_web_kept_images 0\n" in lines()


def test_a_port_in_use_is_refused(backend: BundleBackend, running: WebServer) -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        WebServer(backend, WebOptions(port=urlsplit(running.url).port or 0))


def test_tokens_are_generated_or_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRCLR_WEB_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("LRCLR_WEB_TOKEN", f" {TOKEN}\n")
    assert read_token(None) == TOKEN
    file = tmp_path / "token"
    file.write_text("another-token-0123456789\n")
    assert read_token(file) == "another-token-0123456789"
    for text in (b"", b"two words", b"\xff"):
        file.write_bytes(text)
        with pytest.raises(UsageError, match="token"):
            read_token(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_token(tmp_path / "missing")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--host", "0.0.0.0"), "--token-file"),
        (("--model-name", "lrclr"), "--server"),
        (("--server", "127.0.0.1:1", "--engine", "openvino"), "--engine"),
        (("--port", "70000"), "port"),
    ],
)
def test_wrong_calls_are_refused(arguments: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LRCLR_WEB_TOKEN", raising=False)
    done = bundles.call("web", "nowhere", *arguments)
    assert done.returncode == 2
    assert text in done.stderr


def test_the_command_serves_until_sigterm(fp32_bundle: Path) -> None:
    """It prints the address, answers, and ends with exit code 0 on SIGTERM. It prints no lines about requests."""
    command = [*bundles.LRCLR, "web", str(fp32_bundle), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip()).netloc
        connection = http.client.HTTPConnection(address)
        connection.request("GET", "/")
        assert b"lrclr" in connection.getresponse().read()
        connection.close()
    finally:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert out == ""
    assert err.splitlines() == ["Ctrl-C stops it", "Research use only. Not a medical device.", "stopped"]


@pytest.fixture(scope="module")
def served(fp32_bundle: Path) -> Iterator[TritonServer]:
    with TritonServer(fp32_bundle, ServeOptions(grpc_port=0, http_port=0, metrics_port=0, instances=1)) as server:
        yield server


@pytest.mark.triton
def test_a_triton_server_gives_the_same_answers(
    served: TritonServer, fp32_bundle: Path, backend: BundleBackend
) -> None:
    """With only the server, or with the bundle as well, answers equal those without a server."""
    questions: tuple[dict[str, Any], ...] = (
        {},
        {"findings": ["Edema"], "alpha": 0.2},
        {"prompts": ["small left apical pneumothorax"]},
    )
    answers = []
    behind = (open_backend(server=served.grpc), open_backend(fp32_bundle, server=served.grpc))
    for current in (backend, *behind):
        assert current.ready()
        with TestClient(create_app(current), base_url="http://localhost") as client:
            kept = client.post("/v1/images", content=FILE, headers={"content-type": "image/png"}).json()
            replies = [client.post(f"/v1/images/{kept['id']}/findings", json=request).json() for request in questions]
            answers.append([kept["predictions"][0], *(reply["predictions"][0] for reply in replies)])
            images = [base64.b64encode(FILE).decode()] * 2
            answers[-1] += client.post("/v1/findings", json={"images": images, "heatmap": True}).json()["predictions"]
            broken = client.post("/v1/images", content=b"no image", headers={"content-type": "image/png"})
            assert (broken.status_code, broken.json()["type"]) == (422, "/errors#ImageError")
            status = client.post("/v1/embeddings", json={"input": "gas"}).status_code
            assert status == (501 if isinstance(current, ServerBackend) else 200)
            url = f"data:image/png;base64,{images[0]}"
            reply = client.post("/v1/embeddings", json={"input": url}).json()
            np.testing.assert_allclose(reply["data"][0]["embedding"], backend.embed_images([FILE])[0], atol=1e-5)
    for other in answers[1:]:
        for given, wanted in zip(other, answers[0], strict=True):
            assert given["regions"] == wanted["regions"]
            assert [finding["name"] for finding in given["findings"]] == [
                finding["name"] for finding in wanted["findings"]
            ]
            got, expected = ([finding["probability"] for finding in each["findings"]] for each in (given, wanted))
            np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.triton
def test_a_replaced_bundle_on_the_server_is_reported(served: TritonServer) -> None:
    backend = ServerBackend(Client(served.grpc))
    # Simulates that the server had another bundle when lrclr web was started.
    backend.spec = replace(backend.spec, sha256="0" * 64)
    with TestClient(create_app(backend), base_url="http://localhost") as client:
        response = client.post("/v1/images", content=FILE, headers={"content-type": "image/png"})
    assert (response.status_code, response.json()["what"]) == (502, "the Triton server has another bundle now")


@pytest.mark.slow
@pytest.mark.triton
def test_a_stopped_triton_server_is_reported(fp32_bundle: Path) -> None:
    options = ServeOptions(grpc_port=0, http_port=0, metrics_port=0, instances=1)
    with TritonServer(fp32_bundle, options) as server:
        backend = ServerBackend(Client(server.grpc, ClientOptions(retries=0)))
    with TestClient(create_app(backend), base_url="http://localhost") as asking:
        for response in (
            asking.get("/readyz"),
            asking.post("/v1/findings", json={"images": [base64.b64encode(FILE).decode()]}),
        ):
            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"


def test_importing_lrclr_does_not_import_the_web_server() -> None:
    code = (
        "import lrclr, lrclr.cli, sys; print([m for m in sys.modules if m.partition('.')[0] in {'fastapi', 'uvicorn'}])"
    )
    done = subprocess.run([bundles.PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
