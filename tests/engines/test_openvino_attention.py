"""Rearranged attention computes the same, and OpenVINO neither copies it for a split nor scales it at each run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrclr import Bundle
from lrclr.contract import GRAPHS

# Private: engines do not show the graphs that they run.
from lrclr.engines._openvino import read_model
from lrclr.engines._openvino_attention import rearrange_attention
from tests import bundles

openvino = pytest.importorskip("openvino")
op = openvino.opset14


def attention(
    heads: int,
    width: int,
    parts: int,
    *,
    open_size: int,
    before: float,
    after: float,
    transposed: bool,
    kept: bool,
    half: bool,
) -> Any:
    """A model of one attention whose query, key and perhaps value are parts of one product, on tokens ``[B, N, 8]``.

    Args:
        heads, width: sizes of the attention.
        parts: 3, or 2 for query and key alone; the value is then the key.
        open_size: which of the two sizes the graph leaves open, 0 or 1.
        before, after: factors of the query and of the scores; 1 for no factor.
        transposed: whether the key is put into the order of the product at once.
        kept: whether the query is also an output, so that it must keep its value.
        half: whether all is in float16.
    """
    rng = np.random.default_rng(heads * 100 + width)
    dtype = np.float16 if half else np.float32

    def number(*shape: int) -> Any:
        return op.constant(rng.normal(0, 0.3, shape).astype(dtype))

    def scaled(value: Any, factor: float) -> Any:
        return value if factor == 1 else op.multiply(value, op.constant(np.array(factor, dtype)))

    tokens = op.parameter([-1, -1, 8], dtype)
    columns = heads * width
    sizes = [heads, width]
    sizes[open_size] = -1
    product = op.add(op.matmul(tokens, number(8, parts * columns), False, False), number(parts * columns))
    split = op.variadic_split(product, np.int64(-1), np.array([columns] * parts))
    shape = op.concat([op.slice(op.shape_of(product, "i64"), [0], [2], [1], [0]), op.constant(sizes)], 0)

    def part(place: int, order: list[int]) -> Any:
        return op.transpose(op.reshape(split.output(place), shape, special_zero=False), np.array(order))

    query, key = part(0, [0, 2, 1, 3]), part(1, [0, 2, 3, 1] if transposed else [0, 2, 1, 3])
    value = part(2, [0, 2, 1, 3]) if parts == 3 else op.transpose(key, np.array([0, 1, 3, 2])) if transposed else key
    scores = scaled(op.matmul(scaled(query, before), key, False, not transposed), after)
    results = [op.matmul(op.softmax(scores, -1), value, False, False), *([query] if kept else [])]
    return openvino.Model(results, [tokens])


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 6), st.sampled_from([2, 3])),
    rows=st.tuples(st.integers(1, 3), st.integers(1, 5)),
    half=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "open_size": st.sampled_from([0, 1]),
            "before": st.sampled_from([1.0, 0.25, 0.3]),
            "after": st.sampled_from([1.0, 0.5, 1.7]),
            "transposed": st.booleans(),
            "kept": st.booleans(),
        }
    ),
)
def test_it_computes_the_same(
    sizes: tuple[int, int, int], rows: tuple[int, int], half: bool, options: dict[str, Any]
) -> None:
    made = [attention(*sizes, half=half, **options) for _ in range(2)]
    rearrange_attention(op, made[1])
    splits = [[name for node in model.get_ops() if "Split" in (name := node.get_type_name())] for model in made]
    assert splits == [["VariadicSplit"], ["Split"]]
    # One vector, with a factor for each column of the product, replaces the factors, unless the query is an output.
    if not options["kept"]:
        factors = [node.input_value(1) for node in made[1].get_ops() if node.get_type_name() == "Multiply"]
        scales = options["before"] * options["after"] != 1
        assert [factor.get_shape() for factor in factors] == [[math.prod(sizes)]] * scales
    tokens = np.random.default_rng(1).normal(size=(*rows, 8)).astype(np.float16 if half else np.float32)
    core = openvino.Core()
    wanted, found = (
        [
            np.array(each)
            for each in core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(tokens).values()
        ]
        for model in made
    )
    for expected, got in zip(wanted, found, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=5e-3 if half else 1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_graph_is_split_along_its_first_axis(
    precision: str, quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bundle = Bundle(bundles.exported(tmp_path_factory.getbasetemp(), precision))
    for graph in GRAPHS:
        splits = [node for node in read_model(bundle.graph_path(graph)).get_ops() if "Split" in node.get_type_name()]
        assert splits
        assert [int(node.input_value(1).get_node().data) for node in splits] == [0] * len(splits)
