"""The ONNX definition of ``lrclr::RegionSelect``, compared with the network's region selection."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from lrclr.errors import UsageError
from lrclr.model import rollout_row, select_regions
from lrclr_export.onnx.region_function import DOMAIN, OP_TYPE, region_function

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


@cache
def session(
    layers: int, top_k: int, mean: bool, *, prefix: int = 1, opset: int = 20, half: bool = False
) -> onnxruntime.InferenceSession:
    """A model of the single node, run from its function body."""
    maps = ["start", *(f"map_{i}" for i in range(layers - 1))]
    tokens = HALF if half else FLOAT
    attributes = {
        "top_k": top_k,
        "mean": int(mean),
        "prefix": prefix,
        "plugin_namespace": "lrclr",
        "plugin_version": "1",
    }
    outputs = ["region_tokens", "region_index", "region_importance"]
    graph = helper.make_graph(
        [helper.make_node(OP_TYPE, ["tokens", *maps], outputs, domain=DOMAIN, **attributes)],
        "region_select",
        [
            helper.make_tensor_value_info("tokens", tokens, ["B", "N", "D"]),
            *(helper.make_tensor_value_info(name, FLOAT, ["B", "G", None, "N"]) for name in maps),
        ],
        [helper.make_tensor_value_info(n, t, None) for n, t in zip(outputs, (tokens, INT64, FLOAT), strict=True)],
    )
    model = helper.make_model(
        graph,
        functions=[region_function(layers - 1, mean=mean, prefix=prefix, opset=opset)],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 2)],
        ir_version=10,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def random_case(
    seed: int, batch: int, heads: int, patches: int, layers: int, prefix: int = 1
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Maps, with the start row last, and tokens."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, heads, patches + prefix, patches + prefix)
    maps = [torch.randn(shape, generator=generator).mul(3).softmax(-1) for _ in range(layers)]
    maps[-1] = maps[-1][:, :, :1]
    return maps, torch.randn(batch, patches + prefix, 5, generator=generator)


def run(
    maps: list[torch.Tensor], tokens: torch.Tensor, top_k: int, mean: bool, prefix: int = 1, **kwargs: Any
) -> list[NDArray[Any]]:
    inputs = {"tokens": tokens.numpy(), "start": maps[-1][:, :, :1].numpy()}
    inputs |= {f"map_{i}": each.numpy() for i, each in enumerate(maps[:-1])}
    outputs: list[NDArray[Any]] = session(len(maps), top_k, mean, prefix=prefix, **kwargs).run(None, inputs)
    return outputs


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 3),
    heads=st.integers(1, 4),
    patches=st.integers(1, 9),
    layers=st.integers(1, 4),
    top_k=st.integers(1, 9),
    mean=st.booleans(),
    prefix=st.integers(0, 1),
)
@example(seed=0, batch=1, heads=1, patches=1, layers=1, top_k=1, mean=True, prefix=1)
@example(seed=0, batch=1, heads=2, patches=3, layers=1, top_k=1, mean=True, prefix=0)
def test_the_function_is_the_networks_selection(
    seed: int, batch: int, heads: int, patches: int, layers: int, top_k: int, mean: bool, prefix: int
) -> None:
    maps, tokens = random_case(seed, batch, heads, patches, layers, prefix)
    top_k = min(top_k, patches)
    expected = select_regions(maps, tokens, top_k, mean, prefix)
    got_tokens, index, importance = run(maps, tokens, top_k, mean, prefix)
    np.testing.assert_allclose(importance, expected.importance.numpy(), rtol=2e-5, atol=1e-7)
    # Float32 sums in another order may exchange two patches with equal importance up to rounding, but no others.
    rollout = rollout_row(maps, mean=mean, prefix=prefix).numpy()
    chosen = np.take_along_axis(rollout, index.reshape(*rollout.shape[:2], top_k), axis=-1).reshape(importance.shape)
    np.testing.assert_allclose(chosen, expected.importance.numpy(), rtol=2e-5, atol=1e-7)
    rows = np.concatenate([np.zeros((batch, prefix), np.int64), index + prefix], axis=1)
    np.testing.assert_array_equal(got_tokens, np.take_along_axis(tokens.numpy(), rows[..., None], axis=1))
    assert all(len(set(group)) == top_k for group in index.reshape(-1, top_k).tolist())


@settings(max_examples=60, deadline=None)
@given(
    levels=st.lists(st.integers(0, 2), min_size=2, max_size=9),
    heads=st.integers(1, 3),
    layers=st.integers(1, 3),
    top_k=st.integers(1, 9),
    mean=st.booleans(),
)
@example(levels=[1, 1, 1, 1], heads=2, layers=3, top_k=3, mean=False)
@example(levels=[0, 0, 0], heads=1, layers=1, top_k=3, mean=True)
def test_ties_go_to_the_lowest_patch_in_both(
    levels: list[int], heads: int, layers: int, top_k: int, mean: bool
) -> None:
    patches, top_k = len(levels), min(top_k, len(levels))
    # Permutations and powers of two: every product and sum is exact, so equal values stay equal.
    row = torch.tensor([1.0, *(2.0**level for level in levels)])
    maps = [torch.eye(patches + 1).repeat(1, heads, 1, 1) for _ in range(layers - 1)]
    maps.append(row.repeat(1, heads, 1, 1))
    tokens = torch.arange(float(patches + 1))[None, :, None]
    expected = select_regions(maps, tokens, top_k, mean)
    got_tokens, index, _ = run(maps, tokens, top_k, mean)
    np.testing.assert_array_equal(index, expected.index.numpy())
    np.testing.assert_array_equal(got_tokens, expected.tokens.numpy())
    best = sorted(range(patches), key=lambda patch: (-levels[patch], patch))[:top_k]
    assert index[0].tolist() == best * (1 if mean else heads)


@pytest.mark.parametrize("mean", [False, True])
def test_half_precision_tokens_are_gathered_as_they_are(mean: bool) -> None:
    maps, tokens = random_case(5, 2, 3, 8, 3)
    got_tokens, index, importance = run(maps, tokens.half(), 2, mean, half=True)
    expected = select_regions(maps, tokens.half(), 2, mean)
    assert got_tokens.dtype == np.float16
    assert importance.dtype == np.float32
    np.testing.assert_array_equal(index, expected.index.numpy())
    np.testing.assert_array_equal(got_tokens, expected.tokens.numpy())


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("opset", [18, 20, 23])
def test_every_opset_has_the_same_definition(mean: bool, opset: int) -> None:
    maps, tokens = random_case(9, 2, 3, 8, 3)
    found = run(maps, tokens, 2, mean, opset=opset)
    for got, expected in zip(found, select_regions(maps, tokens, 2, mean), strict=True):
        np.testing.assert_allclose(got, expected.numpy(), rtol=1e-5)


def test_no_more_patches_than_there_are() -> None:
    from lrclr.checkpoints import init_checkpoint

    with pytest.raises(UsageError, match="region_top_k"):
        init_checkpoint("tiny", region_top_k=50)


def test_the_function_names_what_tensorrt_looks_for() -> None:
    function = region_function(2, mean=False, prefix=1, opset=20)
    assert set(function.attribute) == {"top_k", "mean", "prefix", "plugin_namespace", "plugin_version"}
    assert isinstance(function, onnx.FunctionProto)
    assert list(function.input) == ["tokens", "start", "map_0", "map_1"]
