"""CLIP: OpenAI's networks, open_clip's with its own Vision Transformer, CheXzero and many others.

transformers' folders are read by their configuration. Everything else, open_clip's folders included, is found by the
names of its tensors (`lrclr.checkpoints._find`), so that files of any trainer can be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrclr.checkpoints._beside import CONFIG
from lrclr.checkpoints._folders import load_transformers
from lrclr.checkpoints._weights import TRANSFORMERS_WEIGHTS
from lrclr.checkpoints.families._family import Family, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lrclr.checkpoints._checkpoint import Checkpoint
    from lrclr.checkpoints._options import ReadOptions


def _read(_: Layout, folder: Path, raw: Mapping[str, Any], files: list[Path], options: ReadOptions) -> Checkpoint:
    return load_transformers(folder, raw, files, options)


FAMILY = Family(
    "clip",
    (Layout("transformers clip", CONFIG, TRANSFORMERS_WEIGHTS, lambda raw: raw.get("model_type") == "clip", _read),),
)
