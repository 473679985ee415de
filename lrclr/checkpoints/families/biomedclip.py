"""BiomedCLIP and other networks of open_clip's ``CustomTextCLIP``: a Vision Transformer of timm and a BERT.

``open_clip_config.json`` does not hold the BERT's configuration, so that its sizes are taken from the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lrclr.checkpoints._beside import OPEN_CLIP, open_clip_towers, preprocess_beside
from lrclr.checkpoints._cleaning import KINDS, cleaning_of
from lrclr.checkpoints._weights import OPEN_CLIP_WEIGHTS
from lrclr.checkpoints._wordpiece import bert_tokenizer
from lrclr.checkpoints.families._bert import bert_config, renamed_bert
from lrclr.checkpoints.families._family import (
    Family,
    Layout,
    Parts,
    assembled,
    model_scoring,
    renamed,
    require_names,
    tensors_of,
)
from lrclr.checkpoints.families._timm import renamed_trunk, trunk_of
from lrclr.errors import CheckpointError
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lrclr.checkpoints._checkpoint import Checkpoint
    from lrclr.checkpoints._options import ReadOptions

NAME: Final = "biomedclip"
_POOLERS: Final = {"cls_last_hidden_state_pooler": False, "cls_pooler": True}
_FIRST: Final = "vision_model.encoder.layers.0.mlp.fc1.weight"


def _accepts(raw: Mapping[str, Any]) -> bool:
    vision, text = open_clip_towers(raw)
    return "hf_model_name" in text and "timm_model_name" in vision and vision.get("timm_pool") != "map"


def _read(layout: Layout, folder: Path, raw: Mapping[str, Any], files: list[Path], options: ReadOptions) -> Checkpoint:
    vision, text = open_clip_towers(raw)
    trunk = trunk_of(vision, folder)
    pooler = str(text.get("hf_pooler_type", text.get("pooler_type")))
    projection = text.get("hf_proj_type", text.get("proj_type"))
    for key, value, known in (
        ("timm_pool", vision.get("timm_pool") or "token", ("token",)),
        ("timm_proj", vision.get("timm_proj"), ("linear",)),
        ("hf_pooler_type", pooler, tuple(_POOLERS)),
        ("hf_proj_type", projection, ("linear", "mlp")),
    ):
        if value not in known:
            raise CheckpointError(
                f"{folder / OPEN_CLIP} describes a network that lrclr cannot read",
                why=f"{key} is {value!r}",
                fix=f"lrclr supports {' and '.join(map(repr, known))}.",
            )
    state = tensors_of(folder, files)
    require_names(state, ("visual.trunk.pos_embed", "visual.head.proj.weight", "logit_scale"), folder)
    named = renamed_bert(
        renamed(
            {name: tensor for name, tensor in state.items() if not name.startswith("visual.")},
            (
                (r"text\.transformer\.(.+)", r"text_model.\1"),
                (r"text\.proj\.weight", "text_projection.weight"),
                (r"text\.proj\.(\d+)\.weight", r"text_projection.\1.weight"),
            ),
        )
    ) | renamed_trunk(state, pooled=False)
    if not _POOLERS[pooler]:
        # Some exports kept BERT's pooler, which this network does not use.
        named = {name: tensor for name, tensor in named.items() if not name.startswith("text_model.pooler.")}
    require_names(named, (_FIRST, "vision_model.embeddings.patch_embedding.weight"), folder)
    heads = options.get("heads") or ()
    bert, assumed = bert_config(named, str(text["hf_model_name"]), heads[1] if len(heads) > 1 else None, folder)
    tower = trunk.config(vision, state, named, heads[0] if heads else None, folder)
    config = {
        "family": NAME,
        "vision_config": {"model_type": "lrclr_vit", **tower},
        "text_config": bert,
        "text_projection_kind": projection,
        "text_pooler": _POOLERS[pooler],
        "projection_dim": state["visual.head.proj.weight"].shape[0],
        "assumed": assumed,
        **model_scoring(named, folder),
    }
    recipe = None if options.get("preprocess") else preprocess_beside(folder)
    context = min(int(text.get("context_length", 77)), bert["max_position_embeddings"])
    clean = cleaning_of(text, folder / OPEN_CLIP)
    tokenizer = bert_tokenizer(folder, context, bert["pad_token_id"], clean)
    parts = Parts(config, named, tokenizer, recipe or PreprocessSpec.clip(tower["image_size"]), KINDS[clean])
    return assembled(layout, folder, files, parts, options)


FAMILY = Family(NAME, (Layout("open_clip", OPEN_CLIP, OPEN_CLIP_WEIGHTS, _accepts, _read),))
