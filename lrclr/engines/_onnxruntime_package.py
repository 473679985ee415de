"""The installed package of ONNX Runtime: `onnxruntime` for the CPU or `onnxruntime-gpu` for CUDA, but not both."""

from __future__ import annotations

import contextlib
import io
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import onnxruntime

from lrclr.errors import EngineError

__all__ = ["preload_cuda", "require_one_package"]

_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu")


@cache
def require_one_package() -> None:
    """Make sure that the imported ONNX Runtime comes from one package.

    The packages for the CPU and for CUDA install different files under the same names. Where both are in one folder,
    the later installation has overwritten a part of the earlier one.

    Raises:
        EngineError: both packages are installed in the folder that `onnxruntime` is imported from.
    """
    if onnxruntime.__file__ is None:  # what an uninstalled package leaves behind
        return
    folder = Path(onnxruntime.__file__).parent.parent
    if all(any(distributions(name=package, path=[str(folder)])) for package in _PACKAGES):
        raise EngineError(
            "the packages onnxruntime and onnxruntime-gpu are both installed",
            why="they install different files under the same names",
            fix="Uninstall both, and install one again: pip uninstall -y onnxruntime onnxruntime-gpu, and then "
            "pip install 'lrclr[onnxruntime]' for the CPU or pip install 'lrclr[onnxruntime-gpu]' for CUDA.",
        )


@cache
def preload_cuda() -> str:
    """Load the CUDA and cuDNN libraries of NVIDIA's pip packages, where they are, before ONNX Runtime needs them.

    Returns:
        The libraries that were not found, as a clause for an error; empty if there were none.
    """
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is None:  # before 1.21; then the libraries must be on the loader's path
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        preload()
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("Failed to load ")]
    # A line ends with the loader's message, which names the library again.
    names = [Path(line.removeprefix("Failed to load ").partition(":")[0]).name for line in lines]
    return f"these libraries were not found: {', '.join(dict.fromkeys(names))}" if names else ""
