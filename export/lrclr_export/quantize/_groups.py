"""Layers that are quantised together, and switching them between float32 and a quantised type."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from torch import nn

from lrclr.model.towers import LinearGroup
from lrclr_export.quantize._patches import EMBEDDING, PatchProduct

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.model import LrclrModel
    from lrclr_export.quantize._ranges import Inputs
    from lrclr_export.quantize._schemes import Scheme


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
    """A copy of a network, any of whose groups can be quantised; the network itself is left alone.

    Args:
        model: in float32.
        groups: groups of layers that can be switched to the quantised type.
        inputs: inputs of these layers.
        scheme: how they are quantised.
    """

    def __init__(
        self, model: LrclrModel, groups: list[LinearGroup], inputs: Mapping[str, Inputs], scheme: Scheme
    ) -> None:
        self.model = copy.deepcopy(model).eval()
        self._float: dict[str, nn.Module] = {}
        self._quantised: dict[str, nn.Module] = {}
        self._groups = groups
        for group in groups:
            layers = {name: model.get_submodule(name) for name in group.layers}
            linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
            made, factors = scheme.layers(inputs[group.layers[0]], linear, group.norm is not None)
            for name, layer in zip(layers, made, strict=True):
                self._float[name] = self.model.get_submodule(name)
                self._quantised[name] = layer
            if group.norm is not None and factors is not None:
                norm = self.model.get_submodule(group.norm)
                divided = copy.deepcopy(norm)
                for parameter in divided.parameters():
                    parameter.data /= factors
                self._float[group.norm], self._quantised[group.norm] = norm, divided

    def switch(self, quantised: set[str]) -> LrclrModel:
        """The copy with exactly the groups of these names quantised."""
        for group in self._groups:
            modules = self._quantised if group.name in quantised else self._float
            for name in (*group.layers, *([group.norm] if group.norm in modules else [])):
                self.model.set_submodule(name, modules[name])
        switched: LrclrModel = self.model
        return switched
