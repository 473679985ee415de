"""Answers of a server equal those of its bundle, for every client and together with any other requests."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from lrclr import FindingSet, ZeroShotClassifier, read_image
from lrclr.contract import MODEL
from lrclr.dicom_results import DicomSource, ResultBuilder, ResultModel
from lrclr.errors import EngineError, FindingsError, ImageError, LrclrError, ServerUnavailableError, UsageError
from lrclr.images import ReducedImage, read_reduced
from lrclr.inference import draw_heatmap, png_bytes
from lrclr.inference import predict_files as predict_here
from lrclr.preprocessing import preprocess_batch
from lrclr.samples import SAMPLES, sample_paths
from lrclr.triton.client import AsyncClient, Client, ClientOptions, TritonEngine, predict_files
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lrclr.inference import Prediction
    from lrclr.triton.server import TritonServer

pytestmark = pytest.mark.triton
FILES = [*sample_paths("png"), *sample_paths("dicom")]
TOO_LONG = FindingSet.loads(f'[[finding]]\nname = "Edema"\npositive = ["{"fluid " * 200}"]\n')
OWN = FindingSet.loads(
    '[[finding]]\nname = "Edema"\npositive = ["fluid in the lungs", "{}"]\n[[finding]]\nname = "Rib"\n'
)


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[Client]:
    with Client(server.grpc) as opened:
        yield opened


def read(path: Path, local: ZeroShotClassifier) -> ReducedImage:
    return read_reduced(path, local.spec.preprocess)


def numbers(predictions: list[Prediction]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """All numbers of all answers."""
    return np.array(
        [
            [
                *(value for finding in each.findings for value in (*astuple(finding)[1:6], *finding.region_attention)),
                *(value for region in each.regions for value in (region.patch, region.importance, *region.box)),
                each.alpha,
                each.height,
                each.width,
            ]
            for each in predictions
        ]
    )


def test_files_bytes_and_arrays_give_the_same_answers_as_without_a_server(
    client: Client, local: ZeroShotClassifier
) -> None:
    images = [read_image(path) for path in FILES]
    expected = local.predict([read(path, local) for path in FILES])
    for sources in (FILES, [path.read_bytes() for path in FILES], images):
        answers = client.predict(sources)
        assert [answer.finding("Edema").name for answer in answers] == ["Edema"] * len(FILES)
        assert np.allclose(numbers(answers), numbers(expected), atol=1e-6)
        assert all(answer.fusion_trained for answer in answers)
    assert client.predict([]) == []


def test_own_findings_and_alpha(client: Client, local: ZeroShotClassifier) -> None:
    expected = local.predict([read(FILES[0], local)], findings=OWN, alpha=0.9)
    assert np.allclose(numbers(client.predict(FILES[:1], findings=OWN, alpha=0.9)), numbers(expected), atol=1e-6)


def test_exact_reading_equals_local_reading(client: Client, local: ZeroShotClassifier, tmp_path: Path) -> None:
    """Without `exact`, answers are close, and do not depend on whether a heat map is requested."""
    large = bundles.enlarged(tmp_path)
    reply = client.ask(large, exact=True)
    exact = reply.predictions
    assert (reply.exact, client.ask(large[:1]).exact, client.describe()["exact"]) == (True, False, False)
    assert [result.exact for result in predict_files(client, large[:1], exact=True)] == [True]
    assert [result.exact for result in predict_files(client, large[:1])] == [False]
    assert client.predict(large, exact=True) == exact
    assert np.allclose(numbers(exact), numbers(local.predict([read_image(path) for path in large])), atol=1e-6)
    by_default = client.predict(large)
    assert not np.array_equal(numbers(by_default), numbers(exact))
    assert np.array_equal(numbers(client.ask(large, heatmap=True).predictions), numbers(by_default))
    for approximate, full in zip(by_default, exact, strict=True):
        assert [each.probability for each in approximate.findings] == pytest.approx(
            [each.probability for each in full.findings], abs=2e-3
        )
    here = [result.prediction for result in predict_here(local, large)]
    assert np.allclose(
        numbers([prediction for prediction in here if prediction is not None]), numbers(by_default), atol=1e-6
    )


def test_remarks_equal_those_of_local_reading(client: Client, local: ZeroShotClassifier, tmp_path: Path) -> None:
    odd = bundles.odd_radiograph(tmp_path / "odd.dcm")
    for exact in (False, True):
        answers = client.ask([FILES[0], odd], exact=exact).predictions
        assert [answer.remarks for answer in answers] == [(), bundles.REMARKS]
    assert local.predict([read(odd, local)])[0].remarks == bundles.REMARKS
    (result,) = predict_here(local, [odd])
    assert result.prediction is not None
    assert result.prediction.remarks == bundles.REMARKS
    (pixels,) = client.predict_pixels(preprocess_batch([read(odd, local)], local.spec.preprocess))
    assert pixels.remarks == ()


def test_warnings_equal_those_of_local_reading(client: Client, local: ZeroShotClassifier, tmp_path: Path) -> None:
    turned = tmp_path / "turned.png"
    Image.fromarray(np.rot90(read_image(FILES[0]))).save(turned)
    images = [FILES[0], turned, sample_paths("dicom")[2]]
    answers = client.predict(images)
    assert [answer.warnings for answer in answers] == [answer.warnings for answer in local.predict(images)]
    assert answers[1].warnings == ("turned",)
    (pixels,) = client.predict_pixels(preprocess_batch([read(turned, local)], local.spec.preprocess))
    assert pixels.warnings == ()


def test_structured_reports_equal_local_ones(client: Client, local: ZeroShotClassifier) -> None:
    files = sample_paths("dicom")[1:3]
    reply = client.ask(files, sr=True)
    builder = ResultBuilder(ResultModel(local.spec.sha256, local.spec.findings))
    for path, prediction, content in zip(files, reply.predictions, reply.reports, strict=True):
        report = pydicom.dcmread(io.BytesIO(content))
        source = DicomSource.read(path.read_bytes())
        local_report = pydicom.dcmread(io.BytesIO(builder.build("sr", source, prediction)))
        assert report.SOPInstanceUID == local_report.SOPInstanceUID == builder.uid("sr", source, prediction.alpha)
        # The warnings are among the comments.
        texts = [
            [element.value for element in dataset.iterall() if element.keyword == "TextValue"]
            for dataset in (report, local_report)
        ]
        assert texts[0] == texts[1]
        assert len(report.ContentSequence) == len(local_report.ContentSequence)
    assert client.ask(files).reports == ()
    with pytest.raises(UsageError, match="image 2 of 2"):
        client.ask([files[0], FILES[0]], sr=True)


def test_embeddings_are_optional_and_equal_the_classifiers(
    client: Client, local: ZeroShotClassifier, server: TritonServer
) -> None:
    expected = local.embed_images(FILES)
    assert np.allclose(client.embed_images(FILES), expected, atol=1e-6)
    with_all = client.ask(FILES[:2], heatmap=True, embedding=True)
    assert with_all.image_embedding is not None
    assert np.allclose(with_all.image_embedding, expected[:2], atol=1e-6)
    assert len(with_all.heatmaps) == 2
    # A client that does not request embeddings, such as an older one, gets the same answer as before.
    assert client.ask(FILES[:1]).image_embedding is None

    async def ask() -> NDArray[np.float32]:
        async with AsyncClient(server.grpc) as async_client:
            return await async_client.embed_images(FILES[:1])

    assert np.allclose(asyncio.run(ask()), expected[:1], atol=1e-6)
    with pytest.raises(UsageError, match="empty list of images"):
        client.embed_images([])


def test_heat_maps_equal_local_ones(client: Client) -> None:
    reply = client.ask(FILES[:2], heatmap=True)
    for path, prediction, png in zip(FILES, reply.predictions, reply.heatmaps, strict=False):
        assert png == png_bytes(draw_heatmap(read_image(path), prediction))
    assert reply.bundle == client.describe()["bundle"]


def test_the_async_client_and_streams_keep_the_order(server: TritonServer, local: ZeroShotClassifier) -> None:
    expected = {path: numbers(local.predict([read(path, local)])) for path in FILES}
    asked = FILES * 8

    async def ask() -> list[Prediction | Exception]:
        async with AsyncClient(server.grpc) as client:
            together = await client.predict(FILES)
            assert np.allclose(numbers(together), np.concatenate(list(expected.values())), atol=1e-6)
            return [answer async for answer in client.stream([*asked, b"no image"], concurrency=12)]

    *answers, last = asyncio.run(ask())
    assert isinstance(last, ImageError)
    for path, answer in zip(asked, answers, strict=True):
        assert not isinstance(answer, Exception)
        assert np.allclose(numbers([answer]), expected[path], atol=1e-6)


def test_concurrent_callers_get_their_own_answers(client: Client, local: ZeroShotClassifier) -> None:
    expected = {path: numbers(local.predict([read(path, local)])) for path in FILES}
    asked = FILES * 20
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda path: client.predict([path]), asked))
    for path, answer in zip(asked, answers, strict=True):
        assert np.allclose(numbers(answer), expected[path], atol=1e-6)


def regions() -> set[str]:
    """The shared memory of clients in this process."""
    return set(re.findall(r"/dev/shm/lrclr_[0-9a-f]{16}$", Path("/proc/self/maps").read_text(), re.MULTILINE))


def test_shared_memory_gives_the_same_answers_and_is_removed(server: TritonServer, client: Client) -> None:
    before = regions()
    with Client(server.grpc, ClientOptions(shared_memory=True)) as sharing:
        assert np.array_equal(numbers(sharing.predict(FILES)), numbers(client.predict(FILES)))
        with pytest.raises(ImageError):
            sharing.predict([bytes(10_000)])
        expected = {path: numbers(client.predict([path])) for path in FILES}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda path: numbers(sharing.predict([path])), FILES * 12))
        for path, answer in zip(FILES * 12, answers, strict=True):
            assert np.allclose(answer, expected[path], atol=1e-6)
        own_regions = regions() - before
        assert 1 <= len(own_regions) <= 9  # kept, and at most as many regions as were in use at the same time
    assert regions() == before


def test_shared_memory_of_a_killed_client_is_given_up(server: TritonServer) -> None:
    from tritonclient import grpc
    from tritonclient.utils import shared_memory

    with closing(grpc.InferenceServerClient(server.grpc)) as raw:
        handles = {name: shared_memory.create_shared_memory_region(name, f"/{name}", 4096) for name in ("gone", "kept")}
        for name in handles:
            raw.register_system_shared_memory(name, f"/{name}", 4096)
        shared_memory.destroy_shared_memory_region(handles["gone"])
        server.check()
        assert {"gone", "kept"} & raw.get_system_shared_memory_status().regions.keys() == {"kept"}
        raw.unregister_system_shared_memory("kept")
        shared_memory.destroy_shared_memory_region(handles["kept"])


def test_a_bad_file_gives_an_error_without_affecting_others(client: Client, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(FILES[0].read_bytes()[:500])
    results = list(predict_files(client, [FILES[0], bad, tmp_path / "none.png", FILES[1]], concurrency=2))
    assert [result.error is None for result in results] == [True, False, False, True]
    assert all(isinstance(result.error, ImageError) for result in results[1:3])


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ({"images": [b"junk"]}, ImageError),
        ({"images": [FILES[0]], "alpha": 2.0}, UsageError),
        ({"images": [FILES[0]], "frame": -1}, UsageError),
        ({"images": [FILES[0]], "frame": 3}, ImageError),
        ({"images": [FILES[0]] * 65}, UsageError),
        ({"images": [FILES[0]], "findings": TOO_LONG}, FindingsError),
    ],
)
def test_errors_equal_those_of_the_local_classifier(
    client: Client, call: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        client.predict(**call)


def test_a_missing_server_is_reported_within_the_deadline() -> None:
    with (
        Client("127.0.0.1:9", ClientOptions(timeout=1, retries=1)) as client,
        pytest.raises(ServerUnavailableError, match=r"127\.0\.0\.1:9"),
    ):
        client.predict(FILES[:1])


def test_a_server_can_be_an_engine(server: TritonServer, local: ZeroShotClassifier) -> None:
    engine = TritonEngine(server.grpc, local.spec.sha256)
    pixels = preprocess_batch([read_image(path) for path in FILES], local.spec.preprocess)
    from_server, from_bundle = (
        ZeroShotClassifier(local.bundle, engine).answer_pixels(pixels),
        local.answer_pixels(pixels),
    )
    assert np.allclose(from_server.probability, from_bundle.probability, atol=1e-6)
    assert np.array_equal(from_server.region_index, from_bundle.region_index)
    with pytest.raises(EngineError, match="another bundle"):
        TritonEngine(server.grpc, "0" * 64)


def test_metrics_count_requests(server: TritonServer, client: Client) -> None:
    def count(name: str) -> float:
        with urllib.request.urlopen(f"http://{server.metrics}/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    # The client's first request asks for the description of the model.
    client.describe()
    counted = ("lrclr_requests", "lrclr_images", "lrclr_failures", "lrclr_decode", "lrclr_prompt")
    before = {name: count(name) for name in counted}
    client.predict(FILES[:3])
    with pytest.raises(ImageError):
        client.predict([b"junk"])
    assert count("lrclr_requests") - before["lrclr_requests"] == 2
    assert count("lrclr_images") - before["lrclr_images"] == 3
    assert count("lrclr_failures") - before["lrclr_failures"] == 1
    assert count("lrclr_decode") > before["lrclr_decode"]
    # Hits and misses: a process of the model may encode the prompts for the first time.
    assert count("lrclr_prompt") > before["lrclr_prompt"]


def test_plain_json_over_http_is_answered(server: TritonServer, folder: Path, local: ZeroShotClassifier) -> None:
    size = local.spec.preprocess.image_size
    pixels = np.zeros((1, 3, size, size), np.float32)
    asked = {
        "inputs": [
            {"name": "pixel_values", "datatype": "FP32", "shape": list(pixels.shape), "data": pixels.ravel().tolist()},
            {"name": "finding", "datatype": "BYTES", "shape": [1], "data": ["Edema"]},
        ],
        "outputs": [{"name": "probability"}],
    }
    request = urllib.request.Request(f"http://{server.http}/v2/models/{MODEL}/infer", json.dumps(asked).encode())
    with urllib.request.urlopen(request) as answer:
        content = json.load(answer)
    expected = local.answer_pixels(pixels, local.spec.findings.only(["Edema"])).probability
    assert content["outputs"][0]["data"] == pytest.approx(expected.ravel().tolist(), abs=1e-6)


def test_probabilities_and_warnings_are_counted_by_finding_and_code(single: TritonServer, tmp_path: Path) -> None:
    turned = tmp_path / "turned.png"
    Image.fromarray(np.rot90(read_image(FILES[0]))).save(turned)
    with Client(single.grpc) as client:

        def metrics() -> dict[str, float]:
            # Answers with another alpha are not counted. After a second, such an answer makes the server publish
            # earlier ones.
            time.sleep(1.1)
            client.predict(FILES[:1], alpha=0.9)
            with urllib.request.urlopen(f"http://{single.metrics}/metrics") as page:
                lines = [line for line in page.read().decode().splitlines() if line.startswith("lrclr_")]
            return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

        before = metrics()
        answers = client.predict([FILES[0], turned])
        client.predict(FILES[:1], findings=OWN)
        after = metrics()

    def increase(name: str, **labels: str) -> float:
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        keys = [key for key in after if key.startswith(f"{name}{{") and all(label in key for label in wanted)]
        return sum(after[key] - before.get(key, 0.0) for key in keys)

    assert increase("lrclr_warnings_total", code="turned") == 1
    for finding in answers[0].findings:
        values = [answer.finding(finding.name).probability for answer in answers]
        for bound in ("0.1", "0.5", "1.0"):
            expected = sum(value <= float(bound) for value in values)
            assert increase("lrclr_probability_bucket", finding=finding.name, le=bound) == expected
        assert increase("lrclr_probability_bucket", finding=finding.name, le="+Inf") == 2
        assert increase("lrclr_probability_count", finding=finding.name) == 2
        assert increase("lrclr_probability_sum", finding=finding.name) == pytest.approx(sum(values), abs=1e-4)
    assert increase("lrclr_probability_count", finding="Rib") == 0


def test_errors_logs_and_metrics_have_no_patient_data(
    server: TritonServer, client: Client, log: list[str], tmp_path: Path
) -> None:
    import pydicom

    study = pydicom.dcmread(FILES[-1])
    study.PatientName, study.PatientID, study.StudyDescription = "MUSTERFRAU^ERIKA", "KVNR-4711", "HUSTEN"
    texts = []
    for name, damage in (
        ("MUSTERFRAU.dcm", {"PixelData": study.PixelData[:100]}),
        ("MUSTERFRAU2.dcm", {"Rows": 1, "PhotometricInterpretation": "MUSTERFRAU"}),
        ("MUSTERFRAU3.dcm", {"BitsAllocated": 13}),
    ):
        bad = pydicom.dcmread(FILES[-1])
        bad.update(study)
        for tag, value in damage.items():
            setattr(bad, tag, value)
        bad.save_as(tmp_path / name)
        for files in ([tmp_path / name], [FILES[0], tmp_path / name]):
            with pytest.raises(LrclrError) as raised:
                client.predict(files)
            texts.append(str(raised.value))
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as page:
        texts.append(page.read().decode())
    everything = "\n".join([*texts, *log])
    assert not any(secret in everything for secret in ("ERIKA", "KVNR", "HUSTEN"))
    assert "MUSTERFRAU" not in "\n".join([*log, texts[-1]])


def test_the_samples_are_png_and_dicom() -> None:
    assert len(FILES) == 2 * len(SAMPLES)
