"""Pointing game, hit rate and attention mass, compared with chance."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrclr.datasets import Box, Row
from lrclr.errors import LrclrError

# Private: the geometry is compared with values computed by hand.
from lrclr.evaluation._bootstrap import Resamples
from lrclr.evaluation._grounding import ground, located, on_grid, place

if TYPE_CHECKING:
    from pathlib import Path

    from tests.evaluation.conftest import MakeScores


@settings(max_examples=40, deadline=None)
@given(patches=st.integers(1, 9), data=st.data())
def test_chance_equals_the_hit_rate_of_random_positions(patches: int, data: st.DataObject) -> None:
    touched = data.draw(st.sets(st.integers(0, patches - 1)))
    picked = data.draw(st.sets(st.integers(0, patches - 1), min_size=1))
    coverage = np.array([0.5 * (p in touched) for p in range(patches)])
    selected = np.isin(np.arange(patches), list(picked))
    attention = selected / selected.sum()
    got = place(coverage, attention, attention, selected)
    draws = list(combinations(range(patches), len(picked)))
    assert got["hit_chance"] == pytest.approx(np.mean([bool(touched & set(draw)) for draw in draws]))
    assert got["hit"] == float(bool(touched & picked))
    assert got["pointing_chance"] == pytest.approx(len(touched) / patches)
    assert got["mass_chance"] == pytest.approx(coverage.mean())
    assert got["mass"] == pytest.approx(coverage[selected].mean())


def test_attention_to_a_patch_is_summed_over_heads(make_scores: MakeScores) -> None:
    scores = make_scores([[1]], [[0.0]])
    attention, importance, selected = on_grid(scores, 0, 0, 16)
    # Regions 0, 1, 0 with attention .5 .25 .25 and importance .1 .5 .2.
    assert attention[:3] == pytest.approx([0.75, 0.25, 0.0])
    assert importance[:3] == pytest.approx([0.3 / 0.8, 0.5 / 0.8, 0.0])
    assert np.flatnonzero(selected).tolist() == [0, 1]
    coverage = np.zeros(16)
    coverage[0] = 0.5
    got = place(coverage, attention, importance, selected)
    assert (got["pointing"], got["pointing_rollout"], got["hit"]) == (1.0, 0.0, 1.0)
    assert got["mass"] == pytest.approx(0.375)
    assert got["mass_rollout"] == pytest.approx(0.5 * 0.375)


def box(line: int, *sides: float, name: str = "FINDING 0", **other: object) -> Row:
    from pathlib import Path

    return Row(line, Path("unseen.png"), boxes={name: (Box(*sides),)}, **other)  # type: ignore[arg-type]


def test_only_positive_images_with_boxes_are_evaluated(make_scores: MakeScores) -> None:
    scores = make_scores([[1], [1], [0], [1], [-1]], np.zeros((5, 1)))
    # Lines begin at 2. 64 pixels are 4 x 4 patches of 16, so these are the first patch and the last patch.
    rows = [box(2, 0, 0, 16, 16), box(3, 48, 48, 64, 64), box(4, 0, 0, 9, 9), Row(5, box(1, 0, 0, 1, 1).image)]
    (found,) = located(scores, [*rows, box(6, 0, 0, 9, 9)])
    assert found.image.tolist() == [0, 1]
    assert found.figures["pointing"].tolist() == [1.0, 0.0]
    assert found.figures["mass"] == pytest.approx([0.75, 0.0])
    assert found.figures["mass_chance"] == pytest.approx([1 / 16, 1 / 16])
    each, mean = ground(scores, rows, Resamples(scores.group, 200, 0))
    assert (each.name, each.images, mean.name, mean.images) == ("finding 0", 2, "mean", 2)
    assert each.pointing.value == 0.5
    assert (each.pointing.low, mean.pointing.low) == (None, None)
    assert each.no_interval == "only 2 images with a mask or box; an interval or a test needs 3"
    assert each.hit_rate_chance == pytest.approx(2 / 16)
    assert each.mass_rollout.value == pytest.approx(0.5 * 0.375)
    assert ground(scores, [], Resamples(scores.group, 10, 0)) == ()


def test_attention_of_an_untrained_head_is_not_evaluated(make_scores: MakeScores) -> None:
    scores = make_scores([[1], [1]], np.zeros((2, 1)), trained=False)
    each, mean = ground(scores, [box(2, 0, 0, 16, 16), box(3, 0, 0, 16, 16)], Resamples(scores.group, 50, 0))
    for grounding in (each, mean):
        assert grounding.pointing.value is None
        assert grounding.mass.value is None
        assert grounding.pointing_rollout.value == 0.0
        assert grounding.hit_rate.value == 1.0


def test_a_box_outside_the_crop_is_a_miss_and_an_empty_mask_is_ignored(make_scores: MakeScores, tmp_path: Path) -> None:
    from dataclasses import replace

    # Twice as wide as high: the crop removes the left quarter.
    scores = replace(make_scores([[1], [1]], np.zeros((2, 1))), sizes=np.array([[64, 128], [64, 128]]))
    empty = tmp_path / "empty.png"
    Image.new("L", (128, 64)).save(empty)
    masked = Row(3, tmp_path / "x.png", masks={"finding 0": (empty, None)})
    (found,) = located(scores, [box(2, 0, 0, 20, 64), masked])
    assert found.image.tolist() == [0]
    assert tuple(found.figures[name][0] for name in ("pointing", "hit_chance", "mass_chance")) == (0.0, 0.0, 0.0)


def test_the_error_for_a_wrong_mask_names_its_line(make_scores: MakeScores, tmp_path: Path) -> None:
    small = tmp_path / "secret name.png"
    Image.new("L", (5, 5), 255).save(small)
    row = Row(2, tmp_path / "x.png", masks={"finding 0": (small, None)})
    with pytest.raises(LrclrError, match="line 2") as caught:
        located(make_scores([[1]], [[0.0]]), [row])
    assert "secret" not in str(caught.value)


def test_an_ensemble_averages_the_attention_of_its_members(make_scores: MakeScores) -> None:
    first, second = make_scores([[1]], [[0.0]]), make_scores([[1]], [[0.0]])
    second.models[0].answers.region_index[:] = 5
    attention, _, selected = on_grid(first.joined(second), 0, 0, 16)
    assert attention / attention.sum() == pytest.approx(np.eye(16)[[0, 1, 5]].T @ [0.375, 0.125, 0.5])
    assert np.flatnonzero(selected).tolist() == [0, 1, 5]
