"""A graph is taken from the cache only if its export would give the same graph."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

from lrclr_export.onnx.graphs import graph_specs
from lrclr_export.onnx.precision import half_precision
from tests.kept_exports import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrclr.checkpoints import Checkpoint
    from lrclr.model import LrclrModel


def fingerprints(model: LrclrModel, opset: int = 20) -> list[str]:
    return [fingerprint(spec, opset) for spec in graph_specs(model)]


def _weight(model: LrclrModel) -> None:
    with torch.no_grad():
        model.fusion_head.image_projection.weight[3, 5] += 1e-6


def _buffer(model: LrclrModel) -> None:
    model.vision_model.embeddings.position_ids += 1


def _setting(model: LrclrModel) -> None:
    model.vision_model.post_layernorm.eps = 1e-6


def _configuration(model: LrclrModel) -> None:
    model.config.region_rollout = "mean"


def _module(model: LrclrModel) -> None:
    model.fusion_head.image_norm = torch.nn.Identity()  # type: ignore[assignment]


@pytest.mark.parametrize("change", [_weight, _buffer, _setting, _configuration, _module])
def test_a_changed_network_has_other_graphs(tiny_checkpoint: Checkpoint, change: Callable[[LrclrModel], None]) -> None:
    model = copy.deepcopy(tiny_checkpoint.model)
    before = fingerprints(model)
    assert len(set(before)) == 3
    assert fingerprints(copy.deepcopy(model)) == before
    change(model)
    assert not set(before) & set(fingerprints(model))


def test_the_fingerprint_depends_on_precision_and_opset_but_not_on_alpha(tiny_checkpoint: Checkpoint) -> None:
    model = copy.deepcopy(tiny_checkpoint.model)
    before = fingerprints(model)
    assert not set(before) & {*fingerprints(half_precision(model)), *fingerprints(model, opset=21)}
    model.config.alpha = 0.125
    assert fingerprints(model) == before
