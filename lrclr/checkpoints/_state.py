"""A network from a state dict, or one error that names every key that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from lrclr.errors import CheckpointError
from lrclr.model import LrclrConfig, LrclrModel

_FUSION = "fusion_head."
_SHOWN = 6


def model_from_state(
    config: LrclrConfig, state: Mapping[str, Tensor], path: Path, *, fusion_expected: bool
) -> LrclrModel:
    """Build the network of `config` with the weights of `state`, in float32.

    Args:
        config: what the network looks like.
        state: tensors under `LrclrModel`'s names; not more and not fewer.
        path: where they are from, for errors.
        fusion_expected: whether `state` must hold the fusion head; if not, a fresh one is drawn from seed 0.
    """
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in LrclrModel(config).state_dict().items()}
    required = {name for name in wanted if fusion_expected or not name.startswith(_FUSION)}
    missing = sorted(required - state.keys())
    unexpected = sorted(state.keys() - required)
    misshapen = [
        f"{name} is {list(state[name].shape)}, expected {list(wanted[name])}"
        for name in sorted(required & state.keys())
        if state[name].shape != wanted[name]
    ]
    problems = [
        _listed("missing", missing),
        _listed("unexpected", unexpected),
        _listed("misshapen", misshapen),
    ]
    if any(problems):
        raise CheckpointError(
            f"{path} does not hold the weights that its configuration asks for",
            why="; ".join(filter(None, problems)),
            fix=f"Expected {len(required)} tensors.",
        )
    not_float = sorted(name for name in required if not state[name].is_floating_point())
    if not_float:
        raise CheckpointError(f"{path} holds weights that are not floating point", why=_listed("wrong type", not_float))
    if fusion_expected:
        with no_init_weights():
            model = LrclrModel(config)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = LrclrModel(config)
    model.load_state_dict({name: state[name].float() for name in required}, strict=fusion_expected)
    broken = sorted(name for name in required if not bool(torch.isfinite(state[name]).all()))
    if broken:
        raise CheckpointError(f"{path} holds weights that are not finite", why=_listed("NaN or infinity in", broken))
    return model


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{kind}: {', '.join(names[:_SHOWN])}{more}"
