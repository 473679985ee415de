"""Image and text towers: one module for each kind of network, chosen by the configuration's `model_type`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from lrclr.errors import UsageError
from lrclr.model.towers.bert import BertText, RobertaText, XlmRobertaText
from lrclr.model.towers.clip import ClipText, ClipVision
from lrclr.model.towers.siglip import SiglipText, SiglipVision
from lrclr.model.towers.stem import StemVision
from lrclr.model.towers.tower import LinearGroup, TextTower, VisionTower
from lrclr.model.towers.vit import PlainVit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedConfig

__all__ = [
    "TEXT_TOWERS",
    "VISION_TOWERS",
    "LinearGroup",
    "TextTower",
    "VisionTower",
    "text_tower",
    "tower_config",
    "vision_tower",
]

VISION_TOWERS: Final[Mapping[str, type[VisionTower]]] = {
    tower.config_class.model_type: tower for tower in (ClipVision, SiglipVision, PlainVit, StemVision)
}
"""Image towers by the `model_type` of their configuration."""

TEXT_TOWERS: Final[Mapping[str, type[TextTower]]] = {
    tower.config_class.model_type: tower for tower in (ClipText, SiglipText, BertText, RobertaText, XlmRobertaText)
}
"""Text towers by the `model_type` of their configuration."""


def vision_tower(config: PreTrainedConfig) -> type[VisionTower]:
    """The class of an image tower; see `tower_config` for what is raised."""
    return _known(VISION_TOWERS, config.model_type, "image")


def text_tower(config: PreTrainedConfig) -> type[TextTower]:
    """The class of a text tower; see `tower_config` for what is raised."""
    return _known(TEXT_TOWERS, config.model_type, "text")


def tower_config(kind: str, fields: Mapping[str, object]) -> PreTrainedConfig:
    """The configuration of a tower from its fields.

    Args:
        kind: ``"vision"`` or ``"text"``.
        fields: with `model_type`, or without it for CLIP's tower.

    Raises:
        UsageError: there is no tower of this `model_type`.
    """
    model_type = fields.get("model_type") or f"clip_{kind}_model"
    is_vision = kind == "vision"
    tower: Any = _known(VISION_TOWERS, model_type, "image") if is_vision else _known(TEXT_TOWERS, model_type, "text")
    return tower.config_class(**{name: value for name, value in fields.items() if name != "model_type"})


_Tower = TypeVar("_Tower", VisionTower, TextTower)


def _known(towers: Mapping[str, type[_Tower]], model_type: object, name: str) -> type[_Tower]:
    if model_type not in towers:
        raise UsageError(
            f"there is no {name} tower of the type {model_type!r}", fix=f"lrclr has {', '.join(sorted(towers))}."
        )
    return towers[str(model_type)]
