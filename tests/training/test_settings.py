"""Invalid settings are refused when they are created."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lrclr.checkpoints import init_checkpoint
from lrclr.errors import UsageError
from lrclr.training import Augmentation, LossSettings, TrainSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("epochs", value) for value in (0, -1, 1.5, True)],
        ("max_steps", 0),
        ("max_steps", 10**22),
        ("seed", 2**64),
        ("batch_size", 1),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("tower_learning_rate", -1e-5),
        ("weight_decay", -0.1),
        ("warmup", 1.0),
        ("max_grad_norm", float("inf")),
        ("precision", "int8"),
        ("freeze", "text,image"),
        ("text", "words"),
        ("region_rollout", "max"),
        ("region_top_k", 0),
        ("alpha", 1.5),
        ("workers", -1),
        ("keep", 0),
    ],
)
def test_invalid_settings_are_refused(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=field):
        TrainSettings(**{field: value})


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_the_weight_of_the_local_loss_is_a_number(weight: float) -> None:
    with pytest.raises(UsageError, match="must be a number of 0 or more"):
        LossSettings(local_weight=weight)


def test_settings_without_tuned_weights_are_refused() -> None:
    with pytest.raises(UsageError, match="no weights are tuned"):
        TrainSettings(freeze="image,text", loss=LossSettings("none"))


@pytest.mark.parametrize(
    ("trained", "local", "expected"),
    [(False, "pair", "image,text"), (True, "pair", "none"), (False, "none", "none")],
)
def test_freeze_auto(trained: bool, local: Any, expected: str) -> None:
    settings = TrainSettings(loss=LossSettings(local))
    assert settings.resolved(fusion_trained=trained).freeze == expected


def test_differences_of_settings_survive_json() -> None:
    settings = TrainSettings(seed=3)
    written = json.loads(json.dumps(settings.to_dict()))
    assert settings.differences(written) == []
    assert TrainSettings(seed=3, workers=7, keep=9).differences(written) == []
    other = TrainSettings(seed=4, augmentation=Augmentation.off(), loss=LossSettings("none"))
    assert {"seed", "loss.local", "augmentation.noise"} <= set(other.differences(written))


def test_region_settings_reach_the_configuration(quiet_transformers: None) -> None:
    config = init_checkpoint("tiny").config
    assert (config.region_rollout, config.region_top_k) == ("per_head", 2)
    TrainSettings(region_rollout="mean", alpha=0.25).configure(config)
    assert (config.region_rollout, config.region_top_k, config.alpha) == ("mean", 2, 0.25)
    TrainSettings(region_top_k=5).configure(config)
    assert config.num_regions == 5
    with pytest.raises(UsageError, match="region_top_k"):
        TrainSettings(region_top_k=50).configure(config)
