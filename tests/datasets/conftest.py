"""Fixtures for the tests of data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a small noisy image below `tmp_path`."""

    def write(name: str, shape: tuple[int, ...] = (30, 40)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write
