"""Memory of a server under the largest accepted requests, and requests that are refused before they use memory."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc  # type: ignore[import-untyped, unused-ignore]
import numpy as np
import pytest
from tritonclient.grpc import service_pb2_grpc

from benchmarks.serving.memory import Peak
from lrclr import Bundle, budget
from lrclr.deploy import DeployOptions

# Private: the memory that the charts reserve, without rendering a chart.
from lrclr.deploy._facts import Facts
from lrclr.deploy._resources import memory_mib
from lrclr.errors import ServerUnavailableError
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.protocol import MAX_QUEUED
from lrclr.triton.server import ServeOptions, TritonServer
from tests.triton import worst_requests as worst
from tests.triton import wrong_requests as requests
from tests.triton.wrong_requests import WireTensor, byte_tensor, numbers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

pytestmark = pytest.mark.triton
INSTANCES = 2


@pytest.mark.slow
def test_the_largest_requests_stay_below_what_a_deployment_has(folder: Path) -> None:
    facts = Facts.of(Bundle(folder), DeployOptions("registry.example/lrclr:1", instances=INSTANCES))
    requests = list(worst.worst_requests()) * 2
    random.Random(0).shuffle(requests)
    options = ServeOptions(grpc_port=0, http=False, metrics=False, instances=INSTANCES)
    refused = list[str]()

    def ask_all(client: Client, request: dict[str, Any]) -> None:
        try:
            client.ask(**request)
        except ServerUnavailableError as error:
            refused.append(str(error))

    # As many at the same time as can be processed and can wait.
    waiting = INSTANCES + MAX_QUEUED
    with (
        TritonServer(folder, options) as server,
        # A request that finds the queue full for a moment is repeated.
        Client(server.grpc, ClientOptions(timeout=900)) as client,
        Peak(server.pid) as peak,
        ThreadPoolExecutor(waiting) as pool,
    ):
        list(pool.map(lambda request: ask_all(client, request), requests))
    print(peak.largest, memory_mib(facts))
    assert refused == []
    # The peak is not far below the limit, so the limit is meaningful.
    assert memory_mib(facts) / 4 < peak.largest["all"] < memory_mib(facts)


def ask(server: TritonServer, *tensors: WireTensor) -> tuple[str, str]:
    """Status and error of a request that is sent unchanged."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.grpc, options=options) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return requests.over_grpc(stub, requests.about("size", *tensors))


GOOD = requests.GOOD_IMAGE
TRUE = np.array([True])
# The request, and a word of the error.
TOO_MUCH: dict[str, tuple[Callable[[], tuple[WireTensor, ...]], str]] = {
    "bytes": (lambda: (byte_tensor("image", bytes(budget.REQUEST_BYTES)),), f"the limit is {budget.REQUEST_BYTES}"),
    "bytes of images together": (
        lambda: (byte_tensor("image", *[bytes(budget.REQUEST_BYTES // 8 + 1)] * 8),),
        f"the limit is {budget.REQUEST_BYTES}",
    ),
    "images": (
        lambda: (byte_tensor("image", *[b"x"] * (budget.REQUEST_IMAGES + 1)),),
        f"the limit is {budget.REQUEST_IMAGES}",
    ),
    "pixel values": (
        lambda: (numbers("pixel_values", "FP32", requests.pixels(112, budget.REQUEST_IMAGES + 1)),),
        f"the limit is {budget.REQUEST_IMAGES}",
    ),
    "heat maps": (
        lambda: (byte_tensor("image", *[GOOD] * (budget.REQUEST_HEATMAPS + 1)), numbers("heatmap", "BOOL", TRUE)),
        f"the limit is {budget.REQUEST_HEATMAPS}",
    ),
    "findings as TOML": (
        lambda: (requests.IMAGE, byte_tensor("findings_toml", b"#" * (budget.FINDINGS_BYTES + 1))),
        f"the limit is {budget.FINDINGS_BYTES}",
    ),
    "names of findings": (
        lambda: (requests.IMAGE, byte_tensor("finding", *[b"Edema"] * (budget.FINDINGS_BYTES // 5 + 1))),
        f"the limit is {budget.FINDINGS_BYTES}",
    ),
    "findings that share their prompts": (
        lambda: (
            requests.IMAGE,
            byte_tensor(
                "findings_toml",
                "\n".join(
                    ['positive = ["a"]', 'negative = ["b"]', *(f'[[finding]]\nname = "F{k}"' for k in range(257))]
                ).encode(),
            ),
        ),
        "there are 257 findings",
    ),
    "memory of an image": (
        lambda: (byte_tensor("image", worst.transparent_png(1.2)), numbers("exact", "BOOL", TRUE)),
        "512 MiB that a process may use",
    ),
    "memory of a deflated file": (
        lambda: (
            byte_tensor("image", worst.dicom(70 * 2**20, syntax="1.2.840.10008.1.2.1.99", photometric="MONOCHROME2")),
        ),
        "128 MiB that a process may use",
    ),
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_too_much_is_refused_as_the_callers_mistake(server: TritonServer, what: str) -> None:
    tensors, words = TOO_MUCH[what]
    code, line = ask(server, *tensors())
    assert code == "INVALID_ARGUMENT"
    assert words in line


def test_what_is_refused_for_its_size_is_not_decoded(server: TritonServer) -> None:
    """Its first image is damaged, which would be the reason if the images were decoded."""
    _, line = ask(server, byte_tensor("image", b"no image", bytes(budget.REQUEST_BYTES)))
    assert f"the limit is {budget.REQUEST_BYTES}" in line
    _, line = ask(server, byte_tensor("image", b"no image"), byte_tensor("findings_toml", b"#" * (2**20)))
    assert f"the limit is {budget.FINDINGS_BYTES}" in line


def test_the_largest_numbers_are_taken(server: TritonServer) -> None:
    images = [GOOD] * budget.REQUEST_IMAGES
    with Client(server.grpc, ClientOptions(retries=0)) as client:
        assert len(client.ask(images, findings=worst.new_findings(256)).predictions) == budget.REQUEST_IMAGES
        assert len(client.ask(images[: budget.REQUEST_HEATMAPS], heatmap=True).heatmaps) == budget.REQUEST_HEATMAPS
