"""Simulates false alarms and power of `lrclr drift`: ``python -m benchmarks.drift [--trials 200]``.

An image has 14 findings, whose logits are normal and correlate by 0.5, and one warning on 2 % of the images. In the
second collection, the logits of one finding are shifted by some standard deviations.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import numpy as np

from lrclr.drift import Collection, DriftOptions, compare

_FINDINGS = tuple(f"finding {number}" for number in range(14))
_IMAGES = (100, 300, 1000)
_SHIFTS = (0.0, 0.2, 0.3, 0.5, 1.0)


def drawn(random: np.random.Generator, images: int, shift: float) -> Collection:
    """A collection of independent images."""
    logits = random.normal(0, 0.5**0.5, (images, 1)) + random.normal(0, 0.5**0.5, (images, len(_FINDINGS)))
    logits[:, 0] += shift
    probability = (1 / (1 + np.exp(-logits))).astype(np.float32)
    warned = Counter({"turned": int(random.binomial(images, 0.02))})
    return Collection("0" * 64, False, _FINDINGS, probability, warned, 0, frozenset())


def share_of_alarms(images: int, shift: float, options: DriftOptions, trials: int) -> float:
    """Share of comparisons with drift."""
    random = np.random.default_rng(images)
    alarms = (
        bool(compare(drawn(random, images, 0.0), drawn(random, images, shift), options).drifted) for _ in range(trials)
    )
    return sum(alarms) / trials


def main() -> int:
    """Print two tables in Markdown."""
    parser = argparse.ArgumentParser(prog="benchmarks.drift", description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    trials = parser.parse_args().trials
    for heading, options in (
        ("limits of 0, level 0.05", DriftOptions(0.05, 0.0, 0.0, 0.0)),
        ("the default limits, level 0.01", DriftOptions()),
    ):
        sys.stdout.write(f"\n| {heading}: images in each | {' | '.join(f'{shift:g} SD' for shift in _SHIFTS)} |\n")
        sys.stdout.write(f"|---|{'---|' * len(_SHIFTS)}\n")
        for images in _IMAGES:
            shares = [f"{share_of_alarms(images, shift, options, trials):.1%}" for shift in _SHIFTS]
            sys.stdout.write(f"| {images} | {' | '.join(shares)} |\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
