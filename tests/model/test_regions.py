"""Region selection, compared with NumPy: the full product of the layers' matrices, and a stable sort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrclr.errors import NonFiniteError
from lrclr.model import Regions, rollout_row, select_regions

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.floating[Any]]

# Sharpness of the softmax: almost even rows, ordinary rows, and rows with a single value above zero.
SHARPNESS = [0.0, 1.0, 10.0, 1e4]


def attention(layers: int, heads: int, tokens: int, sharpness: list[float], seed: int) -> list[Array]:
    """Softmax rows ``[2, heads, tokens, tokens]`` in float32, for each layer; layers differ in their sharpness."""
    rng = np.random.default_rng(seed)
    maps = []
    for layer in range(layers):
        logits = rng.standard_normal((2, heads, tokens, tokens)) * sharpness[layer % len(sharpness)]
        rows = np.exp(logits - logits.max(-1, keepdims=True))
        maps.append((rows / rows.sum(-1, keepdims=True)).astype(np.float32))
    return maps


def whole_product(maps: list[Array]) -> Array:
    """The row of CLS in ``A_L @ ... @ A_1`` for every head, without the column of CLS, in float64."""
    product = np.eye(maps[0].shape[-1])
    for matrix in maps:
        product = np.einsum("bhij,bhjk->bhik", matrix.astype(np.float64), np.broadcast_to(product, matrix.shape))
    row: Array = product[:, :, 0, 1:]
    return row


def abnar_zuidema(maps: list[Array]) -> Array:
    """Attention rollout as published: heads averaged, the residual as identity, rows normalised to sum 1."""
    tokens = maps[0].shape[-1]
    rollout = np.broadcast_to(np.eye(tokens), (maps[0].shape[0], tokens, tokens))
    for matrix in maps:
        mixed = 0.5 * matrix.astype(np.float64).mean(1) + 0.5 * np.eye(tokens)
        rollout = (mixed / mixed.sum(-1, keepdims=True)) @ rollout
    row: Array = rollout[:, None, 0, 1:]
    return row


@settings(max_examples=150, deadline=None)
@given(
    layers=st.integers(1, 12),
    heads=st.integers(1, 5),
    tokens=st.integers(2, 50),
    sharpness=st.lists(st.sampled_from(SHARPNESS), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
    mean=st.booleans(),
    last_row_only=st.booleans(),
)
def test_the_chain_equals_the_full_product(
    layers: int,
    heads: int,
    tokens: int,
    sharpness: list[float],
    seed: int,
    *,
    mean: bool,
    last_row_only: bool,
) -> None:
    maps = attention(layers, heads, tokens, sharpness, seed)
    expected = abnar_zuidema(maps) if mean else whole_product(maps)
    tensors = [torch.from_numpy(matrix) for matrix in maps]
    if last_row_only:
        tensors[-1] = tensors[-1][:, :, :1]
    row = rollout_row(tensors, mean=mean)
    assert row.dtype == torch.float32
    assert row.shape == expected.shape
    np.testing.assert_allclose(row.numpy(), expected, rtol=1e-5, atol=1e-7)


def test_averaged_maps_are_not_changed() -> None:
    maps = [torch.from_numpy(matrix) for matrix in attention(4, 3, 10, [1.0], 0)]
    averaged = [matrix.mean(1, keepdim=True) for matrix in maps]
    torch.testing.assert_close(rollout_row(averaged, mean=True), rollout_row(maps, mean=True))


def test_half_precision_maps_are_multiplied_in_float32() -> None:
    maps = [torch.from_numpy(matrix).half() for matrix in attention(6, 2, 30, [5.0], 1)]
    expected = whole_product([matrix.float().numpy() for matrix in maps])
    np.testing.assert_allclose(rollout_row(maps, mean=False).numpy(), expected, rtol=1e-5, atol=1e-7)


def choose(maps: list[Tensor], top_k: int, *, mean: bool = False) -> Regions:
    """Regions of maps ``[B, G, N, N]``. Each token contains its own number."""
    batch, tokens = maps[0].shape[0], maps[0].shape[-1]
    numbers = torch.arange(tokens, dtype=torch.float32).expand(batch, tokens).unsqueeze(-1)
    return select_regions(maps, numbers, top_k, mean)


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(2, 40)),
    layers=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
    data=st.data(),
)
def test_ties_go_to_the_lowest_patch(shape: tuple[int, int, int], layers: int, seed: int, data: st.DataObject) -> None:
    batch, heads, tokens = shape
    top_k = data.draw(st.integers(1, tokens - 1))
    # Small whole numbers: products are exact and often equal.
    rng = np.random.default_rng(seed)
    maps = [rng.integers(0, 3, (batch, heads, tokens, tokens)).astype(np.float32) for _ in range(layers)]
    importance = whole_product(maps)
    order = np.argsort(-importance, axis=-1, kind="stable")[..., :top_k]
    regions = choose([torch.from_numpy(matrix) for matrix in maps], top_k)
    assert regions.index.dtype == torch.int64
    np.testing.assert_array_equal(regions.index.numpy(), order.reshape(batch, -1))
    expected = np.take_along_axis(importance, order, -1).reshape(batch, -1)
    np.testing.assert_array_equal(regions.importance.numpy(), expected)
    # Token n contains n, and patch n is token n + 1.
    np.testing.assert_array_equal(regions.tokens[:, 0, 0].numpy(), np.zeros(batch))
    np.testing.assert_array_equal(regions.tokens[:, 1:, 0].numpy(), order.reshape(batch, -1) + 1)


def test_equal_attention_selects_the_first_patches() -> None:
    # A power of two: sums are exact in any order.
    even = [torch.full((2, 3, 64, 64), 1 / 64)] * 4
    for top_k in (1, 5, 63):
        regions = choose(even, top_k)
        assert torch.equal(regions.index, torch.arange(top_k).repeat(3).expand(2, -1))


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("top_k", [1, 3, 9])
def test_importance_equals_the_rollout_at_the_index(top_k: int, *, mean: bool) -> None:
    maps = [torch.from_numpy(matrix) for matrix in attention(3, 4, 10, [2.0], 7)]
    groups = 1 if mean else 4
    regions = choose(maps, top_k, mean=mean)
    assert regions.index.shape == regions.importance.shape == (2, groups * top_k)
    assert regions.tokens.shape == (2, 1 + groups * top_k, 1)
    rollout = rollout_row(maps, mean=mean)
    index = regions.index.unflatten(1, (groups, top_k))  # type: ignore[no-untyped-call]
    assert torch.equal(rollout.gather(-1, index).flatten(1), regions.importance)
    falling = regions.importance.view(2, groups, top_k).diff(dim=-1)
    assert bool((falling <= 0).all())


def test_a_patch_that_two_heads_select_is_listed_twice() -> None:
    row = torch.tensor([0.1, 0.2, 0.7]).expand(1, 2, 1, 3)
    assert choose([row], 1).index.tolist() == [[1, 1]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_values_that_are_not_finite_are_refused(value: float, layer: int, *, mean: bool) -> None:
    maps = [torch.from_numpy(matrix) for matrix in attention(3, 2, 5, [1.0], 0)]
    maps[layer][1, 1, 0, 3] = value
    with pytest.raises(NonFiniteError, match="not finite"):
        choose(maps, 1, mean=mean)
