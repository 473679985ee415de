"""The comparison of two losses over several seeds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.checkpoint.seeds import Paired, difference


def drawn(rng: np.random.Generator, *, seeds: int, between_seeds: float, images: int = 200) -> Paired:
    """Runs whose true mean difference is 0.02, on random images and with random seeds."""
    of_image = rng.normal(0, 0.1, images)
    runs = of_image + rng.normal(0, between_seeds, (seeds, 1)) + rng.normal(0, 0.1, (seeds, images))
    values = 0.02 + runs.mean(1)
    influence = (runs - runs.mean(1, keepdims=True)) / images
    return Paired("", values, np.zeros(seeds), influence)


@pytest.mark.parametrize("between_seeds", [0.0, 0.01, 0.1])
@pytest.mark.parametrize("seeds", [3, 5])
def test_intervals_cover_other_images_and_other_seeds(seeds: int, between_seeds: float) -> None:
    rng = np.random.default_rng(0)
    intervals = [difference(drawn(rng, seeds=seeds, between_seeds=between_seeds)) for _ in range(600)]
    covered = np.mean([each.contains(0.02) for each in intervals])
    assert 0.92 <= covered <= 0.99


def test_one_seed_has_no_interval() -> None:
    one = difference(drawn(np.random.default_rng(0), seeds=1, between_seeds=0.1))
    assert one.value is not None
    assert (one.low, one.high) == (None, None)
