"""lrclr: chest x-ray findings, and the image regions that support them, from a CLIP-like checkpoint.

Names that need torch are listed by `help(lrclr)` where torch is installed.

Research use only: this is not a medical device.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import TYPE_CHECKING, Any

from lrclr._version import __version__

# ONNX Runtime 1.29 and later send telemetry about each session, and write an identifier to disk, unless this variable
# is set before the import. Set it to 0 to allow telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from lrclr.bundle import Bundle
    from lrclr.checkpoints import Checkpoint, init_checkpoint, load_checkpoint
    from lrclr.engines import OnnxRuntimeEngine
    from lrclr.errors import LrclrError
    from lrclr.images import ReadLimits, read_image
    from lrclr.inference import FindingResult, Prediction, Region, ZeroShotClassifier
    from lrclr.model import LrclrConfig, LrclrModel
    from lrclr.preprocessing import PreprocessSpec, preprocess, preprocess_batch
    from lrclr.text import ClipTokenizer, Finding, FindingSet

# Names are imported on first use, so that `import lrclr` imports neither torch nor an engine.
_PACKAGES = {
    "Bundle": "bundle",
    "Checkpoint": "checkpoints",
    "ClipTokenizer": "text",
    "Finding": "text",
    "FindingResult": "inference",
    "FindingSet": "text",
    "LrclrConfig": "model",
    "LrclrError": "errors",
    "LrclrModel": "model",
    "OnnxRuntimeEngine": "engines",
    "Prediction": "inference",
    "PreprocessSpec": "preprocessing",
    "ReadLimits": "images",
    "Region": "inference",
    "ZeroShotClassifier": "inference",
    "init_checkpoint": "checkpoints",
    "load_checkpoint": "checkpoints",
    "preprocess": "preprocessing",
    "preprocess_batch": "preprocessing",
    "read_image": "images",
}

__all__ = [
    "Bundle",
    "Checkpoint",
    "ClipTokenizer",
    "Finding",
    "FindingResult",
    "FindingSet",
    "LrclrConfig",
    "LrclrError",
    "LrclrModel",
    "OnnxRuntimeEngine",
    "Prediction",
    "PreprocessSpec",
    "ReadLimits",
    "Region",
    "ZeroShotClassifier",
    "__version__",
    "init_checkpoint",
    "load_checkpoint",
    "preprocess",
    "preprocess_batch",
    "read_image",
]


_NEED_TORCH = {"checkpoints", "model"}


def __getattr__(name: str) -> Any:
    if name not in _PACKAGES:
        raise AttributeError(f"module 'lrclr' has no attribute {name!r}")
    missing = _missing_for(name)
    if missing is not None:
        from lrclr.errors import MissingExtraError

        raise MissingExtraError(missing, "torch", f"lrclr.{name}")
    return getattr(importlib.import_module(f"lrclr.{_PACKAGES[name]}"), name)


def __dir__() -> list[str]:
    # help() takes each of these names from the module.
    return [name for name in __all__ if _missing_for(name) is None]


def _missing_for(name: str) -> str | None:
    """Return the first package that is not installed and that a name needs."""
    if _PACKAGES.get(name) not in _NEED_TORCH:
        return None
    for package in ("torch", "transformers", "safetensors"):
        try:
            found = importlib.util.find_spec(package)
        except ImportError:
            found = None
        if found is None:
            return package
    return None
