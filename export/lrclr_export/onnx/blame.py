"""Where a graph begins to deviate from the network."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lrclr.contract import GRAPHS
from lrclr.engines import OnnxRuntimeEngine
from lrclr.model import Regions, select_regions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from lrclr.bundle import Golden
    from lrclr.model import LrclrModel
    from lrclr.model.regions import SelectRegions
    from lrclr_export.onnx.onnx_graph import TypedGraph


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
    inputs = {name: golden[name] for name in GRAPHS[graph.name].input_names}
    actual = _graph_values(graph, inputs)
    expected = _reference_layers(reference, graph, inputs, actual)
    for layer, wanted in expected.items():
        value = _worst_cosine(actual[graph.layers[layer]], wanted)
        if not value >= cosine:
            return f"the first bad layer of {graph.name} is {layer} (cosine {value:.6f})"
    return None


def _reference_layers(
    reference: LrclrModel, graph: TypedGraph, inputs: dict[str, NDArray[Any]], actual: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    seen: dict[str, NDArray[Any]] = {}
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    select = _picking(actual["region_index"]) if "region_index" in actual else select_regions
    with _recording(reference, graph.layers.keys(), seen), torch.inference_mode():
        reference.run_graph(graph.name, tensors, select=select, prune=True)
    return {layer: seen[layer] for layer in graph.layers}


def _picking(index: NDArray[Any]) -> SelectRegions:
    """Region selection that takes the graph's own picks, so that the rows after it are those of the same patches."""

    def select(_maps: Sequence[Tensor], tokens: Tensor, _top_k: int, _mean: bool, prefix: int) -> Regions:
        picked = torch.from_numpy(index).clamp(0, tokens.shape[1] - prefix - 1)
        rows = (picked + prefix).unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
        gathered = torch.cat([tokens[:, :prefix], tokens.gather(1, rows)], dim=1)
        return Regions(gathered, picked, torch.zeros(picked.shape))

    return select


@contextlib.contextmanager
def _recording(model: nn.Module, layers: Any, seen: dict[str, NDArray[Any]]) -> Iterator[None]:
    def hook(layer: str) -> Any:
        def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            seen[layer] = output.float().numpy()

        return record

    handles = [model.get_submodule(layer).register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _graph_values(graph: TypedGraph, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """What the graph computes for its layers and as its outputs, by the names of its values."""
    values = {value.name: value for node in graph.model.graph for value in node.outputs}
    outputs = graph.model.graph.outputs
    kept = list(outputs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            outputs.extend(values[name] for name in dict.fromkeys(graph.layers.values()) if values[name] not in kept)
            graph.save(path)
        finally:
            outputs[len(kept) :] = []  # `del` would leave the values marked as outputs
        return OnnxRuntimeEngine({graph.name: path}).run(graph.name, inputs)


def _worst_cosine(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    a = actual.reshape(-1, actual.shape[-1]).astype(np.float64)
    b = expected.reshape(-1, expected.shape[-1]).astype(np.float64)
    length_a, length_b = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
    cosine = (a * b).sum(-1) / np.maximum(length_a * length_b, 1e-30)
    # A vector of nothing has no direction to compare: the padding of a prompt, before a bias is added.
    nothing = 1e-6 * length_b.max()
    return float(np.where((length_a <= nothing) & (length_b <= nothing), 1.0, cosine).min())
