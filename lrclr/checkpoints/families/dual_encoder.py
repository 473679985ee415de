"""transformers' ``VisionTextDualEncoder``: a ViT or CLIP's image tower with a BERT, RoBERTa or XLM-RoBERTa."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from lrclr.checkpoints._beside import CONFIG, transformers_recipe
from lrclr.checkpoints._weights import TRANSFORMERS_WEIGHTS
from lrclr.checkpoints._wordpiece import bert_tokenizer
from lrclr.checkpoints.families._bert import renamed_bert
from lrclr.checkpoints.families._family import (
    Family,
    Layout,
    Parts,
    assembled,
    made_config,
    model_scoring,
    renamed,
    require_names,
    tensors_of,
    tower_tables,
)
from lrclr.errors import CheckpointError
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from lrclr.checkpoints._checkpoint import Checkpoint
    from lrclr.checkpoints._options import ReadOptions

NAME: Final = "dual-encoder"
_TEXT: Final = ("bert", "roberta", "xlm-roberta")
# Fields of transformers' configurations that decide what is computed, and their values in towers of lrclr.
_FIXED: Final = {
    "vit": {"pooler_act": "tanh", "num_channels": 3},
    "bert": {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False},
}
_VIT: Final = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size")
_VIT_MORE: Final = ("patch_size", "hidden_act", "layer_norm_eps")
# transformers 5 writes ViT under the names of older versions, and reads both.
_OLD: Final = r"vision_model\.encoder\.layer\.(\d+)\."
_NEW: Final = r"vision_model\.layers\.(\d+)\."
_TO: Final = r"vision_model.encoder.layers.\1."
_LETTERS: Final = {"query": "q", "key": "k", "value": "v"}
_VIT_RULES: Final = (
    *(
        (_OLD + rf"attention\.attention\.{word}\.(\w+)", _TO + rf"self_attn.{q}_proj.\2")
        for word, q in _LETTERS.items()
    ),
    (_OLD + r"attention\.output\.dense\.(\w+)", _TO + r"self_attn.out_proj.\2"),
    (_OLD + r"intermediate\.dense\.(\w+)", _TO + r"mlp.fc1.\2"),
    (_OLD + r"output\.dense\.(\w+)", _TO + r"mlp.fc2.\2"),
    (_NEW + r"attention\.([qkv]_proj)\.(\w+)", _TO + r"self_attn.\2.\3"),
    (_NEW + r"attention\.o_proj\.(\w+)", _TO + r"self_attn.out_proj.\2"),
    (_NEW + r"mlp\.(fc[12])\.(\w+)", _TO + r"mlp.\2.\3"),
    *(
        (start + rf"layernorm_{place}\.(\w+)", _TO + rf"layer_norm{number}.\2")
        for start in (_OLD, _NEW)
        for number, place in ((1, "before"), (2, "after"))
    ),
    (r"vision_model\.layernorm\.(\w+)", r"vision_model.post_layernorm.\1"),
    (r"vision_model\.pooler\.dense\.(\w+)", r"vision_model.pooler.\1"),
    (r"vision_model\.embeddings\.patch_embeddings\.projection\.(\w+)", r"vision_model.embeddings.patch_embedding.\1"),
    (r"vision_model\.embeddings\.cls_token", r"vision_model.embeddings.class_embedding"),
    (r"vision_model\.embeddings\.position_embeddings", r"vision_model.embeddings.position_embedding.weight"),
    (r"vision_model\.embeddings\.mask_token", ""),
)


def _read(layout: Layout, folder: Path, raw: Mapping[str, Any], files: list[Path], options: ReadOptions) -> Checkpoint:
    vision, text = tower_tables(raw, folder)
    kind, words = vision.get("model_type"), text.get("model_type")
    if kind == "clip":  # a whole CLIP's configuration, of which the network has the image tower
        vision = {**tower_tables(vision, folder)[0], "model_type": "clip_vision_model"}
        kind = "clip_vision_model"
    if kind not in ("vit", "clip_vision_model") or words not in _TEXT:
        raise CheckpointError(
            f"{folder} has towers that lrclr cannot read",
            why=f"its image tower is {kind!r} and its text tower {words!r}",
            fix=f"lrclr reads 'vit' and CLIP's image tower, from whose attention regions are picked, with "
            f"{', '.join(_TEXT)}.",
        )
    for tower, config, key in (("vision", vision, kind), ("text", text, "bert")):
        for field, value in _FIXED.get(str(key), {}).items():
            if config.get(field, value) != value:
                raise CheckpointError(
                    f"{folder} describes a network that lrclr cannot read",
                    why=f"{tower}_config.{field} is {config[field]!r}, and {value!r} is what lrclr supports",
                )
    state = renamed(tensors_of(folder, files), ((r"vision_model\.vision_model\.(.+)", r"vision_model.\1"),))
    require_names(state, ("visual_projection.weight", "text_projection.weight", "logit_scale"), folder)
    state = renamed_bert(state)
    if kind == "vit":
        state = _vit_state(state)
        defaults = {"hidden_act": "gelu", "layer_norm_eps": 1e-12}
        own: dict[str, Any] = {key: vision[key] for key in (*_VIT, *_VIT_MORE) if key in vision}
        vision = {**defaults, **own, "model_type": "lrclr_vit", "pooler": True}
    fields = {
        "family": NAME,
        "vision_config": vision,
        "text_config": text,
        "text_pooler": True,
        "projection_dim": raw.get("projection_dim", 512),
        **model_scoring(state, folder),
    }
    config = made_config(fields, folder)
    size = config.vision_config.image_size
    recipe = PreprocessSpec.clip(size) if options.get("preprocess") else transformers_recipe(folder)
    tokenizer = bert_tokenizer(folder, config.text_length, config.text_config.pad_token_id)
    return assembled(layout, folder, files, Parts(fields, state, tokenizer, recipe), options)


def _vit_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = renamed(state, _VIT_RULES)
    for name, tensor in state.items():
        if name == "vision_model.embeddings.cls_token":
            named["vision_model.embeddings.class_embedding"] = tensor.reshape(-1)
        if name == "vision_model.embeddings.position_embeddings":
            named["vision_model.embeddings.position_embedding.weight"] = tensor.reshape(tensor.shape[-2:])
    # A ViT without biases of queries, keys and values is one with biases of zero.
    for name in [name for name in named if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight"))]:
        bias = f"{name.removesuffix('weight')}bias"
        if bias not in named:
            named[bias] = torch.zeros(named[name].shape[0])
    return named


FAMILY = Family(
    NAME,
    (
        Layout(
            "transformers dual encoder",
            CONFIG,
            TRANSFORMERS_WEIGHTS,
            lambda raw: raw.get("model_type") == "vision-text-dual-encoder",
            _read,
        ),
    ),
)
