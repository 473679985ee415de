"""CLIP's image tower with convolutions beside its patch embedding, for findings of a few pixels.

One linear map of a patch of 16 × 16 pixels misses what is small in it. The convolutions (as in Xiao et al., Early
Convolutions Help Transformers See Better, 2021) read the same pixels, and their output is added to each patch.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import CLIPVisionConfig

from lrclr.errors import UsageError
from lrclr.model.towers.clip import ClipVision

if TYPE_CHECKING:
    from torch import Tensor


class StemVisionConfig(CLIPVisionConfig):  # type: ignore[misc]
    """Configuration of `StemVision`.

    Args:
        stem_channels: channels after each halving of the image but the last one, after which there are `hidden_size`.
            With n of them, a patch has ``2 ** (n + 1)`` pixels along each edge.
    """

    model_type = "lrclr_stem_clip"

    stem_channels: tuple[int, ...] | list[int] = (24, 48, 96)

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        channels = self.stem_channels
        whole = isinstance(channels, list | tuple) and all(type(each) is int and each > 0 for each in channels)
        if not whole or self.patch_size != 2 ** (len(channels) + 1) or self.image_size % self.patch_size:
            raise UsageError(
                "the configuration's vision_config.stem_channels is not usable",
                why=f"a patch has {self.patch_size} pixels along each edge, and an image {self.image_size}",
                fix="It must be a list of n whole numbers above 0, where 2 ** (n + 1) is patch_size, and image_size a "
                "multiple of patch_size.",
            )


class Stem(nn.Module):
    """Convolutions of an image ``[B, 3, H, W]`` to ``[B, D, H / 2**n, W / 2**n]``.

    Each of n steps halves the image. All but the first and the last one are followed by a residual convolution.

    Args:
        channels: channels after each step; n of them, the last one D.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.halve = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in pairwise((3, *channels))
        )
        self.refine = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in channels[1:-1])
        self.project = nn.Conv2d(channels[-1], channels[-1], 1)

    def features(self, pixel_values: Tensor) -> Tensor:
        """What the last step gives, ``[B, D, H / 2**n, W / 2**n]``, before its projection."""
        hidden = pixel_values
        for number, halve in enumerate(self.halve):
            hidden = nn.functional.relu(halve(hidden))
            if 1 <= number <= len(self.refine):
                hidden = hidden + nn.functional.relu(self.refine[number - 1](hidden))
        return hidden

    def forward(self, pixel_values: Tensor) -> Tensor:
        projected: Tensor = self.project(self.features(pixel_values))
        return projected


class StemVision(ClipVision):
    """See the module."""

    config_class = StemVisionConfig

    def __init__(self, config: StemVisionConfig) -> None:
        super().__init__(config)
        self.stem = Stem((*config.stem_channels, config.hidden_size))

    def embed(self, pixel_values: Tensor) -> Tensor:
        detail = self.stem(pixel_values.to(self.stem.project.weight.dtype)).flatten(2).transpose(1, 2)
        tokens = self.embeddings(pixel_values) + nn.functional.pad(detail, (0, 0, 1, 0))
        hidden: Tensor = self.pre_layrnorm(tokens)
        return hidden
