"""Where a graph begins to deviate from the network."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from lrclr.engines import OnnxRuntimeEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from lrclr.gates import Golden
    from lrclr.model import LrclrModel
    from lrclr_export.onnx_graph import TypedGraph

# The reference is run unpruned; the stages below are computed for all tokens in both.
_INPUTS = {
    "image_encoder": ("pixel_values",),
    "text_encoder": ("input_ids",),
    "fusion_head": ("region_tokens", "text_tokens", "text_mask"),
}


def first_bad_layer(reference: LrclrModel, graph: TypedGraph, golden: Golden, *, cosine: float) -> str | None:
    """The first of the network's layers whose output in `graph` is not that of `reference`.

    Args:
        reference: the network in float32.
        graph: what was exported.
        golden: the inputs.
        cosine: least cosine of a token's vector.

    Returns:
        Its name and cosine, as a clause; ``None`` if every layer keeps the limit.
    """
    inputs = {name: getattr(golden, name) for name in _INPUTS[graph.spec.name]}
    expected = _reference_stages(reference, graph, inputs)
    actual = _graph_stages(graph, inputs, expected.keys())
    for stage, wanted in expected.items():
        got = actual[stage]
        if got.shape != wanted.shape:
            continue
        value = _worst_cosine(got, wanted)
        if not value >= cosine:
            return f"the first bad layer of {graph.spec.name} is {stage} (cosine {value:.6f})"
    return None


def _reference_stages(
    reference: LrclrModel, graph: TypedGraph, inputs: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    seen: dict[str, NDArray[Any]] = {}
    tensors = [torch.from_numpy(array) for array in inputs.values()]
    with _recording(reference, graph.stages.keys(), seen), torch.inference_mode():
        if graph.spec.name == "image_encoder":
            reference.encode_image(*tensors)
        elif graph.spec.name == "text_encoder":
            reference.encode_text(*tensors)
        else:
            reference.fusion_head(*tensors)
    return {stage: seen[stage] for stage in graph.stages if stage in seen}


@contextlib.contextmanager
def _recording(model: nn.Module, stages: Any, seen: dict[str, NDArray[Any]]) -> Iterator[None]:
    def hook(stage: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[stage] = output.float().numpy()

        return record

    handles = [model.get_submodule(stage).register_forward_hook(hook(stage)) for stage in stages]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _graph_stages(graph: TypedGraph, inputs: dict[str, NDArray[Any]], stages: Any) -> dict[str, NDArray[Any]]:
    values = {value.name: value for node in graph.model.graph for value in node.outputs}
    outputs = graph.model.graph.outputs
    kept = list(outputs)
    names = {stage: graph.stages[stage] for stage in stages}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            outputs.extend(values[name] for name in dict.fromkeys(names.values()) if values[name] not in kept)
            ir.save(graph.model, path, external_data="model.onnx.data", size_threshold_bytes=1024)
        finally:
            del outputs[len(kept) :]
        found = OnnxRuntimeEngine({graph.spec.name: path}).run(graph.spec.name, inputs)
    return {stage: found[name] for stage, name in names.items()}


def _worst_cosine(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    a = actual.reshape(-1, actual.shape[-1]).astype(np.float64)
    b = expected.reshape(-1, expected.shape[-1]).astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(norms, 1e-30)).min())
