"""Wrong requests over both protocols are refused with a code and one line, and other requests are not affected.

Two hundred of each protocol, or two thousand in total in the slow tests.
"""

from __future__ import annotations

import http.client
import re
from threading import Event, Thread
from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest
from hypothesis import HealthCheck, given, settings

from lrclr.images import read_reduced
from lrclr.inference import Prediction
from lrclr.samples import sample_paths
from lrclr.triton.client import Client, ClientOptions
from tests.triton import wrong_requests as requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr import ZeroShotClassifier
    from lrclr.triton.server import TritonServer

pytestmark = pytest.mark.triton
SIZE = 112
GENERATED = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
how_many = pytest.mark.parametrize("examples", [200, pytest.param(1000, marks=pytest.mark.slow)])
HTTP_CODES = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNIMPLEMENTED": 501}
TELLTALES = ("Traceback", "site-packages", "/tmp", ".py", "Error: Error")


@pytest.fixture
def neighbours(server: TritonServer, local: ZeroShotClassifier) -> Iterator[None]:
    """Valid requests to the same server while wrong requests are sent."""
    path = sample_paths()[1]
    (right,) = local.predict([read_reduced(path, local.spec.preprocess)])
    stop, wrong, answered = Event(), list[str](), list[Prediction]()

    def ask() -> None:
        with Client(server.grpc, ClientOptions(retries=0)) as client:
            while not stop.is_set():
                try:
                    (answer,) = client.predict([path])
                except Exception as error:  # noqa: BLE001 - whatever it is, it is shown below
                    wrong.append(repr(error))
                    return
                answered.append(answer)
                pairs = zip(answer.findings, right.findings, strict=True)
                if not all(abs(actual.probability - expected.probability) < 1e-6 for actual, expected in pairs):
                    wrong.append(f"not the right answer: {answer}")

    asking = [Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    yield
    stop.set()
    for thread in asking:
        thread.join()
    assert wrong == []
    assert len(answered) > 20


def check_line(line: str, request: requests.WrongRequest) -> None:
    """The error is one line with a reason, and shows no internals of the server."""
    assert line
    assert len(line) < 600
    assert not any(telltale in line for telltale in TELLTALES), line
    assert not re.search(r"unexpected \w+Error", line), line
    assert request.says in line, line


@how_many
def test_over_grpc(server: TritonServer, neighbours: None, examples: int) -> None:
    from tritonclient.grpc import service_pb2_grpc

    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        @settings(GENERATED, max_examples=examples)
        @given(requests.wrong_requests(SIZE))
        def refused(request: requests.WrongRequest) -> None:
            code, line = requests.over_grpc(stub, request)
            assert code in request.codes, line
            check_line(line, request)

        refused()


@how_many
def test_over_http(server: TritonServer, neighbours: None, examples: int) -> None:
    assert server.http is not None
    connection = http.client.HTTPConnection(server.http, timeout=30)

    @settings(GENERATED, max_examples=examples)
    @given(requests.wrong_requests(SIZE))
    def refused(request: requests.WrongRequest) -> None:
        status, line = requests.over_http(connection, request)
        allowed = {HTTP_CODES[code] for code in request.codes}
        if any(dim < 0 for tensor in request.tensors for dim in tensor.shape):
            allowed = {500}  # Triton's own JSON reader refuses a negative dimension with this code
        assert status in allowed, (status, line)
        check_line(line, request)

    refused()
    connection.close()
