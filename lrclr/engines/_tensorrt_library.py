"""Imports TensorRT or TensorRT-RTX, which have the same API under two names."""

from __future__ import annotations

import importlib
from typing import Any, Final

from lrclr.errors import EngineError, MissingExtraError, UsageError, first_line

PACKAGES: Final = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_OLDEST: Final = {"tensorrt": (10, 12), "tensorrt-rtx": (1, 1)}


def tensorrt_library(engine: str) -> Any:
    """The module that builds and runs plans of `engine`.

    Args:
        engine: ``"tensorrt"`` or ``"tensorrt-rtx"``.

    Raises:
        MissingExtraError: the library is not installed.
        EngineError: the library cannot be used.
    """
    if engine not in PACKAGES:
        raise UsageError(f"unknown engine {engine!r} with plans", fix=f"Choose {' or '.join(PACKAGES)}.")
    package = PACKAGES[engine]
    try:
        library = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise _unusable(engine, error) from error
        raise MissingExtraError(package, engine, f"the engine {engine}") from None
    except Exception as error:
        # Its bindings load libraries of other packages, and can fail with any exception.
        raise _unusable(engine, error) from error
    version = tuple(int(part) for part in library.__version__.split(".")[:2])
    if version < _OLDEST[engine]:
        oldest = ".".join(map(str, _OLDEST[engine]))
        raise EngineError(f"{package} {library.__version__} is too old", fix=f"Install {oldest} or newer.")
    return library


def _unusable(engine: str, error: Exception) -> EngineError:
    return EngineError(f"{PACKAGES[engine]} is installed and cannot be loaded", why=first_line(error))
