"""A model in one file is the model that `onnx_ir` writes, whatever the sizes of its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lrclr_export.onnx.one_file import SMALL_WEIGHT, save_as_one_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

# Lengths around those at which protobuf needs one more byte for a length, and the limit of a small weight.
SIZES = (0, 1, 127, 128, SMALL_WEIGHT - 1, SMALL_WEIGHT, SMALL_WEIGHT + 1, 2**14 - 30, 2**14, 2**21 - 30, 2**21 + 1)


def model_of(weights: dict[str, NDArray[np.generic]]) -> onnx.ModelProto:
    """A model that gives the sum of each weight."""
    nodes = []
    for name in weights:
        nodes.append(helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("ReduceSum", [f"{name}_float"], [f"{name}_sum"], keepdims=0))
    outputs = [helper.make_tensor_value_info(f"{name}_sum", TensorProto.FLOAT, []) for name in weights]
    inits = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "sums", [], outputs, inits)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("sizes", [(), *((size,) for size in SIZES), SIZES], ids=str)
def test_it_is_the_same_model(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    weights: dict[str, NDArray[np.generic]] = {"half": np.arange(6, dtype=np.float16).reshape(2, 3)}
    weights |= {f"w{size}": random.integers(-9, 9, size, np.int8) for size in sizes}
    model = ir.serde.deserialize_model(model_of(weights))
    save_as_one_file(model, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    ir.save(model, tmp_path / "expected.onnx")
    ours, theirs = (onnx.load(tmp_path / name) for name in ("model.onnx", "expected.onnx"))
    onnx.checker.check_model(ours, full_check=True)
    for each in (ours, theirs):
        each.graph.initializer.sort(key=lambda tensor: tensor.name)
    assert ours == theirs
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    sums = [float(array.astype(np.float32).sum()) for array in weights.values()]
    np.testing.assert_allclose(session.run(None, {}), sums)
