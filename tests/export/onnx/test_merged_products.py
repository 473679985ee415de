"""Products of the same input become one product: values do not change, and ONNX Runtime multiplies in int8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from lrclr_export.onnx.merged_products import merge_products, products_in

if TYPE_CHECKING:
    from pathlib import Path

WIDTH = 8


def _model(kinds: list[tuple[str, int, bool]], seed: int) -> onnx.ModelProto:
    """A graph of products of one input ``[B, 3, 8]``, each with a kind of weight, a width, and an optional bias."""
    random = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, array: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    constant("scale", np.float32(0.02))
    constant("zero", np.int8(0))
    nodes.append(helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]))
    nodes.append(helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]))
    for number, (kind, width, biased) in enumerate(kinds):
        weight = random.standard_normal((WIDTH, width)).astype(np.float32)
        name, source = f"w{number}", "x"
        if kind == "transposed":
            nodes.append(helper.make_node("Transpose", [constant(f"t{number}", weight.T)], [name], perm=[1, 0]))
        elif kind == "int8":
            parts = [
                constant(f"i{number}", random.integers(-63, 64, (WIDTH, width), np.int8)),
                constant(f"s{number}", random.uniform(0.01, 0.1, width).astype(np.float32)),
                constant(f"z{number}", np.zeros(width, np.int8)),
            ]
            nodes.append(helper.make_node("DequantizeLinear", parts, [name], axis=1))
            source = "d"
        else:
            constant(name, weight)
        output = f"y{number}"
        nodes.append(helper.make_node("MatMul", [source, name], [f"p{number}" if biased else f"v{number}"]))
        if biased:
            bias = constant(f"b{number}", random.standard_normal(width).astype(np.float32))
            nodes.append(helper.make_node("Add", [f"p{number}", bias], [f"v{number}"]))
        nodes.append(helper.make_node("Neg", [f"v{number}"], [output]))
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, WIDTH])],
        [
            helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, ["batch", 3, width])
            for number, (_, width, _) in enumerate(kinds)
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _run(model: onnx.ModelProto, x: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


KIND = st.tuples(st.sampled_from(["plain", "transposed", "int8"]), st.integers(1, 9), st.booleans())


@settings(max_examples=40)
@given(st.lists(KIND, min_size=1, max_size=6), st.integers(0, 2**16))
def test_values_and_names_stay(kinds: list[tuple[str, int, bool]], seed: int) -> None:
    original = _model(kinds, seed)
    model = ir.serde.deserialize_model(original)
    merge_products(model)
    merged = ir.serde.serialize_model(model)
    onnx.checker.check_model(merged, full_check=True)
    x = np.random.default_rng(seed).standard_normal((2, 3, WIDTH)).astype(np.float32)
    for before, after in zip(_run(original, x), _run(merged, x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert {f"v{number}" for number in range(len(kinds))} <= {
        name for node in merged.graph.node for name in node.output
    }
    multiplies = [node for node in model.graph if node.op_type == "MatMul"]
    assert len(multiplies) == len({(kind, biased) for kind, _, biased in kinds})
    assert sum(map(products_in, multiplies)) == len(kinds)


def test_no_merged_weight_is_transposed_at_run_time() -> None:
    """Two groups of products share their transposed weights. A single product keeps its own weight."""
    original = _model([("transposed", 4, True), ("transposed", 3, True)], 0)
    nodes = original.graph.node
    for number in range(2):
        # The same weights, multiplied with another input.
        nodes.append(helper.make_node("MatMul", ["d", f"w{number}"], [f"again{number}"]))
    original.graph.output.extend(
        helper.make_tensor_value_info(f"final{number}", TensorProto.FLOAT, ["batch", 3, None]) for number in range(2)
    )
    nodes.extend(helper.make_node("Neg", [f"again{number}"], [f"final{number}"]) for number in range(2))
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(original))
    merge_products(model)
    merged = ir.serde.serialize_model(model)
    assert [node.op_type for node in merged.graph.node].count("Transpose") == 0
    assert [node.op_type for node in merged.graph.node].count("MatMul") == 2
    assert sum(one.name.startswith("t0.merged") for one in merged.graph.initializer) == 1
    x = np.random.default_rng(0).standard_normal((2, 3, WIDTH)).astype(np.float32)
    for before, after in zip(_run(original, x), _run(merged, x), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder", "fusion_head"])
def test_onnxruntime_multiplies_every_layer_in_int8(int8_bundle: Path, graph: str, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(int8_bundle / graph / "1" / "model.onnx", options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    quantised = [node for node in optimised.node if node.op_type == "DequantizeLinear"]
    stored = onnx.load(int8_bundle / graph / "1" / "model.onnx", load_external_data=False).graph
    constants = {one.name for one in stored.initializer}
    weights = {
        node.output[0] for node in stored.node if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }
    products = sum(node.op_type == "MatMul" and node.input[1] in weights for node in stored.node)
    assert not quantised
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in optimised.node) == products >= len(weights) > 0
