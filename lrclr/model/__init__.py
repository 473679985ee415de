"""The LRCLR network, on towers of transformers. Importing it imports torch and transformers."""

from lrclr.model.configuration import LEGACY_EOS, LrclrConfig
from lrclr.model.modeling import ImageEncoding, LrclrModel, LrclrOutput, TextEncoding
from lrclr.model.regions import Regions, rollout_row, select_regions

__all__ = [
    "LEGACY_EOS",
    "ImageEncoding",
    "LrclrConfig",
    "LrclrModel",
    "LrclrOutput",
    "Regions",
    "TextEncoding",
    "rollout_row",
    "select_regions",
]
