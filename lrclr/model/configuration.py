"""The configuration of an LRCLR network: that of a CLIP model, region selection, the fusion head and the scoring."""

from __future__ import annotations

from typing import Any, Literal

from transformers import CLIPConfig

from lrclr.errors import UsageError

Rollout = Literal["per_head", "mean"]


class LrclrConfig(CLIPConfig):
    """Configuration of `LrclrModel`.

    The paper's abstract and overview figure do not give the values below; they are defaults that can be defended,
    and none of them may be called the paper's.

    Args:
        region_rollout: ``"per_head"`` multiplies the raw attention of each head over the layers and picks patches in
            every head (TransFG's part selection); ``"mean"`` averages the heads, adds the identity and renormalises
            the rows (Abnar & Zuidema's attention rollout) and picks patches once.
        region_top_k: patches picked in each head (``"per_head"``, default 1) or in all (``"mean"``, default as many
            as there are heads).
        fusion_hidden_size: width of the fusion head.
        fusion_num_layers: number of its blocks.
        fusion_num_heads: attention heads of a block.
        fusion_intermediate_size: width of a block's MLP.
        fusion_trained: whether the fusion head has ever been tuned. While it has not, scores use ``alpha = 0``.
        alpha: weight of the local score in ``(1 - alpha) * global + alpha * local``, in [0, 1].
        score_scale: factor on a score before the positive/negative softmax; 1 is CheXzero's protocol.
        local_loss_weight: weight of the local contrastive loss beside the global one.
    """

    model_type = "lrclr"

    region_rollout: str = "per_head"
    region_top_k: int | None = None
    fusion_hidden_size: int = 256
    fusion_num_layers: int = 2
    fusion_num_heads: int = 4
    fusion_intermediate_size: int = 1024
    fusion_trained: bool = False
    alpha: float = 0.5
    score_scale: float = 1.0
    local_loss_weight: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        heads = self.vision_config.num_attention_heads
        if self.region_top_k is None:
            self.region_top_k = 1 if self.region_rollout == "per_head" else heads
        _require(self.region_rollout in ("per_head", "mean"), "region_rollout", "'per_head' or 'mean'")
        _require(1 <= self.region_top_k <= self.num_patches, "region_top_k", f"between 1 and {self.num_patches}")
        _require(self.fusion_num_layers >= 1, "fusion_num_layers", "at least 1")
        _require(
            self.fusion_num_heads >= 1 and self.fusion_hidden_size % self.fusion_num_heads == 0,
            "fusion_hidden_size",
            "a multiple of fusion_num_heads",
        )
        _require(0.0 <= self.alpha <= 1.0, "alpha", "between 0 and 1")
        _require(self.score_scale > 0, "score_scale", "above 0")

    @property
    def num_patches(self) -> int:
        """Patches of an image, without CLS."""
        return int(self.vision_config.image_size // self.vision_config.patch_size) ** 2

    @property
    def num_regions(self) -> int:
        """Regions that survive selection, duplicates counted: R of the graphs' contract."""
        groups = self.vision_config.num_attention_heads if self.region_rollout == "per_head" else 1
        return int(groups * (self.region_top_k or 0))

    @property
    def effective_alpha(self) -> float:
        """`alpha`, or 0 while the fusion head has not been trained."""
        return self.alpha if self.fusion_trained else 0.0


def _require(holds: bool, field: str, expected: str) -> None:
    if not holds:
        raise UsageError(f"the configuration's {field} is not usable", fix=f"It must be {expected}.")
