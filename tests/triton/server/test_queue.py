"""A server with more requests than it can process refuses immediately, and drops requests whose caller has gone.

The model's single process is kept busy with a request of many large images, so that the queue is full until that
request is cancelled. Stopping the process (SIGSTOP) is not possible: Triton then takes it for dead.
"""

from __future__ import annotations

import asyncio
import io
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from lrclr import ZeroShotClassifier, budget, read_image
from lrclr.cli import main
from lrclr.errors import ServerUnavailableError
from lrclr.images import read_reduced
from lrclr.samples import sample_paths
from lrclr.triton.client import AsyncClient, Client, ClientOptions

# Private: a request that is sent and then cancelled.
from lrclr.triton.client import _wire as wire
from lrclr.triton.protocol import MAX_QUEUED, MAX_QUEUED_SECONDS, MODEL
from tests import bundles
from tests.triton.server.test_faults import close

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrclr.triton.server import TritonServer

pytestmark = pytest.mark.triton
IMAGE = sample_paths()[1]
CANCELLED = ("lrclr_failures_total", "cancelled")
ONCE = ClientOptions(retries=0, timeout=60)


@pytest.fixture(scope="module")
def right(folder: Path) -> Any:
    local = ZeroShotClassifier.from_bundle(folder)
    return local.predict([read_reduced(IMAGE, local.spec.preprocess)])[0]


def metric(server: TritonServer, name: str, *labels: str) -> float:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics") as page:
        lines = page.read().decode().splitlines()
    found = [line for line in lines if line.startswith(name) and all(label in line for label in labels)]
    return sum(float(line.split()[-1]) for line in found)


def waiting(server: TritonServer, model: str = MODEL) -> float:
    """Requests in a model's queue."""
    return metric(server, "nv_inference_pending_request_count", f'model="{model}"')


@contextmanager
def occupied(server: TritonServer, large: list[bytes]) -> Iterator[None]:
    """The model's process has so much work during a block that it must be cancelled at the end."""
    from tritonclient import grpc

    triton = grpc.InferenceServerClient(server.grpc)
    tensors = wire.inputs(large, None, None, None, heatmap=True, exact=True)
    requests, cancelled = metric(server, "lrclr_requests_total"), metric(server, *CANCELLED)
    told: list[Any] = []

    def callback(result: Any, error: Any) -> None:
        told.append(error)

    call = triton.async_infer(MODEL, wire.as_infer_inputs(tensors), callback)
    bundles.wait_until(lambda: metric(server, "lrclr_requests_total") == requests + 1)
    try:
        yield
        assert told == [], "the machine is too fast for this test: give it more to do"
    finally:
        call.cancel()
        bundles.wait_until(lambda: metric(server, *CANCELLED) >= cancelled + 1)
        triton.close()


@pytest.fixture(scope="module")
def large(local: ZeroShotClassifier) -> list[bytes]:
    """As many radiographs as a request with heat maps may have, of the size that hospitals use."""
    pixels = np.resize(read_image(IMAGE), (2500, 2048))
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
    return [content.getvalue()] * budget.REQUEST_HEATMAPS


def test_a_full_queue_refuses_at_once_and_what_waits_is_answered(
    single: TritonServer, right: Any, large: list[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["no image"]}]}

    async def ask() -> None:
        async with AsyncClient(single.grpc, ONCE) as client:
            await client.predict([IMAGE])

    with (
        Client(single.grpc, ONCE) as client,
        Client(single.grpc, ClientOptions(timeout=60)) as patient,
        ThreadPoolExecutor(MAX_QUEUED + 1) as pool,
    ):
        client.describe()
        before = metric(single, "lrclr_requests_total")
        with occupied(single, large):
            sent = [pool.submit(client.ask, [IMAGE]) for _ in range(MAX_QUEUED)]
            bundles.wait_until(lambda: waiting(single) == MAX_QUEUED)
            for call in (lambda: client.predict([IMAGE]), lambda: asyncio.run(ask())):
                with pytest.raises(
                    ServerUnavailableError, match=r"its queue is full\. Repeat the request after 1 s"
                ) as raised:
                    call()
                assert raised.value.retry_after == 1.0
            # The reply to an HTTP client, as the page for other clients states.
            url = f"http://{single.http}/v2/models/{MODEL}/infer"
            request = urllib.request.Request(url, json.dumps(asked).encode())
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)
            assert refused.value.code == 503
            assert "Exceeds maximum queue size" in json.load(refused.value)["error"]
            assert main(["probe", single.grpc]) == 1
            assert "is busy: its queue is full" in capsys.readouterr().err
            assert main(["probe", single.grpc, "--busy-ok"]) == 0
            assert "is busy: its queue is full" in capsys.readouterr().out
            late = pool.submit(patient.predict, [IMAGE])
            assert waiting(single) == MAX_QUEUED
            assert not any(future.done() for future in sent)
        assert all(close(future.result().predictions[0], right) for future in sent)
        assert close(late.result()[0], right)
    # Refused requests reached no process. The large one, those that waited, and the patient client's two requests did.
    assert metric(single, "lrclr_requests_total") - before == 1 + MAX_QUEUED + 2


def test_what_nobody_waits_for_is_not_worked_on(single: TritonServer, right: Any, large: list[bytes]) -> None:
    with Client(single.grpc, ONCE) as client:
        client.describe()
        requests, images = metric(single, "lrclr_requests_total"), metric(single, "lrclr_images_total")
        with (
            occupied(single, large),
            Client(single.grpc, ClientOptions(retries=0, timeout=2)) as hasty,
            ThreadPoolExecutor(3) as pool,
        ):
            sent = [pool.submit(hasty.predict, [IMAGE] * 3) for _ in range(3)]
            # They get an answer before their deadline.
            for future in sent:
                error = future.exception()
                assert isinstance(error, ServerUnavailableError)
                assert "waited too long in its queue" in str(error)
            assert waiting(single) == 0
        assert close(client.predict([IMAGE])[0], right)
    # The large request, which was cancelled in the middle of its images, and the last one.
    assert metric(single, "lrclr_requests_total") == requests + 2
    assert metric(single, "lrclr_images_total") == images + 1


def test_the_queue_has_a_bound_and_a_time_limit(single: TritonServer) -> None:
    with urllib.request.urlopen(f"http://{single.http}/v2/models/{MODEL}/config") as page:
        policy = json.load(page)["dynamic_batching"]["default_queue_policy"]
    assert policy["max_queue_size"] == MAX_QUEUED
    assert policy["timeout_action"] == "REJECT"
    assert int(policy["default_timeout_microseconds"]) == MAX_QUEUED_SECONDS * 1_000_000
    assert policy["allow_timeout_override"]
