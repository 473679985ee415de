"""Vision Transformers of timm inside open_clip's networks: what their names say, and what their tensors are called."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lrclr.checkpoints._beside import OPEN_CLIP
from lrclr.checkpoints.families._family import heads_of, number_of_layers, renamed, split_in_three
from lrclr.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

# Width and heads by the size in a name (timm/models/vision_transformer.py).
_SIZES: Final = {
    "tiny": (192, 3),
    "small": (384, 6),
    "base": (768, 12),
    "large": (1024, 16),
    "so400m": (1152, 16),
    "huge": (1280, 16),
    "giantopt": (1536, 16),
}
_NAME: Final = re.compile(r"vit_(?P<size>[a-z0-9]+)_patch(?P<patch>\d+)(?P<siglip>_siglip)?_(?P<image>\d+)(?:\..*)?")
# Of timm's SigLIP networks these have the approximation of GELU by tanh. The others have exact GELU, although
# transformers runs the same weights with tanh.
_TANH: Final = frozenset(
    (
        "vit_base_patch32_siglip_256",
        "vit_large_patch16_siglip_512",
        *(f"vit_so400m_patch16_siglip_{size}" for size in (256, 384, 512)),
        *(f"vit_giantopt_patch16_siglip_{size}" for size in (256, 384)),
    )
)


@dataclass(frozen=True)
class Trunk:
    """What the name of a timm network says.

    Attributes:
        name: of the network.
        width, usual_heads: of its size.
        activation: by transformers' name.
    """

    name: str
    width: int
    usual_heads: int
    activation: str

    def config(
        self,
        vision: Mapping[str, Any],
        state: Mapping[str, Tensor],
        named: Mapping[str, Tensor],
        heads: int | None,
        folder: Path,
    ) -> dict[str, Any]:
        """Configuration of the image tower, without its type.

        Args:
            vision: open_clip's configuration of it. Its image size counts if the positions agree with it. If a side is
                not a multiple of a patch, the pixels at the edge are not read.
            state: all tensors of the network.
            named: those of the image tower under lrclr's names.
            heads: attention heads that the caller gave; else the usual ones, if the width is that of the trunk's name.
            folder: folder of the checkpoint, for errors.
        """
        positions, width = state["visual.trunk.pos_embed"].shape[-2:]
        patch = int(named["vision_model.embeddings.patch_embedding.weight"].shape[-1])
        side = math.isqrt(positions - ("visual.trunk.cls_token" in state))
        told = vision.get("image_size")
        usual = heads is None and width == self.width
        return {
            "hidden_size": width,
            "intermediate_size": named["vision_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "num_hidden_layers": number_of_layers(named, r"vision_model\.encoder\.layers\.(\d+)"),
            "num_attention_heads": self.usual_heads if usual else heads_of(width, heads, folder, "image"),
            "image_size": told if isinstance(told, int) and told // patch == side else side * patch,
            "patch_size": patch,
            "hidden_act": self.activation,
        }


def trunk_of(vision: Mapping[str, Any], folder: Path) -> Trunk:
    """What an open_clip configuration says about its trunk.

    Raises:
        CheckpointError: it is not a plain Vision Transformer.
    """
    name = str(vision.get("timm_model_name"))
    match = _NAME.fullmatch(name)
    if match is None or match["size"] not in _SIZES:
        raise CheckpointError(
            f"{folder / OPEN_CLIP} names an image tower that lrclr cannot read",
            why=f"{name} is not a plain Vision Transformer of timm, from whose attention regions are picked",
            fix=f"lrclr reads vit_SIZE_patchN_IMAGE and vit_SIZE_patchN_siglip_IMAGE, where SIZE is one of "
            f"{', '.join(_SIZES)}.",
        )
    width, heads = _SIZES[match["size"]]
    bare = name.partition(".")[0]
    return Trunk(bare, width, heads, "gelu_pytorch_tanh" if bare in _TANH else "gelu")


_BLOCK: Final = r"visual\.trunk\.blocks\.(\d+)\."
_TO: Final = r"vision_model.encoder.layers.\1."
_RULES: Final = (
    (_BLOCK + r"norm([12])\.(\w+)", _TO + r"layer_norm\2.\3"),
    (_BLOCK + r"attn\.([qkv]_proj)\.(\w+)", _TO + r"self_attn.\2.\3"),
    (_BLOCK + r"attn\.proj\.(\w+)", _TO + r"self_attn.out_proj.\2"),
    (_BLOCK + r"mlp\.(fc[12])\.(\w+)", _TO + r"mlp.\2.\3"),
    (r"visual\.trunk\.patch_embed\.proj\.(\w+)", r"vision_model.embeddings.patch_embedding.\1"),
    (r"visual\.trunk\.norm\.(\w+)", r"vision_model.post_layernorm.\1"),
    (r"visual\.trunk\.cls_token", r"vision_model.embeddings.class_embedding"),
    (r"visual\.trunk\.pos_embed", r"vision_model.embeddings.position_embedding.weight"),
    (r"visual\.head\.proj\.weight", r"visual_projection.weight"),
    # SigLIP's pooling head.
    (r"visual\.trunk\.attn_pool\.latent", r"vision_model.head.probe"),
    (r"visual\.trunk\.attn_pool\.proj\.(\w+)", r"vision_model.head.attention.out_proj.\1"),
    (r"visual\.trunk\.attn_pool\.norm\.(\w+)", r"vision_model.head.layernorm.\1"),
    (r"visual\.trunk\.attn_pool\.mlp\.(fc[12])\.(\w+)", r"vision_model.head.mlp.\1.\2"),
)


def renamed_trunk(state: Mapping[str, Tensor], *, pooled: bool) -> dict[str, Tensor]:
    """The image tower's tensors under lrclr's names.

    Args:
        state: all tensors of the network.
        pooled: whether the trunk has SigLIP's pooling head.
    """
    own = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    own = split_in_three(
        own, r"(?P<before>visual\.trunk\.blocks\.\d+\.attn\.)qkv(?P<end>\.\w+)", ("q_proj", "k_proj", "v_proj")
    )
    if pooled:
        for end in ("weight", "bias"):
            query, both = (own.pop(f"visual.trunk.attn_pool.{part}.{end}", None) for part in ("q", "kv"))
            if query is not None and both is not None:
                own[f"vision_model.head.attention.in_proj_{end}"] = _joined(query, both)
    named = renamed(own, _RULES)
    for name in ("vision_model.embeddings.position_embedding.weight", "vision_model.embeddings.class_embedding"):
        if name in named:
            named[name] = named[name].squeeze(0)
    if (cls := named.get("vision_model.embeddings.class_embedding")) is not None:
        named["vision_model.embeddings.class_embedding"] = cls.reshape(-1)
    return named


def _joined(query: Tensor, both: Tensor) -> Tensor:
    import torch

    return torch.cat([query, both])
