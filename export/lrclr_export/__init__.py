"""From a checkpoint to a bundle: typed ONNX graphs, the Triton model repository around them, and the gates.

And from a bundle to one for TensorRT or OpenVINO, which needs neither torch nor ONNX.
"""

from __future__ import annotations

import contextlib
import gc
from typing import TYPE_CHECKING, Any

from lrclr_export.plans import BuildOptions
from lrclr_export.progress import NoProgress, ProgressCallbacks
from lrclr_export.repository.build import add_plans, best_engine, build_bundle, check_buildable, set_cpu_engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr_export.repository.ensemble import Member, export_ensemble
    from lrclr_export.repository.pipeline import ExportOptions, export_bundle

__all__ = [
    "BuildOptions",
    "ExportOptions",
    "Member",
    "NoProgress",
    "ProgressCallbacks",
    "add_plans",
    "best_engine",
    "build_bundle",
    "check_buildable",
    "export_bundle",
    "export_ensemble",
    "set_cpu_engine",
]


def __getattr__(name: str) -> Any:
    # Looked up when first used: plans are built where a bundle is served, and nothing there reads checkpoints.
    if name in {"ExportOptions", "export_bundle"}:
        with _without_garbage_collection():
            from lrclr_export.repository import pipeline

        return getattr(pipeline, name)
    if name in {"Member", "export_ensemble"}:
        with _without_garbage_collection():
            from lrclr_export.repository import ensemble

        return getattr(ensemble, name)
    raise AttributeError(f"module 'lrclr_export' has no attribute {name!r}")


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Import torch and transformers without garbage collection, which takes a fifth of the time and finds nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
