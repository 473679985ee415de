"""Tuned weights, their learning rates and weight decay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from torch.nn import Parameter

    from lrclr.model import LrclrModel
    from lrclr.training._settings import TrainSettings

_TOWERS = {
    "image": ("vision_model", "visual_projection"),
    "text": ("text_model", "text_projection"),
}
_EMBEDDINGS = ("class_embedding", "modality_embedding")


def frozen_parts(model: LrclrModel, settings: TrainSettings) -> list[nn.Module]:
    """Set `requires_grad` of the weights as `settings` says; returns the frozen parts.

    A fusion head that does not contribute to the loss is frozen too: weight decay alone must not change it.
    """
    names = [part for tower, parts in _TOWERS.items() if tower in settings.freeze.split(",") for part in parts]
    if not settings.tunes_fusion:
        names.append("fusion_head")
    frozen: list[nn.Module] = [getattr(model, name) for name in names]
    model.requires_grad_(True)
    for part in frozen:
        part.requires_grad_(False)
    return frozen


def parameter_groups(model: LrclrModel, settings: TrainSettings) -> list[dict[str, Any]]:
    """Groups for AdamW: towers and others, each with and without decay; empty groups are left out."""
    groups: dict[tuple[bool, bool], list[Parameter]] = {}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    towers = tuple(f"{part}." for parts in _TOWERS.values() for part in parts)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            no_decay = parameter.ndim < 2 or id(parameter) in embeddings or name.endswith(_EMBEDDINGS)
            groups.setdefault((name.startswith(towers), not no_decay), []).append(parameter)
    return [
        {
            "name": "towers" if in_tower else "head",
            "params": parameters,
            "lr": settings.tower_learning_rate if in_tower else settings.learning_rate,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (in_tower, decays), parameters in sorted(groups.items())
    ]
