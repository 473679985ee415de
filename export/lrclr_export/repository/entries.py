"""What the manifest of a bundle states about a checkpoint, its graphs and the programs that made them."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import onnx
import torch
import transformers

from lrclr._version import __version__
from lrclr.engines._onnxruntime_package import onnxruntime_library
from lrclr.inference import ScoreCalibration
from lrclr_export.onnx.precision import precision_histogram
from lrclr_export.onnx.region_function import OP_TYPE

if TYPE_CHECKING:
    from lrclr.bundle import GraphEntry, TokenizerEntry
    from lrclr.checkpoints import Checkpoint
    from lrclr_export.onnx.activations import Float32Parts
    from lrclr_export.onnx.onnx_graph import TypedGraph

__all__ = ["graph_entry", "made_with", "model_entry", "scoring_entry", "tokenizer_entry"]


def scoring_entry(checkpoint: Checkpoint) -> dict[str, Any]:
    """The manifest's ``scoring`` of a checkpoint."""
    return {
        "alpha": checkpoint.config.effective_alpha,
        **ScoreCalibration.from_dict(checkpoint.config.to_dict()).to_dict(),
        "fusion_trained": checkpoint.config.fusion_trained,
    }


def tokenizer_entry(checkpoint: Checkpoint) -> TokenizerEntry:
    """The manifest's ``tokenizer`` of a checkpoint."""
    tokenizer = checkpoint.tokenizer
    return {
        "sha256": tokenizer.sha256,
        "context_length": tokenizer.context_length,
        "eot_id": tokenizer.eot_id,
        "has_bos": tokenizer.has_bos,
        "pad_id": tokenizer.pad_id,
        "fixed_length": tokenizer.fixed_length,
        "causal": checkpoint.model.text_model.causal,
    }


def graph_entry(
    graph: TypedGraph,
    inlined: str | None,
    largest: dict[str, float] | None,
    in_float32: Float32Parts | None,
) -> GraphEntry:
    """The manifest's entry of a graph.

    Args:
        graph: the graph.
        inlined: path in the bundle of the graph without functions, if there is one.
        largest: largest magnitude of each block, if it was measured.
        in_float32: the parts that stay in float32, if there are any.
    """

    def described(values: Any) -> dict[str, Any]:
        return {
            value.name: {
                "type": value.dtype.name,
                "shape": [dim if isinstance(dim, int) else str(dim) for dim in value.shape],
            }
            for value in values
        }

    entry: GraphEntry = {
        "inputs": described(graph.model.graph.inputs),
        "outputs": described(graph.model.graph.outputs),
        "precision_histogram": precision_histogram(graph.model.graph),
        "inlined": inlined,
        "region_maps": next((len(node.inputs) - 1 for node in graph.model.graph if node.op_type == OP_TYPE), None),
    }
    if largest is not None:
        entry["largest_activations"] = largest
    if in_float32 is not None and in_float32.residual_stream:
        entry["float32_parts"] = in_float32.to_dict()
    return entry


def made_with() -> dict[str, str]:
    """The manifest's ``made_with``: versions of what exports."""
    return {
        "lrclr": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime_library().__version__,
    }


def model_entry(checkpoint: Checkpoint) -> dict[str, Any]:
    """The manifest's ``model`` of a checkpoint: its configuration without keys about its origin."""
    config = checkpoint.config.to_dict()
    return {key: value for key, value in config.items() if not key.startswith("_") and key != "transformers_version"}
