"""How large the numbers inside a network become: what float16 must be able to hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from lrclr.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.bundle import Float32Entry
    from lrclr.model import LrclrModel

LARGEST_HALF: Final = 65504.0
"""Largest number of float16."""
_ROOM: Final = 4.0
_IMAGES, _BATCH = 32, 8
# Layers of a block that write into the residual stream, and the norm through which the block reads it.
_WRITERS: Final = ("self_attn.out_proj", "mlp.fc2")
_NORM: Final = "layer_norm1"
TOWERS: Final = {"image_encoder": "vision_model", "text_encoder": "text_model"}

Largest = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Float32Parts:
    """What of a tower stays in float32 in an export in float16.

    Attributes:
        residual_stream: whether the sum that the blocks add to is in float32.
        layers: names of linear layers in the tower that stay in float32, such as ``encoder.layers.3.mlp.fc2``.
    """

    residual_stream: bool = False
    layers: tuple[str, ...] = ()

    def to_dict(self) -> Float32Entry:
        """For the manifest."""
        return {"residual_stream": self.residual_stream, "layers": list(self.layers)}


def measured_activations(model: LrclrModel, pixel_values: NDArray[Any], tokens: NDArray[Any]) -> Largest:
    """For each graph the largest magnitude that each block of its tower and each linear layer in the blocks gives.

    What a block gives is the residual stream. Names are those within the tower.

    Args:
        model: in float32.
        pixel_values: ``[N, 3, S, S]``; of many images the first 32.
        tokens: ``[P, T]``.
    """
    found: Largest = {graph: {} for graph in TOWERS}
    handles = []
    for graph, tower in TOWERS.items():
        module = model.get_submodule(tower)
        for block in dict.fromkeys(_block_of(group.name) for group in module.linear_groups()):
            whole = module.get_submodule(block)
            parts = [(block, whole)]
            parts += [(f"{block}.{name}", one) for name, one in whole.named_modules() if isinstance(one, nn.Linear)]
            handles += [part.register_forward_hook(_recording(found[graph], name)) for name, part in parts]
    try:
        with torch.inference_mode():
            for start in range(0, min(len(pixel_values), _IMAGES), _BATCH):
                model.encode_image(torch.from_numpy(pixel_values[start : start + _BATCH]))
            model.encode_text(torch.from_numpy(tokens))
    finally:
        for handle in handles:
            handle.remove()
    return found


def by_block(found: Mapping[str, Mapping[str, float]]) -> Largest:
    """The largest magnitude in each block of each graph's tower, by its name in the network."""
    result: Largest = {}
    for graph, values in found.items():
        blocks: dict[str, float] = {}
        for name, value in values.items():
            block = f"{TOWERS[graph]}.{_block_of(name)}"
            blocks[block] = _larger(value, blocks.get(block, 0.0))
        result[graph] = blocks
    return result


def float32_parts(model: LrclrModel, found: Mapping[str, Mapping[str, float]]) -> dict[str, Float32Parts]:
    """For each graph the parts that must stay in float32: those that come within a factor of 4 of float16's largest.

    Larger images and other texts than the calibration's may go further, and beyond the largest a number is infinite.
    Once a layer has written such a number into the residual stream, every later block has it there, so that the whole
    stream is kept in float32. The blocks read it through a LayerNorm, whose output is of the usual magnitude.

    Args:
        model: the network.
        found: from `measured_activations`.

    Raises:
        GateError: a layer whose output other layers read directly comes that close, or a block of a tower that does
            not normalise what comes into its layers. It names the first one.
    """
    result = {}
    for graph, values in found.items():
        tower = model.get_submodule(TOWERS[graph])
        large = [name for name, value in values.items() if not value <= LARGEST_HALF / _ROOM]
        layers = []
        for name in large:
            block = _block_of(name)
            writes = name in {f"{block}.{layer}" for layer in _WRITERS}
            if not math.isfinite(values[name]) or not hasattr(tower.get_submodule(block), _NORM):
                raise _refused(graph, name, values[name])
            if name != block and not writes:
                raise _refused(graph, name, values[name])
            layers += [name] if writes else []
        result[graph] = Float32Parts(bool(large), tuple(layers))
    return result


def _refused(graph: str, name: str, value: float) -> GateError:
    return GateError(
        f"float16 cannot hold what {graph} computes",
        why=f"{TOWERS[graph]}.{name} reaches {value:.0f} on the calibration images and texts, and float16 ends at "
        f"{LARGEST_HALF:.0f}; a quarter of that is the limit, and this part cannot be left in float32 alone",
        fix="Export with --fp32 or --int8.",
    )


def _block_of(name: str) -> str:
    """``encoder.layers.3`` of ``encoder.layers.3.self_attn.qkv``: up to the number."""
    parts = name.split(".")
    place = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: place + 1])


def _recording(found: dict[str, float], block: str) -> Any:
    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        found[block] = _larger(float(output.detach().abs().max()), found.get(block, 0.0))

    return record


def _larger(value: float, known: float) -> float:
    # NaN must not be lost: a comparison with it is always false.
    return value if not value <= known else known
