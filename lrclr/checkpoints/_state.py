"""A network from a state dict, or one error that names every key that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers.initialization import no_init_weights

from lrclr.errors import CheckpointError
from lrclr.model import LrclrConfig, LrclrModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_FUSION = "fusion_head."
_SHOWN = 6


def model_from_state(
    config: LrclrConfig, state: Mapping[str, Tensor], path: Path, *, fusion_expected: bool
) -> LrclrModel:
    """Build the network of `config` with the weights of `state`, in float32.

    Args:
        config: what the network looks like.
        state: tensors under `LrclrModel`'s names; not more and not fewer.
        path: path of the file, for errors.
        fusion_expected: whether `state` must hold the fusion head; if not, a fresh one is drawn from seed 0.
    """
    # Towers are built in the type that their configuration names: the type of the file.
    for part in (config, config.text_config, config.vision_config):
        part.dtype = None
    state = {name: tensor.reshape(()) if _is_scale(name, tensor) else tensor for name, tensor in state.items()}
    wanted = _shapes(config, len(state) if fusion_expected else len(state) + config.fusion_num_layers, path)
    required = {name for name in wanted if fusion_expected or not name.startswith(_FUSION)}
    _check_keys(required, wanted, state, path)
    _check_types({name: state[name] for name in required}, path)
    # Even without initialisation CLIP draws some numbers: the caller's generator shall not notice.
    with torch.random.fork_rng(devices=[]):
        with no_init_weights():
            model = LrclrModel(config)
        if not fusion_expected:
            torch.manual_seed(0)
            model.fusion_head.apply(model._init_weights)  # noqa: SLF001
    own = model.state_dict()
    broken = sorted(name for name in required if not _copy(state[name], own[name]))
    if broken:
        raise CheckpointError(f"{path} holds weights that are not finite", why=_listed("NaN or infinity in", broken))
    return model


def _is_scale(name: str, tensor: Tensor) -> bool:
    # FSDP needs parameters with an axis, so that open_clip can keep this number as an array of one.
    return name in ("logit_scale", "logit_bias") and tensor.shape == (1,)


def _shapes(config: LrclrConfig, most_layers: int, path: Path) -> dict[str, torch.Size]:
    """The shape of every tensor that the network of `config` has; costs no memory."""
    layers = config.text_config.num_hidden_layers + config.vision_config.num_hidden_layers + config.fusion_num_layers
    try:
        if layers > most_layers:  # a damaged number, and endless to build
            raise ValueError(f"{layers} layers are more than there are tensors")
        with torch.device("meta"):
            return {name: tensor.shape for name, tensor in LrclrModel(config).state_dict().items()}
    except Exception as error:
        # An unknown activation, a size that overflows: torch and transformers raise what they like.
        raise CheckpointError(f"{path} describes a network that cannot be built", why=str(error)) from error


def _check_keys(required: set[str], wanted: Mapping[str, torch.Size], state: Mapping[str, Tensor], path: Path) -> None:
    misshapen = [
        f"{name} is {list(state[name].shape)}, expected {list(wanted[name])}"
        for name in sorted(required & state.keys())
        if state[name].shape != wanted[name]
    ]
    problems = [
        _listed("missing", sorted(required - state.keys())),
        _listed("unexpected", sorted(state.keys() - required)),
        _listed("misshapen", misshapen),
    ]
    if any(problems):
        raise CheckpointError(
            f"{path} does not hold the weights that its configuration asks for",
            why="; ".join(filter(None, problems)),
            fix=f"Expected {len(required)} tensors.",
        )


def _check_types(state: Mapping[str, Tensor], path: Path) -> None:
    wrong = sorted(name for name, tensor in state.items() if not tensor.is_floating_point())
    if wrong:
        raise CheckpointError(f"{path} holds weights that are not floating point", why=_listed("wrong type", wrong))


def _copy(source: Tensor, target: Tensor) -> bool:
    """Copy numbers into a float32 tensor, and tell whether they are finite."""
    if source.dtype not in (torch.float16, torch.float32, torch.float64):
        source = source.float()
    # NumPy, since torch would wake its threads for each of some 400 tensors: seconds, where the cores are busy.
    array = target.numpy()
    with np.errstate(all="ignore"):
        np.copyto(array, source.detach().resolve_neg().numpy(), casting="same_kind")
        # A sum is quicker than a look at each number; only one that overflows needs the second look.
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{kind}: {', '.join(names[:_SHOWN])}{more}"
