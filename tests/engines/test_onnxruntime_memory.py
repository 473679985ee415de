"""The engine ONNX Runtime, opened to save memory: which sessions it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lrclr import Bundle

# Private: what a session is opened with, and the size of a large graph.
from lrclr.engines import OnnxRuntimeEngine, _onnxruntime
from lrclr.verification import verify

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the graphs whose sessions were opened, in order."""
    names: list[str] = []
    whole = _onnxruntime.open_session

    def recorded(path: Path, settings: Any, *, name: str) -> Any:
        names.append(name)
        return whole(path, settings, name=name)

    monkeypatch.setattr(_onnxruntime, "open_session", recorded)
    return names


@pytest.mark.parametrize(
    ("release", "largest", "again"),
    [(True, 0, 3), (True, 2**40, 2), (False, 0, 2)],
    ids=["large graphs", "small graphs", "without release_memory"],
)
def test_one_large_graph_is_open_at_a_time(
    fp32_bundle: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, release: bool, largest: int, again: int
) -> None:
    monkeypatch.setattr(_onnxruntime, "_LARGE", largest)
    bundle = Bundle(fp32_bundle)
    side = bundle.preprocess.image_size
    pixels = {"pixel_values": np.zeros((1, 3, side, side), np.float32)}
    engine = OnnxRuntimeEngine(bundle, release_memory=release)
    first = engine.run("image_encoder", pixels)
    engine.run("text_encoder", {"input_ids": np.array([[49406, 320, 49407]])})
    last = engine.run("image_encoder", pixels)
    assert len(opened) == again
    for name, array in first.items():
        np.testing.assert_array_equal(array, last[name])
    engine.release()
    engine.run("image_encoder", pixels)
    assert len(opened) == again + release


@pytest.mark.parametrize("release", [True, False])
def test_the_weights_are_not_in_memory_twice_during_the_gates(
    fp16_bundle: Path, monkeypatch: pytest.MonkeyPatch, release: bool
) -> None:
    """The gates of graphs in float32 arithmetic begin after the sessions of the bundle's graphs were closed."""
    bundle = Bundle(fp16_bundle)
    engine = OnnxRuntimeEngine(bundle, release_memory=release)
    still_open: list[int] = []
    whole = _onnxruntime.open_session

    def recorded(path: Path, settings: Any, *, name: str) -> Any:
        still_open.append(len(engine._sessions))
        return whole(path, settings, name=name)

    monkeypatch.setattr(_onnxruntime, "open_session", recorded)
    assert verify(bundle, engine).passed
    assert still_open == [0, 1, 2, *([0] * 3 if release else [3] * 3)]
