"""The replacement of Triton's ONNX Runtime backend gives the results of a session, for all types and batch sizes."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tritonclient import grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from lrclr.bundle import GRAPHS

# Private: where the installed server is.
from lrclr.triton.server._locate import find_server
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrclr.triton.server import TritonServer

pytestmark = pytest.mark.triton
TYPES = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


def ask(client: Any, model: str, arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """All outputs of a model."""
    sent = []
    for name, array in arrays.items():
        sent.append(grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype)))
        sent[-1].set_data_from_numpy(array)
    result = client.infer(model, sent)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


@pytest.fixture
def client(server: TritonServer) -> Iterator[Any]:
    opened = grpc.InferenceServerClient(server.grpc)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def sessions(folder: Path) -> dict[str, Any]:
    return {graph: onnxruntime.InferenceSession(folder / graph / "1" / "model.onnx") for graph in GRAPHS}


def random_inputs(graph: str, rows: int, sessions: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Random input with this number of rows."""
    rng = np.random.default_rng(rows)
    if graph == "image_encoder":
        return {"pixel_values": rng.normal(size=[rows, *sessions[graph].get_inputs()[0].shape[1:]]).astype(np.float32)}
    ids = rng.integers(1, 49_000, (rows, 3 + rows))
    ids[:, -1] = 49_407
    if graph == "text_encoder":
        return {"input_ids": ids}
    image = sessions["image_encoder"].run(["region_tokens"], random_inputs("image_encoder", 2, sessions))[0]
    text = sessions["text_encoder"].run(["text_tokens"], {"input_ids": ids})[0]
    return {"region_tokens": image, "text_tokens": text, "text_mask": np.ones_like(ids)}


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("graph", GRAPHS)
def test_each_graph_equals_a_session(client: Any, sessions: dict[str, Any], graph: str, rows: int) -> None:
    arrays = random_inputs(graph, rows, sessions)
    answer = ask(client, graph, arrays)
    names = [output.name for output in sessions[graph].get_outputs()]
    assert sorted(answer) == sorted(names)
    for name, expected in zip(names, sessions[graph].run(names, arrays), strict=True):
        assert np.array_equal(answer[name], expected)


def test_a_bad_request_does_not_affect_others_in_its_batch(client: Any, sessions: dict[str, Any]) -> None:
    ids = random_inputs("text_encoder", 3, sessions)["input_ids"]
    good = [np.concatenate([(ids[:, :-1] + k) % 49_000, ids[:, -1:]], axis=1) for k in range(24)]
    bad = np.full((3, 6), 10**6)
    requests = [bad if k % 5 == 2 else ids for k, ids in enumerate(good)]

    def send(ids: np.ndarray[Any, Any]) -> Any:
        try:
            return ask(client, "text_encoder", {"input_ids": ids})
        except InferenceServerException as error:
            return error

    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(send, requests))
    for ids, answer in zip(requests, answers, strict=True):
        if ids is bad:
            assert isinstance(answer, InferenceServerException)
            assert "INVALID_ARGUMENT" in str(answer.status())
        else:
            expected = sessions["text_encoder"].run(["text_embedding"], {"input_ids": ids})[0]
            assert np.allclose(answer["text_embedding"], expected, atol=1e-6)


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with two models, with and without batches, that return a tensor of each type unchanged."""
    root = tmp_path_factory.mktemp("echo")
    for batch in (0, 8):
        values: dict[str, list[Any]] = {"x": [], "y": []}
        described: dict[str, list[str]] = {"x": [], "y": []}
        dims = "[-1]" if batch else "[-1, -1]"
        for name in TYPES:
            kind = getattr(TensorProto, {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE"}.get(name, name))
            for side in "xy":
                values[side].append(helper.make_tensor_value_info(f"{side}_{name}", kind, ["a", f"b_{name}"]))
                described[side].append(f'{{ name: "{side}_{name}" data_type: TYPE_{name} dims: {dims} }}')
        nodes = [helper.make_node("Identity", [f"x_{name}"], [f"y_{name}"]) for name in TYPES]
        graph = helper.make_graph(nodes, "echo", values["x"], values["y"])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        folder = root / f"echo_{batch}"
        (folder / "1").mkdir(parents=True)
        onnx.save(model, folder / "1" / "model.onnx")
        (folder / "config.pbtxt").write_text(
            f'backend: "onnxruntime" max_batch_size: {batch} input [{", ".join(described["x"])}] '
            f"output [{', '.join(described['y'])}]" + (" dynamic_batching {}" if batch else "")
        )
    installation = find_server()
    (port,) = bundles.free_ports(1)
    command = [str(installation.program), f"--model-repository={root}", f"--grpc-port={port}"]
    command += ["--grpc-address=127.0.0.1", "--allow-http=false", "--allow-metrics=false", "--exit-timeout-secs=3"]
    command += [f"--backend-directory={installation.backends}"] if installation.backends else []
    process = subprocess.Popen(
        command, env=installation.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    client = grpc.InferenceServerClient(f"127.0.0.1:{port}")

    def ready() -> bool:
        try:
            return bool(client.is_server_ready())
        except InferenceServerException:
            return False

    bundles.wait_until(ready, process)
    yield client
    client.close()
    process.terminate()
    process.wait()


@pytest.mark.parametrize("batch", [0, 8])
def test_every_type_is_returned_unchanged(echo: Any, batch: int) -> None:
    rng = np.random.default_rng(batch)

    def random_tensor(name: str, rows: int) -> np.ndarray[Any, Any]:
        dtype = np.dtype(TYPES[name])
        raw = rng.integers(0, 256, (rows, 4 * dtype.itemsize), np.uint8)
        return (raw > 127) if name == "BOOL" else raw.view(dtype)

    requests = [{f"x_{name}": random_tensor(name, 1 + place % 5) for name in TYPES} for place in range(20)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda arrays: ask(echo, f"echo_{batch}", arrays), requests))
    for request, answer in zip(requests, answers, strict=True):
        for name, dtype in TYPES.items():
            assert answer[f"y_{name}"].dtype == np.dtype(dtype)
            assert answer[f"y_{name}"].tobytes() == request[f"x_{name}"].tobytes()
