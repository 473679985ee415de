"""The detector that knows the place of a lesion."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.phantom import known_place
from benchmarks.phantom.picture import describe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_lesions_are_found_in_crops_that_have_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made crops instead of rendered ones: noise, and in the first of each pair a spot in the middle."""

    def crops(numbers: list[int], seed: int, _workers: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        assert all("Lung Lesion" in describe("external", seed, number)[0].names for number in numbers)
        made = np.random.default_rng(numbers[0]).integers(90, 110, (len(numbers), 2, 2, 64, 64)).astype(np.uint8)
        made[:, 0, :, 28:36, 28:36] += 40
        return made

    monkeypatch.setattr(known_place, "_rendered", crops)
    monkeypatch.setattr(sys, "argv", ["", "-o", str(tmp_path), "--pairs", "128", "--passes", "8", "--pixels", "112"])
    assert known_place.main() == 0
    report = json.loads((tmp_path / "report_112.json").read_text())
    assert report["lesions"]["all"]["lesions"] == 349
    assert report["lesions"]["all"]["auroc"] > 0.95
    sizes = sum(report["lesions"][f"size: {size}"]["lesions"] for size in ("small", "moderate", "large"))
    assert sizes == 349
