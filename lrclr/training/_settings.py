"""Settings of a run, checked when they are made and written to the run's folder."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from lrclr.errors import UsageError
from lrclr.training._augment import Augmentation
from lrclr.training._task import LossSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.model import LrclrConfig

Freeze = Literal["auto", "none", "image", "text", "image,text"]
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "freeze": ("auto", "none", "image", "text", "image,text"),
    "precision": ("fp32", "bf16", "fp16"),
    "text": ("report", "sentences"),
    "region_rollout": ("per_head", "mean"),
}
_MOST_SEED: Final = 2**63 - 1
# Settings that may change when a run is resumed: they do not affect the result.
_INCIDENTAL: Final = ("workers", "keep")


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of a run. The paper's values are not published; these are the defaults of this project.

    Attributes:
        epochs: passes over the training rows, unless `max_steps` is given.
        max_steps: optimiser steps.
        batch_size: images of a step, over all processes: each is a negative of every other.
        learning_rate: highest rate of the fusion head and the temperature.
        tower_learning_rate: highest rate of the pretrained towers and their projections.
        weight_decay: decay of weights; biases, norms, embeddings and the temperature have none.
        warmup: share of the steps in which the learning rate rises, before it falls along half a cosine to 0.
        max_grad_norm: gradients are clipped to this norm; 0 for no clipping.
        precision: ``"bf16"`` and ``"fp16"`` compute products in half precision; weights stay in single precision.
        freeze: towers that are not tuned. ``"auto"`` is ``"image,text"`` for a base without a trained fusion head,
            whose noise would change the towers, and otherwise ``"none"``.
        seed: seed of the order of rows, texts and augmentation.
        workers: processes that prepare batches, for each training process; 0 for none.
        save_every, evaluate_every: steps; 0 for once an epoch.
        keep: number of resumable states to keep.
        text: ``"report"`` or ``"sentences"``, a random part of the report's sentences in random order.
        exact: read every pixel of the images; see `lrclr.images.read_for_model`. By default images are read as by the
            server.
        augmentation: limits of the augmentation.
        loss: settings of the loss.
        region_rollout, region_top_k, alpha: fields of `LrclrConfig` to change; ``None`` keeps the base's.

    Raises:
        UsageError: a value cannot be used.
    """

    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 64
    learning_rate: float = 3e-4
    tower_learning_rate: float = 1e-5
    weight_decay: float = 0.05
    warmup: float = 0.05
    max_grad_norm: float = 1.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    freeze: Freeze = "auto"
    seed: int = 0
    workers: int = 2
    save_every: int = 0
    evaluate_every: int = 0
    keep: int = 2
    text: Literal["report", "sentences"] = "report"
    exact: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)
    loss: LossSettings = field(default_factory=LossSettings)
    region_rollout: Literal["per_head", "mean"] | None = None
    region_top_k: int | None = None
    alpha: float | None = None

    def __post_init__(self) -> None:
        self._check_whole_numbers()
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known and not (value is None and name == "region_rollout"):
                raise _bad(name, value, f"one of {', '.join(known)}")
        for name in ("learning_rate", "tower_learning_rate"):
            if not _is_number(getattr(self, name)) or not 0 < getattr(self, name) <= 1:
                raise _bad(name, getattr(self, name), "a number above 0 and at most 1")
        for name in ("weight_decay", "max_grad_norm"):
            if not _is_number(getattr(self, name)) or getattr(self, name) < 0:
                raise _bad(name, getattr(self, name), "a number of 0 or more")
        if not _is_number(self.warmup) or not 0 <= self.warmup < 1:
            raise _bad("warmup", self.warmup, "a share of the steps, from 0 to below 1")
        if self.alpha is not None and (not _is_number(self.alpha) or not 0 <= self.alpha <= 1):
            raise _bad("alpha", self.alpha, "a number between 0 and 1")
        if self.freeze == "image,text" and not self.tunes_fusion:
            raise UsageError("no weights are tuned: both towers are frozen, and there is no local loss")

    def _check_whole_numbers(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("keep", 1)):
            _check_whole(name, getattr(self, name), least)
        _check_whole("seed", self.seed, 0, most=_MOST_SEED)
        for name in ("workers", "save_every", "evaluate_every"):
            _check_whole(name, getattr(self, name), 0)
        for name in ("max_steps", "region_top_k"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), 1)

    @property
    def tunes_fusion(self) -> bool:
        """Whether the fusion head contributes to the loss."""
        return self.loss.local != "none" and self.loss.local_weight > 0

    def resolved(self, *, fusion_trained: bool) -> TrainSettings:
        """These settings with ``freeze="auto"`` decided for a base."""
        if self.freeze != "auto":
            return self
        first_stage = self.tunes_fusion and not fusion_trained
        return dataclasses.replace(self, freeze="image,text" if first_stage else "none")

    def configure(self, config: LrclrConfig) -> None:
        """Apply the changes to a network's configuration.

        Raises:
            UsageError: the network cannot have these values.
        """
        changes = {name: getattr(self, name) for name in ("region_rollout", "region_top_k", "alpha")}
        changes = {name: value for name, value in changes.items() if value is not None}
        if changes.get("region_rollout", config.region_rollout) != config.region_rollout:
            # The number of patches of the other rule does not apply.
            changes.setdefault("region_top_k", None)
        checked = type(config).from_dict({**config.to_dict(), **changes})
        for name in changes:
            setattr(config, name, getattr(checked, name))

    def to_dict(self) -> dict[str, Any]:
        """The settings in JSON's types."""
        return dataclasses.asdict(self)

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Names of the settings that differ from `other`, as written by `to_dict`, and affect the weights."""
        mine = {key: value for key, value in _flat(self.to_dict()).items() if key not in _INCIDENTAL}
        others = {key: value for key, value in _flat(other).items() if key not in _INCIDENTAL}
        return sorted(key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_whole(name: str, value: object, least: int, most: int = 10**9) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _bad(name, value, f"a whole number from {least} to {most}")


def _bad(name: str, value: object, expected: str) -> UsageError:
    option = {"learning_rate": " (--lr)", "tower_learning_rate": " (--tower-lr)"}.get(name, "")
    return UsageError(f"training cannot use {name}{option} = {value!r}", fix=f"It must be {expected}.")
