"""The configuration of an LRCLR network: its towers, region selection, the fusion head and the scoring."""

from __future__ import annotations

import math
from typing import Any, Final

from transformers import PreTrainedConfig

from lrclr.errors import UsageError
from lrclr.model.towers import text_tower, tower_config, vision_tower

# Configurations of transformers from before 2023 name this end token whatever the tokenizer's is. transformers then
# takes the highest token of a prompt for its end (transformers#24773).
LEGACY_EOS: Final = 2
_TOKENIZER_OPTIONS: Final = frozenset(("has_bos", "pad_id", "fixed_length"))
# Networks learn scales of 1 to 100. Scores multiplied by far larger ones are not finite in float32.
_LARGEST_SCALE: Final = 1e6


class LrclrConfig(PreTrainedConfig):  # type: ignore[misc]
    """Configuration of `LrclrModel`.

    The paper's abstract and overview figure do not give the values below; they are defaults that can be defended,
    and none of them may be called the paper's.

    Attributes:
        family: name of the family of networks that the weights are of; see `lrclr.checkpoints.FAMILIES`.
        text_config, vision_config: configurations of the towers. Their `model_type` decides which towers they are.
        projection_dim: width of the embeddings.
        logit_scale_init_value: logarithm of the factor on cosines in the contrastive loss, before training.
        text_projection_kind: ``"linear"``, or ``"mlp"`` for two linear layers with GELU between them.
        text_pooler: whether a BERT tower has a dense layer with tanh after its first token.
        logit_bias: whether the weights have a bias of scaled cosines, as SigLIP's have.
        tokenizer_options: options of the text tower's tokenizer, see `lrclr.text.ClipTokenizer.options`;
            ``None`` for CLIP's.
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
        score_scale, score_bias: scale and bias of the softmax, see `lrclr.inference.ScoreCalibration`; 1 and 0 are
            CheXzero's protocol.
        score_threshold: the score at which a finding without negative prompts is as likely as not. ``None`` where the
            network was not trained to judge a prompt alone: then every finding needs negative prompts.
        finding_calibration: scale and bias by name of the findings that have their own; ``None`` for none.
        local_loss_weight: weight of the local contrastive loss beside the global one.
        text_end: where a prompt ends: ``"eos_token"`` is the first `text_config.eos_token_id`, ``"highest_token"`` the
            highest token of the prompt, as in OpenAI's and open_clip's CLIP, and in transformers' with an
            `eos_token_id` of 2.
        assumed: what the original weights do not record, and the values that were assumed: a clause each.
    """

    model_type = "lrclr"

    text_config: Any = None
    vision_config: Any = None
    projection_dim: int = 512
    logit_scale_init_value: float | int | None = 2.6592
    initializer_factor: float | None = 1.0
    family: str = "clip"
    text_projection_kind: str = "linear"
    text_pooler: bool = False
    logit_bias: bool = False
    tokenizer_options: dict[str, Any] | None = None
    region_rollout: str = "per_head"
    region_top_k: int | None = None
    fusion_hidden_size: int = 256
    fusion_num_layers: int = 2
    fusion_num_heads: int = 4
    fusion_intermediate_size: int = 512
    fusion_trained: bool = False
    alpha: float = 0.5
    score_scale: float = 1.0
    score_bias: float = 0.0
    score_threshold: float | None = None
    finding_calibration: dict[str, list[float]] | None = None
    local_loss_weight: float = 1.0
    text_end: str = "eos_token"
    assumed: list[str] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        try:
            for kind in ("text", "vision"):
                given = getattr(self, f"{kind}_config")
                if not isinstance(given, dict | PreTrainedConfig | None):
                    raise TypeError(f"{kind}_config is not a table")
                if not isinstance(given, PreTrainedConfig):
                    setattr(self, f"{kind}_config", tower_config(kind, given or {}))
            super().__post_init__(**kwargs)
        except UsageError:
            raise
        except Exception as error:
            # transformers and huggingface_hub raise types of their own, or trip over a zero.
            raise UsageError(
                "the configuration of a tower is not usable", why=str(error) or type(error).__name__
            ) from error
        _check_towers(self.text_config, self.vision_config)
        _require(_whole(self.projection_dim), "projection_dim", "a whole number above 0")
        _require(self.region_rollout in ("per_head", "mean"), "region_rollout", "'per_head' or 'mean'")
        if self.region_top_k is None:
            self.region_top_k = 1 if self.region_rollout == "per_head" else self.vision_config.num_attention_heads
        _require(
            _whole(self.region_top_k) and self.region_top_k <= self.num_patches,
            "region_top_k",
            f"a whole number between 1 and {self.num_patches}, the number of patches",
        )
        for field in ("fusion_hidden_size", "fusion_num_layers", "fusion_num_heads", "fusion_intermediate_size"):
            _require(_whole(getattr(self, field)), field, "a whole number above 0")
        _require(
            self.fusion_hidden_size % self.fusion_num_heads == 0, "fusion_hidden_size", "a multiple of fusion_num_heads"
        )
        _require(
            self.assumed is None
            or (isinstance(self.assumed, list) and all(isinstance(line, str) for line in self.assumed)),
            "assumed",
            "a list of sentences",
        )
        _require(self.text_projection_kind in ("linear", "mlp"), "text_projection_kind", "'linear' or 'mlp'")
        options = self.tokenizer_options
        _require(
            options is None
            or (isinstance(options, dict) and options.keys() == _TOKENIZER_OPTIONS and _whole(options["pad_id"], 0)),
            "tokenizer_options",
            f"a table of {', '.join(sorted(_TOKENIZER_OPTIONS))}",
        )
        for field in ("text_pooler", "logit_bias"):
            _require(isinstance(getattr(self, field), bool), field, "true or false")
        _require(
            self.score_threshold is None or _number(self.score_threshold), "score_threshold", "a number, or nothing"
        )
        _require(isinstance(self.fusion_trained, bool), "fusion_trained", "true or false")
        _require(self.text_end in ("eos_token", "highest_token"), "text_end", "'eos_token' or 'highest_token'")
        _require(_number(self.alpha) and 0.0 <= self.alpha <= 1.0, "alpha", "a number between 0 and 1")
        known = f"a number above 0, and at most {_LARGEST_SCALE:.0e}"
        _require(_number(self.score_scale) and 0 < self.score_scale <= _LARGEST_SCALE, "score_scale", known)
        _require(_number(self.score_bias), "score_bias", "a number")
        _require(
            self.finding_calibration is None
            or (
                isinstance(self.finding_calibration, dict) and all(map(_calibrates, self.finding_calibration.values()))
            ),
            "finding_calibration",
            "a table from a finding's name to its scale, above 0, and bias",
        )
        _require(
            _number(self.local_loss_weight) and self.local_loss_weight >= 0,
            "local_loss_weight",
            "a number of 0 or more",
        )

    def tokenizer_option(self, name: str) -> Any:
        """One of `tokenizer_options`, or what CLIP's tokenizer has."""
        return (self.tokenizer_options or {"has_bos": True, "pad_id": 0, "fixed_length": False})[name]

    @property
    def text_length(self) -> int:
        """The most tokens of a prompt that the text tower reads."""
        return text_tower(self.text_config).longest(self.text_config)

    @property
    def fixed_text_length(self) -> bool:
        """Whether every prompt is padded to `text_length`, because the text tower sees padding."""
        return text_tower(self.text_config).padding_visible

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

    @property
    def axis_sizes(self) -> dict[str, int | str]:
        """Sizes of the named axes of `lrclr.contract` that the network fixes: all but those of `DYNAMIC`.

        The axis ``length`` is a number, or the name of the axis of `DYNAMIC` that it is.
        """
        return {
            "image_size": self.vision_config.image_size,
            "regions": self.num_regions,
            "rows": self.num_regions + 1,
            "projection": self.projection_dim,
            "vision_width": self.vision_config.hidden_size,
            "text_width": self.text_config.hidden_size,
            "length": self.text_length if self.fixed_text_length else "tokens",
        }


def _check_towers(text: Any, vision: Any) -> None:
    """Refuse what transformers lets through and the network cannot be built with."""
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    for name, tower, fields in (
        ("text_config", text, (*sizes, "vocab_size", "max_position_embeddings")),
        ("vision_config", vision, (*sizes, "image_size", "patch_size")),
    ):
        for field in fields:
            _require(_whole(getattr(tower, field)), f"{name}.{field}", "a whole number above 0")
        known = f"a divisor of hidden_size, {tower.hidden_size}"
        _require(tower.hidden_size % tower.num_attention_heads == 0, f"{name}.num_attention_heads", known)
        eps = tower.layer_norm_eps
        _require(_number(eps) and eps > 0, f"{name}.layer_norm_eps", "a number above 0")
    if text_tower(text).causal:
        # A causal tower looks for the end of a prompt; the others do not.
        eos = text.eos_token_id
        known = f"a token of the {text.vocab_size} known"
        _require(_whole(eos, 0) and eos < text.vocab_size, "text_config.eos_token_id", known)
    vision_tower(vision)
    _require(vision.num_channels == 3, "vision_config.num_channels", "3")
    _require(vision.image_size >= vision.patch_size, "vision_config.patch_size", "no more than image_size")


def _whole(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _calibrates(pair: object) -> bool:
    return isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_number, pair)) and pair[0] > 0


def _require(holds: bool, field: str, expected: str) -> None:
    if not holds:
        raise UsageError(f"the configuration's {field} is not usable", fix=f"It must be {expected}.")
