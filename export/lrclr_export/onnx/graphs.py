"""The network's three graphs: what goes in, what comes out, which axes are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrclr.contract import DYNAMIC, GRAPHS
from lrclr.model.region_op import select_regions_op

if TYPE_CHECKING:
    from lrclr import contract
    from lrclr.model import LrclrModel


class _GraphModule(nn.Module):
    """A graph of the network, with its inputs and outputs in the contract's order.

    The last block of the image encoder is computed for the rows of the selected regions only.
    """

    def __init__(self, model: LrclrModel, graph: str) -> None:
        super().__init__()
        self.model = model
        self._graph = graph

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(GRAPHS[self._graph].input_names, inputs, strict=True))
        return tuple(self.model.run_graph(self._graph, named, select=select_regions_op, prune=True).values())


@dataclass(frozen=True)
class GraphSpec:
    """One graph to export.

    Attributes:
        name: name of the graph.
        module: what computes it.
        inputs: an example tensor for each input, by name.
        dynamic: for each input, `torch.export.Dim` of its dynamic axes, by position.
        outputs: names, in order.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    dynamic: dict[str, dict[int, Any]]
    outputs: tuple[str, ...]


def graph_specs(model: LrclrModel) -> tuple[GraphSpec, ...]:
    """The three graphs of `model`, in the order in which a request runs them; see `lrclr.contract`."""
    longest = model.config.text_length
    dims = {
        "batch": torch.export.Dim("batch", min=1, max=65535),
        "prompts": torch.export.Dim("prompts", min=1, max=65535),
        "tokens": torch.export.Dim("tokens", min=2, max=longest),
    }
    fixed = model.config.axis_sizes
    examples = {"batch": 2, "prompts": 3, "tokens": min(9, longest - 1)}

    def axes(tensor: contract.Tensor) -> list[int | str]:
        return [fixed.get(axis, axis) if isinstance(axis, str) else axis for axis in tensor.axes]

    def example(tensor: contract.Tensor) -> Tensor:
        shape = [examples[axis] if isinstance(axis, str) else axis for axis in axes(tensor)]
        values = torch.zeros(shape) if tensor.dtype == "float32" else torch.ones(shape, dtype=torch.int64)
        if tensor.name == "input_ids":
            values[:, -1] = model.config.text_config.eos_token_id or 0
        return values

    return tuple(
        GraphSpec(
            name,
            _GraphModule(model, name),
            {tensor.name: example(tensor) for tensor in graph.inputs},
            {
                tensor.name: {place: dims[axis] for place, axis in enumerate(axes(tensor)) if axis in DYNAMIC}
                for tensor in graph.inputs
            },
            graph.output_names,
        )
        for name, graph in GRAPHS.items()
    )
