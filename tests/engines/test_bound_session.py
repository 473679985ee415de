"""I/O binding on the CPU: reused memory must not change earlier or later answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lrclr import Bundle, OnnxRuntimeEngine
from lrclr.bundle import Golden

# Private: a part of the engine that is tested without a bundle.
from lrclr.engines._bound import BoundSession
from lrclr.engines._onnxruntime import SessionSettings, open_session
from lrclr.errors import EngineError, UsageError
from tests import bundles

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle(bundles.exported(tmp_path_factory.getbasetemp(), "fp16"))


def _inputs(golden: Golden, graph: str, images: int, prompts: int, *, tokens: int) -> dict[str, NDArray[Any]]:
    of_graph: dict[str, dict[str, NDArray[Any]]] = {
        "image_encoder": {"pixel_values": golden["pixel_values"][:images]},
        "text_encoder": {"input_ids": golden["input_ids"][:prompts, :tokens]},
        "fusion_head": {
            "region_tokens": golden["region_tokens"][:images],
            "text_tokens": golden["text_tokens"][:prompts, :tokens],
            "text_mask": golden["text_mask"][:prompts, :tokens],
        },
    }
    return of_graph[graph]


def _bound(bundle: Bundle, graph: str) -> BoundSession:
    return BoundSession(open_session(bundle.graph_path(graph), SessionSettings(), name=graph), "cpu")


@pytest.mark.parametrize("graph", ["image_encoder", "text_encoder", "fusion_head"])
def test_answers_equal_those_of_a_plain_session(bundle: Bundle, graph: str) -> None:
    golden = Golden.load(bundle.golden_path)
    plain, bound = OnnxRuntimeEngine(bundle), _bound(bundle, graph)
    kept = []
    for images, prompts in [(1, 3), (4, 1), (1, 3), (2, 28)]:
        inputs = _inputs(golden, graph, images, prompts, tokens=golden["input_ids"].shape[1])
        kept.append((plain.run(graph, inputs), bound.run(inputs)))
    # Compared at the end, so that a later run could have overwritten an earlier answer.
    for wanted, found in kept:
        assert found.keys() == wanted.keys()
        for name, array in wanted.items():
            np.testing.assert_array_equal(found[name], array)


def test_memory_of_old_sizes_is_freed(bundle: Bundle) -> None:
    golden, bound = Golden.load(bundle.golden_path), _bound(bundle, "text_encoder")
    width = golden["input_ids"].shape[1]
    for prompts in range(1, 25):
        bound.run({"input_ids": golden["input_ids"][:prompts, :width]})
    assert len(bound._known) == 16


def test_inputs_that_do_not_fit_are_refused(bundle: Bundle) -> None:
    bound = _bound(bundle, "text_encoder")
    with pytest.raises(EngineError, match="takes input_ids"):
        bound.run({"ids": np.zeros((1, 4), np.int64)})
    with pytest.raises(EngineError, match="has shape"):
        bound.run({"input_ids": np.zeros(4, np.int64)})
    with pytest.raises(UsageError, match="no CUDA graphs"):
        OnnxRuntimeEngine(bundle, cuda_graphs=True)
