"""The network's three graphs: what goes in, what comes out, which axes are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from lrclr.contract import DYNAMIC, GRAPHS, axis_sizes
from lrclr.model.region_op import select_regions_op

if TYPE_CHECKING:
    from lrclr import contract
    from lrclr.model import LrclrModel


class ImageEncoder(nn.Module):
    """`pixel_values` to the image embedding and the selected regions; the last block for those rows only."""

    def __init__(self, model: LrclrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        embedding, regions = self.model.encode_image(pixel_values, select=select_regions_op, prune=True)
        return embedding, regions.tokens, regions.index, regions.importance


class TextEncoder(nn.Module):
    """`input_ids` to the prompt embedding and its tokens."""

    def __init__(self, model: LrclrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        embedding, tokens = self.model.encode_text(input_ids)
        return embedding, tokens


class FusionHeadGraph(nn.Module):
    """Regions and prompt tokens to the local score and the region attention of every pair."""

    def __init__(self, model: LrclrModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, region_tokens: Tensor, text_tokens: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        score, attention = self.model.fusion_head(region_tokens, text_tokens, text_mask)
        return score, attention


_MODULES: Final = {"image_encoder": ImageEncoder, "text_encoder": TextEncoder, "fusion_head": FusionHeadGraph}


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
    fixed = axis_sizes(model.config)
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
            _MODULES[name](model),
            {tensor.name: example(tensor) for tensor in graph.inputs},
            {
                tensor.name: {place: dims[axis] for place, axis in enumerate(axes(tensor)) if axis in DYNAMIC}
                for tensor in graph.inputs
            },
            graph.output_names,
        )
        for name, graph in GRAPHS.items()
    )
