"""The region kernel on a GPU: the tests of its host-compiled code, on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.gpu.launch import capability, launch

# Private: the kernel itself, which no public function runs.
from lrclr._kernels import HEAD_WIDTH, Form, forms_for
from tests.kernels.host_kernel import Case, gathered, importance

CAPABILITY = capability() if torch.cuda.is_available() else 90

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no GPU"),
]
# Tokens, layers with the last, heads, and their width. Those of 32 and 72 have not run on a GPU yet.
SIZES = [
    *((50, 12, 12, 64), (64, 3, 4, 64), (197, 12, 12, 64), (577, 24, 16, 64), (729, 3, 4, 64), (1025, 3, 4, 64)),
    *((196, 13, 12, 64), (577, 25, 16, 64), (197, 6, 3, 64), (50, 6, 6, 32), (101, 6, 6, 32)),
    *((256, 28, 16, 72), (729, 28, 16, 72), (1024, 28, 16, 72)),
]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(
    ("nodes", "layers", "heads", "width", "form"),
    [(*size, form) for size in SIZES for form in forms_for(size[0], CAPABILITY, size[3])],
    ids=str,
)
def test_the_kernel_selects_the_same_patches_as_float64(
    nodes: int, layers: int, heads: int, width: int, form: Form, *, mean: bool
) -> None:
    random = torch.Generator().manual_seed(nodes)
    merged = [torch.randn(2, nodes, 3, heads, width, generator=random).mul(1.5).half() for _ in range(layers - 1)]
    start = torch.randn(2, heads, nodes, generator=random).softmax(-1)
    tokens = torch.randn(2, nodes, 64, generator=random).half()
    pairs = [(each.cuda()[:, :, 0], each.cuda()[:, :, 1]) for each in merged]
    queries, keys = [query for query, _ in pairs], [key for _, key in pairs]
    arguments = (queries, keys, start.cuda(), tokens.cuda(), 12, mean)
    found = [each.cpu().numpy() for each in launch(*arguments, form=form)]
    again = [each.cpu().numpy() for each in launch(*arguments, form=form)]
    for each, again_ in zip(found, again, strict=True):
        np.testing.assert_array_equal(each, again_)
    first = start.mean(1, keepdim=True) if mean else start
    first_half, second_half = ([each[:, :, part].numpy() for each in merged] for part in (0, 1))
    case = Case(first_half, second_half, first.numpy(), tokens.numpy(), 12, mean, scale=width**-0.5)
    wanted = importance(case)
    index, values = (each.reshape(*wanted.shape[:2], 12) for each in found[1:])
    scale = wanted.max(-1, keepdims=True)
    picked = np.take_along_axis(wanted, index, -1)
    assert (np.abs(values - picked) <= 3e-5 * scale).all()
    assert (picked >= -np.sort(-wanted, axis=-1)[..., :12] - 6e-5 * scale).all()
    np.testing.assert_array_equal(found[0], gathered(tokens.numpy(), found[1], 1))


def test_ties_and_values_that_are_not_finite() -> None:
    queries = torch.ones(3, 50, 2, HEAD_WIDTH, dtype=torch.float16, device="cuda")
    bad = queries.clone()
    bad[1, 7, 1, 0] = float("nan")
    start = torch.full((3, 2, 50), 1 / 50, device="cuda")
    _, index, values = launch([bad], [queries], start, torch.randn(3, 50, 8).cuda(), 5, mean=False)
    assert index[0].tolist() == [0, 1, 2, 3, 4] * 2
    assert torch.isnan(values[1, 5:]).all()
    assert torch.isfinite(values[[0, 2]]).all()
