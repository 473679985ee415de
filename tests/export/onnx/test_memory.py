"""What an export keeps in memory."""

from __future__ import annotations

import gc
import weakref

from lrclr.checkpoints import init_checkpoint
from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.onnx_graph import typed_onnx_from_module


def test_an_exported_network_is_freed() -> None:
    """Rules of onnxscript keep the last graph, with the weights of the whole network, unless they are reset."""
    model = init_checkpoint("tiny").model
    weight = weakref.ref(model.fusion_head.image_projection.weight)
    graph = typed_onnx_from_module(graph_specs(model)[-1], opset=20)
    del model, graph
    gc.collect()
    assert weight() is None
