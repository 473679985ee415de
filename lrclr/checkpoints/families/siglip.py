"""SigLIP, SigLIP 2 with a fixed resolution, and MedSigLIP, of transformers and of open_clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from transformers import SiglipConfig

from lrclr.checkpoints._beside import (
    CONFIG,
    OPEN_CLIP,
    config_from,
    open_clip_towers,
    preprocess_beside,
    transformers_recipe,
)
from lrclr.checkpoints._cleaning import cleaning_of
from lrclr.checkpoints._openai import renamed as renamed_openai
from lrclr.checkpoints._sentencepiece import siglip_cleaning, siglip_tokenizer
from lrclr.checkpoints._weights import OPEN_CLIP_WEIGHTS, TRANSFORMERS_WEIGHTS
from lrclr.checkpoints.families._family import (
    Family,
    Layout,
    Parts,
    assembled,
    model_scoring,
    number_of_layers,
    renamed,
    require_names,
    tensors_of,
    tower_tables,
)
from lrclr.checkpoints.families._timm import renamed_trunk, trunk_of
from lrclr.errors import CheckpointError
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from lrclr.checkpoints._checkpoint import Checkpoint
    from lrclr.checkpoints._options import ReadOptions

NAME: Final = "siglip"


def _read_transformers(
    layout: Layout, folder: Path, raw: Mapping[str, Any], files: list[Path], options: ReadOptions
) -> Checkpoint:
    # Most files have the numbers of another vocabulary here, which the network does not use.
    unused = dict.fromkeys(("bos_token_id", "eos_token_id"))
    vision, text = tower_tables(raw, folder)
    theirs = config_from(SiglipConfig, {**raw, "vision_config": vision, "text_config": {**text, **unused}}, folder)
    if not theirs.vision_config.vision_use_head:
        raise CheckpointError(f"{folder} has a SigLIP without its pooling head", why="its images have no embedding")
    if theirs.text_config.projection_size != theirs.vision_config.hidden_size:
        raise CheckpointError(
            f"{folder} has embeddings of two widths",
            why=f"{theirs.vision_config.hidden_size} of images, {theirs.text_config.projection_size} of texts",
        )
    state = renamed(tensors_of(folder, files), ((r".*\.position_ids", ""),))
    require_names(state, ("logit_scale", "logit_bias"), folder)
    config = {
        "family": NAME,
        "vision_config": theirs.vision_config.to_dict(),
        "text_config": theirs.text_config.to_dict(),
        "projection_dim": theirs.vision_config.hidden_size,
        "logit_bias": True,
        **model_scoring(state, folder),
    }
    recipe = (
        PreprocessSpec.siglip(theirs.vision_config.image_size)
        if options.get("preprocess")
        else transformers_recipe(folder)
    )
    tokenizer = siglip_tokenizer(folder, theirs.text_config.max_position_embeddings)
    parts = Parts(config, state, tokenizer, recipe, siglip_cleaning(folder))
    return assembled(layout, folder, files, parts, options)


# open_clip.


def _accepts_open_clip(raw: Mapping[str, Any]) -> bool:
    vision, _ = open_clip_towers(raw)
    return vision.get("timm_pool") == "map" and "timm_model_name" in vision


# Settings of open_clip's text transformer that a SigLIP has, and the values of those that change what it computes.
_TEXT: Final = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
_TEXT_READ: Final = frozenset(
    (
        *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs", "act_kwargs"),
        *("hf_tokenizer_name", "tokenizer_kwargs"),
    )
)


def _read_open_clip(
    layout: Layout, folder: Path, raw: Mapping[str, Any], files: list[Path], options: ReadOptions
) -> Checkpoint:
    vision, text = open_clip_towers(raw)
    trunk = trunk_of(vision, folder)
    for key, value in {**text, **{name: text.get(name) for name in _TEXT}}.items():
        if key not in _TEXT_READ and value != _TEXT.get(key) and value not in (None, False):
            raise CheckpointError(
                f"{folder / OPEN_CLIP} describes a network that lrclr cannot read",
                why=f"text_cfg.{key} is {value!r}, and {_TEXT.get(key)!r} is what a SigLIP has",
            )
    state = tensors_of(folder, files)
    require_names(state, ("visual.trunk.pos_embed", "text.positional_embedding", "logit_scale", "logit_bias"), folder)
    heads = options.get("heads") or ()
    positions, text_width = state["text.positional_embedding"].shape
    named = _text_names(state) | renamed_trunk(state, pooled=True)
    first = "encoder.layers.0.mlp.fc1.weight"
    require_names(named, (f"vision_model.{first}", f"text_model.{first}"), folder)
    tower = trunk.config(vision, state, named, heads[0] if heads else None, folder)
    tanh = "gelu_pytorch_tanh"
    config: dict[str, Any] = {
        "family": NAME,
        "vision_config": {"model_type": "siglip_vision_model", **tower},
        "text_config": {
            "model_type": "siglip_text_model",
            "hidden_size": text_width,
            "projection_size": named["text_model.head.weight"].shape[0],
            "intermediate_size": named[f"text_model.{first}"].shape[0],
            "num_hidden_layers": number_of_layers(named, r"text_model\.encoder\.layers\.(\d+)"),
            "num_attention_heads": text.get("heads") or (heads[1] if len(heads) > 1 else 8),
            "vocab_size": state["text.token_embedding.weight"].shape[0],
            "max_position_embeddings": positions,
            "hidden_act": tanh if (text.get("act_kwargs") or {}).get("approximate") == "tanh" else "gelu",
            "layer_norm_eps": (text.get("norm_kwargs") or {}).get("eps", 1e-5),
            "bos_token_id": None,
            "eos_token_id": None,
        },
        "projection_dim": tower["hidden_size"],
        "logit_bias": True,
        **model_scoring(named, folder),
    }
    recipe = None if options.get("preprocess") else preprocess_beside(folder)
    clean = cleaning_of(text, folder / OPEN_CLIP)
    tokenizer = siglip_tokenizer(folder, positions, clean)
    recipe = recipe or PreprocessSpec.siglip(tower["image_size"])
    parts = Parts(config, named, tokenizer, recipe, siglip_cleaning(folder, clean))
    return assembled(layout, folder, files, parts, options)


def _text_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The text tower of open_clip's transformer, under transformers' names."""
    own = {name.removeprefix("text."): tensor for name, tensor in state.items() if name.startswith("text.")}
    head = {f"text_model.head.{end}": own.pop(f"text_projection.{end}") for end in ("weight", "bias")}
    scales = {name: state[name] for name in ("logit_scale", "logit_bias")}
    return renamed_openai(own) | head | scales


FAMILY = Family(
    NAME,
    (
        Layout(
            "transformers siglip",
            CONFIG,
            TRANSFORMERS_WEIGHTS,
            lambda raw: raw.get("model_type") == "siglip",
            _read_transformers,
        ),
        Layout("open_clip siglip", OPEN_CLIP, OPEN_CLIP_WEIGHTS, _accepts_open_clip, _read_open_clip),
    ),
)
