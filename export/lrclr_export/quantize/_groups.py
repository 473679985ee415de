"""Layers that are quantised together, and switching them between float32 and int8."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from torch import nn

from lrclr.model.towers import LinearGroup
from lrclr_export.quantize._linear import Int8Linear
from lrclr_export.quantize._patches import EMBEDDING, PatchProduct
from lrclr_export.quantize._ranges import range_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.model import LrclrModel
    from lrclr_export.quantize._ranges import Inputs


PARTS: Final = {"image_encoder": "vision_model", "text_encoder": "text_model", "fusion_head": "fusion_head"}
"""The part of the network of each graph."""


def groups_of(model: LrclrModel, part: str) -> list[LinearGroup]:
    """Return the groups of ``"vision_model"``, ``"text_model"`` or ``"fusion_head"``, with names of the whole network.

    The embedding of patches is the first group if it is a `PatchProduct`. Other embeddings and final projections are
    left out, since they take a small part of the time.
    """
    module = getattr(model, part)
    first = []
    if isinstance(getattr(getattr(module, "embeddings", None), "patch_embedding", None), PatchProduct):
        first = [LinearGroup(f"{part}.{EMBEDDING}", (f"{part}.{EMBEDDING}.projection",), None)]
    return first + [
        LinearGroup(
            f"{part}.{group.name}",
            tuple(f"{part}.{layer}" for layer in group.layers),
            f"{part}.{group.norm}" if group.norm else None,
        )
        for group in module.linear_groups()
    ]


class Switchable:
    """A copy of a network, any of whose groups can be in int8; the network itself is left alone.

    Args:
        model: in float32.
        groups: groups of layers that can be switched to int8.
        inputs: inputs of these layers.
    """

    def __init__(self, model: LrclrModel, groups: list[LinearGroup], inputs: Mapping[str, Inputs]) -> None:
        self.model = copy.deepcopy(model).eval()
        self._float: dict[str, nn.Module] = {}
        self._int8: dict[str, nn.Module] = {}
        self._groups = groups
        for group in groups:
            layers = {name: model.get_submodule(name) for name in group.layers}
            linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
            range_ = range_of(inputs[group.layers[0]], linear, even_out=group.norm is not None)
            for name, layer in zip(layers, linear, strict=True):
                self._float[name] = self.model.get_submodule(name)
                self._int8[name] = Int8Linear(layer, range_.scale, range_.factors)
            if group.norm is not None and range_.factors is not None:
                norm = self.model.get_submodule(group.norm)
                divided = copy.deepcopy(norm)
                for parameter in divided.parameters():
                    parameter.data /= range_.factors
                self._float[group.norm], self._int8[group.norm] = norm, divided

    def switch(self, to_int8: set[str]) -> LrclrModel:
        """The copy with exactly the groups of these names in int8."""
        for group in self._groups:
            modules = self._int8 if group.name in to_int8 else self._float
            for name in (*group.layers, *([group.norm] if group.norm is not None else [])):
                parent, _, child = name.rpartition(".")
                setattr(self.model.get_submodule(parent), child, modules[name])
        switched: LrclrModel = self.model
        return switched
