"""A finding's region attention: that of its positive prompts, by how well each of them fits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lrclr import ZeroShotClassifier, load_checkpoint

# Private: the weights of many scores are compared, without a network that gives such scores.
from lrclr.inference._scores import attention_of_groups
from lrclr.samples import sample_paths
from lrclr.text import Finding, FindingSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@st.composite
def groups_of_prompts(draw: st.DrawFn) -> tuple[Floats, Floats, list[NDArray[np.int64]]]:
    """Attention ``[B, P, R]`` and local scores ``[B, P]`` of prompts, and the numbers of those of each group."""
    images, prompts, regions = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    attention = rng.dirichlet(np.ones(regions), (images, prompts)).astype(np.float32)
    # Cosines, whose differences may be tiny or as large as they can be.
    local = np.clip(rng.normal(0, draw(st.sampled_from([1e-6, 0.05, 1.0, 9.0])), (images, prompts)), -1, 1)
    numbers = st.lists(st.integers(0, prompts - 1), min_size=1, unique=True)
    groups = [np.array(each) for each in draw(st.lists(numbers, min_size=1, max_size=4))]
    return attention, local.astype(np.float32), groups


@given(groups_of_prompts())
def test_it_is_the_mean_weighted_by_fit(case: tuple[Floats, Floats, list[NDArray[np.int64]]]) -> None:
    attention, local, groups = case
    got = attention_of_groups(attention, local, groups)
    assert got.dtype == np.float32
    assert got.shape == (len(attention), len(groups), attention.shape[-1])
    np.testing.assert_allclose(got.sum(-1), 1.0, atol=1e-5)
    for image, (rows, scores) in enumerate(zip(attention, local, strict=True)):
        for number, group in enumerate(groups):
            weights = np.exp(scores[group].astype(np.float64) / 0.07)
            expected = np.average(rows[group], axis=0, weights=weights)
            np.testing.assert_allclose(got[image, number], expected, atol=1e-5)
            if len(group) == 1:
                assert np.array_equal(got[image, number], rows[group[0]])


def test_a_prompt_of_the_wrong_side_does_not_move_it() -> None:
    """The sample's effusion is on one side. With the prompts of both sides, a finding points where that side's does."""
    sides = [f"There is a moderate pleural effusion on the {side}." for side in ("left", "right")]
    negative = ("No pleural effusion.",)
    findings = FindingSet(
        (Finding("Both", tuple(sides), negative), *(Finding(side, (side,), negative) for side in sides))
    )
    effusion = next(path for path in sample_paths("png") if path.stem == "effusion")
    (answer,) = ZeroShotClassifier.from_checkpoint(load_checkpoint("default")).predict([effusion], findings=findings)
    both, *alone = (np.array(each.region_attention) for each in answer.findings)
    scores = [each.local_positive for each in answer.findings[1:]]
    fits, other = alone if scores[0] > scores[1] else alone[::-1]
    assert fits.argmax() != other.argmax()
    assert both.argmax() == fits.argmax()
    assert np.abs(both - fits).sum() < np.abs(other - fits).sum() / 10
