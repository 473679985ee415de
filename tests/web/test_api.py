"""The REST API: the real application over a real bundle."""

from __future__ import annotations

import base64
import io
import json
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import pydicom
import pytest
from PIL import Image
from starlette.testclient import TestClient

from lrclr import Finding, FindingSet, ZeroShotClassifier, errors, read_image
from lrclr.errors import LrclrError, ServerUnavailableError, UsageError
from lrclr.samples import SAMPLES
from lrclr.web import STATUS, BundleBackend, WebOptions, create_app

# Private: the response to one error.
from lrclr.web._problems import problem_of, status_of
from tests import bundles
from tests.web.conftest import LOCAL

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr import Prediction

FILES = [sample.path().read_bytes() for sample in SAMPLES[:2]]
DICOM = SAMPLES[1].path("dicom").read_bytes()
BASE64 = [base64.b64encode(content).decode() for content in FILES]
URLS = [f"data:image/png;base64,{text}" for text in BASE64]
OCTETS = {"content-type": "application/octet-stream"}


def assert_same_answer(answer: dict[str, Any], prediction: Prediction) -> None:
    """Assert that the answer equals the classifier's prediction."""
    wanted = json.loads(json.dumps(prediction.to_dict()))
    for each in (answer, wanted):
        for finding in each["findings"]:
            finding["region_attention"] = pytest.approx(finding["region_attention"], abs=1e-6)
    assert answer.keys() == wanted.keys()
    assert [each["name"] for each in answer["findings"]] == [each["name"] for each in wanted["findings"]]
    for given, expected in zip(answer["findings"], wanted["findings"], strict=True):
        assert given["probability"] == pytest.approx(expected["probability"], abs=1e-6)
    assert answer["regions"] == wanted["regions"]


def assert_refused(response: Any, status: int, kind: str | None = None) -> dict[str, Any]:
    """Assert problem details with this status and class of errors."""
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["detail"]
    assert problem["type"] == ("about:blank" if kind is None else f"/errors#{kind}")
    return problem


def test_findings_equal_the_classifiers(client: TestClient, classifier: ZeroShotClassifier) -> None:
    wanted = classifier.predict(FILES, alpha=0.3)
    by_json = client.post("/v1/findings", json={"images": [BASE64[0], URLS[1]], "alpha": 0.3}).json()
    parts = [("images", (f"{number}.png", content)) for number, content in enumerate(FILES)]
    by_form = client.post("/v1/findings", files=parts, data={"alpha": "0.3"}).json()
    for reply in (by_json, by_form):
        assert reply["bundle"] == classifier.spec.sha256
        assert reply["heatmaps"] is None
        for answer, prediction in zip(reply["predictions"], wanted, strict=True):
            assert_same_answer(answer, prediction)


def test_requested_findings_and_prompts_are_answered(client: TestClient, classifier: ZeroShotClassifier) -> None:
    """Findings by name, findings with prompts, and free prompts, in this order."""
    asked = FindingSet(
        (
            classifier.spec.findings.only(["Edema"]).findings[0],
            Finding("Water", ("There is {}.",), ("There is no {}.", "dry")),
            Finding("small left apical pneumothorax"),
        )
    )
    request: dict[str, Any] = {
        "images": BASE64[:1],
        "findings": ["Edema", {"name": "Water", "positive": ["There is {}."], "negative": ["There is no {}.", "dry"]}],
        "prompts": [" small left apical pneumothorax "],
    }
    reply = client.post("/v1/findings", json=request).json()
    (wanted,) = classifier.predict(FILES[:1], findings=asked)
    assert_same_answer(reply["predictions"][0], wanted)
    form = {"findings": ["Edema", json.dumps(request["findings"][1])], "prompts": request["prompts"]}
    reply = client.post("/v1/findings", files=[("images", ("a", FILES[0]))], data=form).json()
    assert_same_answer(reply["predictions"][0], wanted)


def test_heatmaps(client: TestClient) -> None:
    reply = client.post("/v1/findings", json={"images": BASE64, "findings": ["Edema"], "heatmap": True}).json()
    for text in reply["heatmaps"]:
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            assert picture.format == "PNG"


def test_a_kept_image_is_encoded_once(
    client: TestClient, classifier: ZeroShotClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[str] = []
    engine = classifier.engine
    real = engine.run

    def run(graph: str, inputs: Any) -> Any:
        runs.append(graph)
        return real(graph, inputs)

    monkeypatch.setattr(engine, "run", run)
    kept = client.post("/v1/images", content=DICOM, headers=OCTETS)
    assert kept.status_code == 201
    reply = kept.json()
    assert reply["dicom"] is True
    assert_same_answer(reply["predictions"][0], classifier.predict([DICOM])[0])
    runs.clear()
    for alpha in (0.0, 0.37, 1.0):
        for asked in ({}, {"prompts": ["small left apical pneumothorax"]}, {"findings": ["Edema"]}):
            answer = client.post(f"/v1/images/{reply['id']}/findings", json={**asked, "alpha": alpha}).json()
            findings = FindingSet((Finding(asked["prompts"][0]),)) if "prompts" in asked else None
            if "findings" in asked:
                findings = classifier.spec.findings.only(asked["findings"])
            assert "image_encoder" not in runs
            assert_same_answer(answer["predictions"][0], classifier.predict([DICOM], findings=findings, alpha=alpha)[0])
            runs.clear()


def test_pictures_and_reports_of_a_kept_image_are_returned(client: TestClient) -> None:
    path = f"/v1/images/{client.post('/v1/images', content=DICOM, headers=OCTETS).json()['id']}"
    picture = client.get(f"{path}/picture")
    with Image.open(io.BytesIO(picture.content)) as opened:
        assert (np.asarray(opened) == read_image(DICOM)).all()
    drawn = client.post(f"{path}/heatmap", json={"prompts": ["gas"], "shown": ["gas"]})
    assert (drawn.headers["content-type"], drawn.content[:4]) == ("image/png", b"\x89PNG")
    assert_refused(client.post(f"{path}/heatmap", json={"shown": ["gas"]}), 422, "FindingsError")
    report = client.post(f"{path}/report", json={"findings": ["Edema"], "alpha": 0.5})
    assert report.headers["content-type"] == "application/dicom"
    assert pydicom.dcmread(io.BytesIO(report.content)).Modality == "SR"
    assert client.delete(path).status_code == 204
    assert_refused(client.get(f"{path}/picture"), 404)
    assert client.delete(path).status_code == 204
    path = f"/v1/images/{client.post('/v1/images', content=FILES[0], headers=OCTETS).json()['id']}"
    assert_refused(client.post(f"{path}/report", json={}), 422, "NotDicomError")


def test_embeddings_and_similarity(client: TestClient, classifier: ZeroShotClassifier) -> None:
    texts = ["pleural effusion", "no pleural effusion"]
    wanted = np.stack([*classifier.embed_texts(texts), *classifier.embed_images(FILES)])[[0, 2, 1, 3]]
    request = {"input": [texts[0], URLS[0], texts[1], URLS[1]], "model": "nvidia/nvclip-vit-h-14", "user": "me"}
    reply = client.post("/v1/embeddings", json=request).json()
    assert reply["object"] == "list"
    assert reply["usage"] == {"prompt_tokens": 0, "total_tokens": 0, "num_images": 2}
    assert [item["index"] for item in reply["data"]] == [0, 1, 2, 3]
    np.testing.assert_allclose([item["embedding"] for item in reply["data"]], wanted, atol=1e-6)
    reply = client.post("/v1/embeddings", json={**request, "encoding_format": "base64"}).json()
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in reply["data"]]
    np.testing.assert_allclose(rows, wanted, atol=1e-6)
    reply = client.post("/v1/similarity", json={"images": BASE64, "texts": texts}).json()
    np.testing.assert_allclose(
        reply["similarity"], classifier.embed_images(FILES) @ classifier.embed_texts(texts).T, atol=1e-6
    )
    width = wanted.shape[1]
    assert client.post("/v1/embeddings", json={"input": "gas", "dimensions": width}).status_code == 200
    assert_refused(client.post("/v1/embeddings", json={"input": "gas", "dimensions": width - 1}), 422, "UsageError")
    for text in ("https://example.org/a.png", "data:text/plain;base64,YQ=="):
        assert_refused(client.post("/v1/embeddings", json={"input": [text]}), 422, "UsageError")
    assert_refused(client.post("/v1/embeddings", json={"input": []}), 422, "UsageError")
    assert_refused(client.post("/v1/embeddings", json={"input": [1, 2]}), 422)


def test_the_model_and_its_health(client: TestClient, classifier: ZeroShotClassifier) -> None:
    model = client.get("/v1/model").json()
    assert model["bundle"] == classifier.spec.sha256
    assert [finding["name"] for finding in model["findings"]] == list(classifier.spec.findings.names)
    assert client.get("/healthz").json() == client.get("/readyz").json() == {"status": "ok"}
    for sample in client.get("/v1/samples").json():
        for path in sample["files"].values():
            assert read_image(client.get(path).content).shape
    assert_refused(client.get("/samples/..%2Ftask.npz"), 404)


def test_metrics(backend: BundleBackend) -> None:
    with TestClient(create_app(backend), base_url=LOCAL) as client:
        number = client.post("/v1/images", content=FILES[0], headers=OCTETS).json()["id"]
        client.get(f"/v1/images/{number}/picture")
        client.get("/v1/images/unknown/picture")
        text = client.get("/metrics").text
    assert 'lrclr_web_requests_total{method="GET",path="/v1/images/{key}/picture",status="404"} 1' in text
    assert 'lrclr_web_request_seconds_count{path="/v1/images"} 1' in text
    assert "\nlrclr_web_kept_images 1\n" in text
    assert number not in text


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        ({"images": ["%%%"]}, 422, "ImageError"),
        ({"images": [base64.b64encode(b"not an image").decode()]}, 422, "ImageError"),
        ({"images": BASE64[:1], "findings": ["Oedemaa"]}, 422, "FindingsError"),
        ({"images": BASE64[:1], "prompts": ["q7w0rd " * 28]}, 422, "FindingsError"),
        ({"images": BASE64[:1], "findings": [{"name": "Gas", "positive": ["q7w0rd " * 90]}]}, 422, "FindingsError"),
        ({"images": BASE64[:1], "prompts": ["{name}"]}, 422, "FindingsError"),
        ({"images": BASE64[:1], "prompts": [f"text {number}" for number in range(200)]}, 422, "FindingsError"),
        ({"images": BASE64[:1] * 65}, 422, "UsageError"),
        ({"images": BASE64[:1] * 17, "heatmap": True}, 422, "UsageError"),
        ({"images": BASE64[:1], "alpha": 1.5}, 422, None),
        ({"images": BASE64[:1], "weight": 0.5}, 422, None),
        ({"images": []}, 422, None),
        ({}, 422, None),
    ],
)
def test_wrong_requests_are_refused(
    client: TestClient, request_: dict[str, Any], status: int, kind: str | None
) -> None:
    problem = assert_refused(client.post("/v1/findings", json=request_), status, kind)
    # Names of findings are quoted, up to 40 characters. Prompts and images are not.
    assert "q7w0rd " * 6 not in json.dumps(problem)


def test_bodies_that_are_not_requests_are_refused(client: TestClient) -> None:
    json_type = {"content-type": "application/json"}
    assert_refused(client.post("/v1/findings", content=b"{", headers=json_type), 400)
    assert_refused(client.post("/v1/findings", content=b'{"images": ["\xff"]}', headers=json_type), 400)
    # A form or a page of another site can send these types without a preflight request.
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert_refused(client.post("/v1/similarity", content=b"{}", headers={"content-type": kind}), 415)
        assert_refused(client.post("/v1/images", content=FILES[0], headers={"content-type": kind}), 415)
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        assert client.post("/v1/findings", content=b"--y", headers={"content-type": kind}).status_code in {400, 422}
    assert_refused(client.post("/v1/findings", files=[("other", ("a.png", FILES[0]))]), 422)
    assert_refused(client.post("/v1/images?frame=-1", content=FILES[0], headers=OCTETS), 422)
    assert_refused(client.post("/v1/images?frame=3", content=FILES[0], headers=OCTETS), 422, "ImageError")
    assert_refused(client.post("/v1/images", content=b"", headers=OCTETS), 422, "ImageError")
    assert_refused(client.get("/nowhere"), 404)
    assert_refused(client.put("/v1/model"), 405)


def test_limits_apply_while_the_body_arrives(backend: BundleBackend) -> None:
    options = WebOptions(body_bytes=3 * 2**20, all_bodies_bytes=2 * 2**20)
    with TestClient(create_app(backend, options), base_url=LOCAL) as client:
        assert_refused(client.post("/v1/images", content=bytes(4 * 2**20), headers=OCTETS), 413)
        # Without Content-Length.
        assert_refused(client.post("/v1/images", content=iter([bytes(2**21)] * 2), headers=OCTETS), 413)
        # Below the limit of one body, above the limit of all bodies.
        response = client.post("/v1/images", content=bytes(5 * 2**19), headers=OCTETS)
        assert_refused(response, 503, "ServerUnavailableError")
        assert response.headers["retry-after"] == "1"
        assert "\nlrclr_web_body_bytes 0\n" in client.get("/metrics").text


def test_millions_of_values_are_refused_before_parsing(client: TestClient) -> None:
    many = ("[" + "1," * (2**14 + 1) + "1]").encode()
    json_type = {"content-type": "application/json"}
    for body in (many, b'{"prompts": ' + many + b"}"):
        assert_refused(client.post("/v1/findings", content=body, headers=json_type), 413)
    parts = [("images", ("a.png", FILES[0]))]
    assert_refused(client.post("/v1/findings", files=parts, data={"prompts": many.decode()}), 413)
    # Fewer values, but above the limit of texts.
    for key in ("prompts", "findings"):
        problem = assert_refused(
            client.post("/v1/findings", json={"images": BASE64[:1], key: ["Edema"] * 9999}), 422, "FindingsError"
        )
        assert "9999 texts" in problem["detail"]


def test_the_error_for_a_request_without_findings_says_what_to_do(client: TestClient) -> None:
    problem = assert_refused(
        client.post("/v1/findings", json={"images": BASE64[:1], "prompts": []}), 422, "FindingsError"
    )
    assert problem["fix"] == "Leave out `findings` and `prompts` for all."


def test_an_image_of_a_disconnected_client_is_removed(
    backend: BundleBackend, capfd: pytest.CaptureFixture[str]
) -> None:
    """A page that is closed before the answer does not know the image's key, and cannot remove the image."""
    app = create_app(backend)

    def upload(*messages: dict[str, Any]) -> list[int]:
        waiting = list(messages)
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"image/png")]
        scope = {"type": "http", "method": "POST", "path": "/v1/images", "query_string": b"", "headers": headers}
        anyio.run(app, scope, receive, send)
        return statuses

    assert upload({"type": "http.request", "body": FILES[0]}) == [201]
    # An interrupted body is an error of the client and is not logged.
    assert upload({"type": "http.request", "body": FILES[0][:9], "more_body": True}) == [400]
    assert capfd.readouterr().err == ""
    with TestClient(app, base_url=LOCAL) as client:
        text = client.get("/metrics").text
    assert "\nlrclr_web_kept_images 0\n" in text
    assert "\nlrclr_web_body_bytes 0\n" in text


def test_an_ensemble_answers_and_has_no_embeddings(tmp_path_factory: pytest.TempPathFactory) -> None:
    ensemble = ZeroShotClassifier.from_bundle(bundles.exported_ensemble(tmp_path_factory.getbasetemp()))
    with TestClient(create_app(BundleBackend(ensemble)), base_url=LOCAL) as client:
        reply = client.post("/v1/images", content=FILES[0], headers=OCTETS).json()
        assert_same_answer(reply["predictions"][0], ensemble.predict(FILES[:1])[0])
        assert reply["predictions"][0]["findings"][0]["probability_spread"] > 0
        for path, request in (
            ("embeddings", {"input": ["gas", URLS[0]]}),
            ("similarity", {"images": BASE64, "texts": ["gas"]}),
        ):
            assert_refused(client.post(f"/v1/{path}", json=request), 501, "NotSupportedError")


def test_uploads_are_not_written_to_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file above 1 MB, which Starlette writes to a temporary file by default."""
    import tempfile

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500), dtype=np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    assert len(stream.getvalue()) > 2 * 2**20
    assert client.post("/v1/findings", files=[("images", ("a.png", stream.getvalue()))]).status_code == 200


def test_too_many_requests_are_refused(backend: BundleBackend) -> None:
    """One request is computed, one waits, and the others are refused immediately."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    begun, go_on = threading.Event(), threading.Event()

    class Slow(BundleBackend):
        def __init__(self) -> None:
            self.spec, self.engine, self.classifier = backend.spec, backend.engine, backend.classifier

        def embed_texts(self, texts: Any) -> Any:
            begun.set()
            assert go_on.wait(60)
            return super().embed_texts(texts)

    options = WebOptions(running=1, queued=1)
    with TestClient(create_app(Slow(), options), base_url=LOCAL) as client, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(client.post, "/v1/embeddings", json={"input": "gas"}) for _ in range(2)]
        begun.wait(60)
        while "\nlrclr_web_pending_requests 2\n" not in client.get("/metrics").text:
            # Both wait until `go_on` is set.
            assert not any(job.done() for job in jobs)
        response = client.post("/v1/embeddings", json={"input": "gas"})
        assert_refused(response, 503, "ServerUnavailableError")
        assert response.headers["retry-after"] == "1"
        assert client.get("/readyz").status_code == 200
        go_on.set()
        assert [job.result().status_code for job in jobs] == [200, 200]


def test_the_number_and_size_of_kept_images_is_limited(backend: BundleBackend) -> None:
    def keep(client: TestClient) -> str:
        return str(client.post("/v1/images", content=FILES[0], headers=OCTETS).json()["id"])

    def known(client: TestClient, number: str) -> bool:
        return client.get(f"/v1/images/{number}/picture").status_code == 200

    by_number = WebOptions(kept_images=2)
    by_size = WebOptions(kept_bytes=int(2.5 * len(FILES[0])))
    for options in (by_number, by_size):
        with TestClient(create_app(backend, options), base_url=LOCAL) as client:
            first, second = keep(client), keep(client)
            assert known(client, first)
            third = keep(client)
            # The least recently used image was removed.
            assert [known(client, number) for number in (first, second, third)] == [True, False, True]
    with TestClient(create_app(backend, WebOptions(kept_seconds=1e-9)), base_url=LOCAL) as client:
        assert not known(client, keep(client))


class TestAccess:
    TOKEN = "0123456789abcdef-secret"

    def test_requests_of_another_site_to_a_loopback_server_are_refused(self, client: TestClient) -> None:
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0", ""):
            assert_refused(client.get("/v1/model", headers={"host": host}), 403)
        for host in ("127.0.0.1:8080", "localhost:1", "localhost", "[::1]:8080", "127.0.0.2:80"):
            assert client.get("/v1/model", headers={"host": host}).status_code == 200
        for origin in ("https://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8080"):
            response = client.post("/v1/embeddings", json={"input": "gas"}, headers={"origin": origin})
            assert_refused(response, 403)
            assert "access-control-allow-origin" not in response.headers
        assert client.post("/v1/embeddings", json={"input": "gas"}, headers={"origin": LOCAL}).status_code == 200

    def test_a_token_is_required(self, backend: BundleBackend) -> None:
        options = WebOptions(host="0.0.0.0", token=self.TOKEN)
        with TestClient(create_app(backend, options), base_url="http://lrclr.example") as client:
            for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": self.TOKEN}):
                response = client.get("/v1/model", headers=given)
                assert_refused(response, 401)
                assert response.headers["www-authenticate"] == "Bearer"
                for path in ("/metrics", "/v1/samples", "/v1/images/1/picture"):
                    assert_refused(client.get(path, headers=given), 401)
                assert_refused(client.delete("/v1/images/1", headers=given), 401)
            for path in ("/", "/api", "/openapi.json", "/static/app.js", "/healthz", "/readyz", "/errors"):
                assert client.get(path).status_code == 200
            right = {"authorization": f"Bearer {self.TOKEN}"}
            assert client.get("/v1/model", headers=right).status_code == 200
            assert client.get("/openapi.json").json()["security"] == [{"token": []}]

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "lrclr.example"])
    def test_a_network_address_needs_a_token(self, host: str) -> None:
        with pytest.raises(UsageError, match="token"):
            WebOptions(host=host)
        with pytest.raises(UsageError, match="at least 16"):
            WebOptions(host=host, token="short")
        assert WebOptions(host=host, token=self.TOKEN).token
        assert self.TOKEN not in repr(WebOptions(host=host, token=self.TOKEN))

    def test_security_headers_are_sent(self, client: TestClient) -> None:
        for response in (client.get("/"), client.get("/nowhere"), client.get("/v1/model", headers={"host": "evil"})):
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["x-content-type-options"] == "nosniff"


def test_every_class_of_errors_has_a_status(client: TestClient) -> None:
    page = client.get("/errors").text
    for name in errors.__all__:
        kind: type[LrclrError] = getattr(errors, name)
        error = kind.from_text("what", why="why", fix="fix")
        assert problem_of(error).status_code == status_of(error)
    for kind, status in STATUS.items():
        assert f"<code>{kind.__name__}</code><td>{status}" in page
    late = ServerUnavailableError("busy")
    late.retry_after = 1.5
    assert problem_of(late).headers["retry-after"] == "2"


def test_an_unexpected_error_has_no_details(
    backend: BundleBackend, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("MEIER^ANNA")

    monkeypatch.setattr(backend, "embed_texts", fail)
    with TestClient(create_app(backend), base_url=LOCAL, raise_server_exceptions=False) as client:
        problem = assert_refused(client.post("/v1/embeddings", json={"input": "gas"}), 500)
    printed = capfd.readouterr()
    assert "RuntimeError" in problem["detail"]
    assert "RuntimeError" in printed.err
    assert "MEIER" not in f"{problem}{printed.out}{printed.err}"
