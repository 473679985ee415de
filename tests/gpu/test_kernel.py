"""The region kernel on a GPU, behind torch's operator: what its host-compiled code is tested for, on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lrclr.model import select_regions
from lrclr.model.region_op import select_regions_op
from tests.kernels.region_reference import gathered, rollout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
TYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("nodes", "layers", "heads"), [(50, 12, 12), (197, 12, 12), (577, 24, 16), (1025, 2, 3)])
def test_it_selects_what_float64_selects(nodes: int, layers: int, heads: int, kind: torch.dtype, *, mean: bool) -> None:
    random = torch.Generator().manual_seed(nodes)
    maps = [
        torch.softmax(8 * torch.randn(2, heads, nodes, nodes, generator=random), -1).to("cuda", kind)
        for _ in range(layers)
    ]
    tokens = torch.randn(2, nodes, 64, generator=random).to("cuda", torch.float16)
    found = select_regions_op(maps, tokens, 12, mean)
    wanted = rollout([one.float().cpu().numpy() for one in maps], mean=mean)
    index = found.index.cpu().numpy().reshape(*wanted.shape[:2], 12)
    values = found.importance.cpu().numpy().reshape(index.shape)
    scale = wanted.max(-1, keepdims=True)
    picked = np.take_along_axis(wanted, index, -1)
    assert (np.abs(values - picked) <= 2e-5 * scale).all()
    assert (picked >= -np.sort(-wanted, axis=-1)[..., :12] - 4e-5 * scale).all()
    np.testing.assert_array_equal(found.tokens.cpu().numpy(), gathered(tokens.cpu().numpy(), found.index.cpu().numpy()))


def test_ties_and_what_is_not_finite() -> None:
    maps = [torch.eye(50, device="cuda").expand(3, 2, 50, 50).contiguous(), torch.full((3, 2, 1, 50), 0.25).cuda()]
    maps[1][1, 1, 0, 7] = float("nan")
    found = select_regions_op(maps, torch.randn(3, 50, 8).cuda(), 5, mean=False)
    assert found.index[0].tolist() == [0, 1, 2, 3, 4] * 2
    assert found.index[1].tolist() == [0, 1, 2, 3, 4] * 2
    assert torch.isnan(found.importance[1, 5:]).all()
    assert torch.isfinite(found.importance[[0, 2]]).all()


def test_it_is_an_operator_that_torch_compiles() -> None:
    maps = [torch.softmax(torch.randn(2, 4, 50, 50), -1).cuda() for _ in range(3)]
    tokens = torch.randn(2, 50, 16).cuda()
    torch.library.opcheck(torch.ops.lrclr.region_select.default, (maps, tokens, 6, False))
    compiled = torch.compile(lambda *given: select_regions_op(given[:-1], given[-1], 6, mean=False).index)
    torch.testing.assert_close(compiled(*maps, tokens), select_regions(maps, tokens, 6, mean=False).index)
