"""A bundle with the engine OpenVINO on a real server gives the same answers and uses its own configuration."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from lrclr import Bundle, ZeroShotClassifier, read_image
from lrclr.bundle import GRAPHS, Golden
from lrclr.errors import ServerError
from lrclr.samples import sample_paths
from lrclr.triton.client import Client
from lrclr.triton.server import ServeOptions, TritonServer

# Private: where the installed server is.
from lrclr.triton.server._locate import find_server
from lrclr_export import build_bundle
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

pytest.importorskip("openvino")
pytestmark = pytest.mark.triton
ANY_PORTS = ServeOptions(grpc_port=0, http=False, metrics=False, instances=1)


@pytest.fixture(scope="module")
def served(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bundle, Any]]:
    """A bundle for OpenVINO and its server."""
    exported = bundles.exported(tmp_path_factory.getbasetemp(), "fp16")
    copy = bundles.copied(exported, tmp_path_factory.mktemp("openvino") / "bundle")
    bundle = build_bundle(copy, "openvino")
    with TritonServer(copy, ANY_PORTS) as running:
        yield bundle, running


def ask(address: str, graph: str, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    sent = []
    for name, array in arrays.items():
        sent.append(grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        sent[-1].set_data_from_numpy(array)
    client = grpc.InferenceServerClient(address)
    result = client.infer(graph, sent)
    client.close()
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def test_files_give_the_same_answers_as_without_a_server(served: tuple[Bundle, Any]) -> None:
    bundle, server = served
    local = ZeroShotClassifier(bundle, ZeroShotClassifier.from_bundle(bundle.path).engine)
    assert local.engine.name.startswith("openvino ")
    paths = sample_paths()[:2]
    expected = local.predict([read_image(path) for path in paths])
    with Client(server.grpc) as client:
        got = client.predict([path.read_bytes() for path in paths])
    for actual, wanted in zip(got, expected, strict=True):
        assert [region.patch for region in actual.regions] == [region.patch for region in wanted.regions]
        for finding, wanted_finding in zip(actual.findings, wanted.findings, strict=True):
            assert finding.probability == pytest.approx(wanted_finding.probability, abs=1e-5)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("graph", GRAPHS)
def test_each_graph_equals_the_engine(served: tuple[Bundle, Any], graph: str, rows: int) -> None:
    bundle, server = served
    golden = Golden.load(bundle.golden_path)
    of_graph: dict[str, dict[str, NDArray[Any]]] = {
        "image_encoder": {"pixel_values": golden["pixel_values"][:rows]},
        "text_encoder": {"input_ids": golden["input_ids"][:rows]},
        "fusion_head": {
            "region_tokens": golden["region_tokens"][:rows],
            "text_tokens": golden["text_tokens"][:5],
            "text_mask": golden["text_mask"][:5],
        },
    }
    inputs = of_graph[graph]
    expected = ZeroShotClassifier.from_bundle(bundle.path).engine.run(graph, inputs)
    got = ask(server.grpc, graph, inputs)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype
        assert got[name] == pytest.approx(array, abs=1e-5)


def test_a_bad_request_does_not_affect_others(served: tuple[Bundle, Any]) -> None:
    bundle, server = served
    pixels = Golden.load(bundle.golden_path)["pixel_values"]
    bad = np.zeros((1, 3, 7, 7), np.float32)

    def request_number(place: int) -> Any:
        try:
            return ask(server.grpc, "image_encoder", {"pixel_values": bad if place % 3 == 1 else pixels[:1]})
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(request_number, range(12)))
    for place, answer in enumerate(answers):
        assert isinstance(answer, InferenceServerException) == (place % 3 == 1)


@pytest.mark.slow
def test_a_server_without_the_backend_is_refused(served: tuple[Bundle, Any], tmp_path: Path) -> None:
    """lrclr refuses it in one line with the command that helps. Triton's own error would be many lines."""
    installation = find_server()
    if installation.backends is None:
        pytest.skip("this server's backends are its own")
    # Three folders deep, because the path of the program tells where its Python is.
    other = tmp_path / "server" / "pytriton" / "tritonserver"
    (other / "bin").mkdir(parents=True)
    (other / "backends" / "python").mkdir(parents=True)
    shutil.copy(installation.program, other / "bin")
    python = tmp_path / "server" / "python" / "bin"
    python.mkdir(parents=True)
    (python / "python").symlink_to("/usr/bin/env")
    options = ServeOptions(grpc_port=0, http=False, metrics=False, server=other / "bin" / "tritonserver")
    with (
        pytest.raises(ServerError, match="cannot run the bundle's engine openvino"),
        TritonServer(served[0].path, options),
    ):
        pass
