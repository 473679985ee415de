"""Imports ONNX Runtime: the package `onnxruntime` for the CPU, or `onnxruntime-gpu` for CUDA."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import sys
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from lrclr.errors import EngineError, MissingExtraError, first_line

_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu")
_INSTALL_ONE: Final = (
    "Uninstall both, and install one again: pip uninstall -y onnxruntime onnxruntime-gpu, and then "
    "pip install '.[onnxruntime]' for the CPU or pip install '.[onnxruntime-gpu]' for CUDA."
)


@cache
def onnxruntime_library() -> Any:
    """The module ``onnxruntime``.

    The packages for the CPU and for CUDA install different files under the same names. Where both are in one folder,
    the later installation has overwritten a part of the earlier one. Where one of them is then uninstalled, files of
    the other are missing.

    Raises:
        MissingExtraError: neither package is installed.
        EngineError: both packages are installed in the folder that `onnxruntime` is imported from, or the installed
            one is incomplete or cannot be loaded.
    """
    installed = _installed()
    if len(installed) > 1:
        raise EngineError(
            "the packages onnxruntime and onnxruntime-gpu are both installed",
            why="they install different files under the same names",
            fix=_INSTALL_ONE,
        )
    try:
        library = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise _unusable(installed, first_line(error)) from error
        library = None
    except Exception as error:
        # Its bindings load other libraries, and can fail with any exception.
        raise _unusable(installed, first_line(error)) from error
    # Python imports a folder without `__init__.py` as an empty module.
    if hasattr(library, "InferenceSession"):
        return library
    if installed:
        raise _unusable(installed, "some of its files are missing, as after one of two packages was uninstalled")
    raise MissingExtraError(
        "onnxruntime", "onnxruntime", "the engine onnxruntime", or_else="pip install '.[onnxruntime-gpu]' for CUDA"
    )


def has_onnxruntime() -> bool:
    """Whether ONNX Runtime is installed.

    Raises:
        EngineError: it is installed, and cannot be used.
    """
    try:
        onnxruntime_library()
    except MissingExtraError:
        return False
    return True


def _installed() -> list[str]:
    """The packages in the folder of the module `onnxruntime`, or anywhere without such a module."""
    try:
        spec = importlib.util.find_spec("onnxruntime")
    except ModuleNotFoundError:
        spec = None
    folders = [str(Path(folder).parent) for folder in (spec.submodule_search_locations or ())] if spec else sys.path
    return [package for package in _PACKAGES if any(distributions(name=package, path=folders))]


def _unusable(installed: list[str], why: str) -> EngineError:
    package = installed[0] if installed else "onnxruntime"
    return EngineError(f"the package {package} is installed and cannot be loaded", why=why, fix=_INSTALL_ONE)


@cache
def preload_cuda() -> str:
    """Load the CUDA and cuDNN libraries of NVIDIA's pip packages before ONNX Runtime needs them.

    Returns:
        A clause for an error with the libraries that were not found; empty if all were found.
    """
    preload = getattr(onnxruntime_library(), "preload_dlls", None)
    if preload is None:  # before 1.21 the libraries must be on the loader's path
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        preload()
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("Failed to load ")]
    # The loader's message after the colon repeats the name.
    names = [Path(line.removeprefix("Failed to load ").partition(":")[0]).name for line in lines]
    return f"these libraries were not found: {', '.join(dict.fromkeys(names))}" if names else ""
