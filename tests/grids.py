"""Grids of parameters of which `make test` runs a half, and `make test-slow` the other one."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence


def every_other(*axes: Sequence[Any]) -> list[Any]:
    """All combinations of the values on some axes, for ``pytest.mark.parametrize``.

    As on a chessboard, every second combination is slow. If each axis has two values or more, `make test` has all of
    them.
    """
    grid = product(*(enumerate(axis) for axis in axes))
    return [
        pytest.param(*(value for _, value in one), marks=[pytest.mark.slow] * (sum(place for place, _ in one) % 2))
        for one in grid
    ]
