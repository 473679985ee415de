"""How large the numbers inside a network become: what float16 must be able to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from lrclr.errors import GateError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from lrclr.model import LrclrModel

LARGEST_HALF: Final = 65504.0
"""Largest number of float16."""
_ROOM: Final = 4.0
_IMAGES, _BATCH = 32, 8
_TOWERS: Final = {"image_encoder": "vision_model", "text_encoder": "text_model"}

Largest = dict[str, dict[str, float]]


def largest_activations(model: LrclrModel, pixel_values: NDArray[Any], tokens: NDArray[Any]) -> Largest:
    """For each graph and each block of its tower the largest magnitude of a number in it.

    Measured are what a block gives, which is the residual stream, and what each linear layer in it gives.

    Args:
        model: in float32.
        pixel_values: ``[N, 3, S, S]``; of many images the first 32.
        tokens: ``[P, T]``.
    """
    found: Largest = {graph: {} for graph in _TOWERS}
    handles = []
    for graph, tower in _TOWERS.items():
        module = model.get_submodule(tower)
        for block in dict.fromkeys(_block_of(group.name) for group in module.linear_groups()):
            whole = module.get_submodule(block)
            record = _recording(found[graph], f"{tower}.{block}")
            parts = (whole, *(part for part in whole.modules() if isinstance(part, nn.Linear)))
            handles += [part.register_forward_hook(record) for part in parts]
    try:
        with torch.inference_mode():
            for start in range(0, min(len(pixel_values), _IMAGES), _BATCH):
                model.encode_image(torch.from_numpy(pixel_values[start : start + _BATCH]))
            model.encode_text(torch.from_numpy(tokens))
    finally:
        for handle in handles:
            handle.remove()
    return found


def require_half_precision(found: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse float16 for a network whose numbers come within a factor of 4 of its largest.

    Larger images and other texts than the calibration's may go further, and beyond the largest a number is infinite.
    From a block whose residual stream is that large, every later block has it too, so that no single layer could be
    left in float32.

    Raises:
        GateError: it names the first block.
    """
    limit = LARGEST_HALF / _ROOM
    for graph, blocks in found.items():
        for block, value in blocks.items():
            if not value <= limit:
                raise GateError(
                    f"float16 cannot hold what {graph} computes",
                    why=f"{block} reaches {value:.0f} on the calibration images and texts, and float16 ends at "
                    f"{LARGEST_HALF:.0f}; a quarter of that is the limit",
                    fix="Export with --fp32 or --int8.",
                )


def _block_of(name: str) -> str:
    """``encoder.layers.3`` of ``encoder.layers.3.self_attn.qkv``: up to the number."""
    parts = name.split(".")
    place = next(place for place, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[: place + 1])


def _recording(found: dict[str, float], block: str) -> Any:
    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        # NaN must not be lost: a comparison with it is always false.
        value = float(output.detach().abs().max())
        known = found.get(block, 0.0)
        found[block] = value if not value <= known else known

    return record
