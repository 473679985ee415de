"""Imports OpenVINO without its telemetry."""

from __future__ import annotations

import importlib
import sys
from threading import Lock
from typing import Any, Final

from lrclr.errors import EngineError, MissingExtraError, first_line

_OLDEST: Final = (2026, 0)
_TELEMETRY: Final = "openvino_telemetry"
_importing = Lock()


def openvino_library() -> Any:
    """The module ``openvino``.

    If OpenVINO can import the package ``openvino_telemetry``, it sends a message at its import, and writes an
    identifier into the home directory. Here that import fails, and OpenVINO uses a stub that sends nothing. An
    application that imported OpenVINO before keeps its choice.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        EngineError: OpenVINO cannot be used.
    """
    with _importing:
        try:
            library = sys.modules["openvino"] if "openvino" in sys.modules else _imported_quietly()
        except ModuleNotFoundError as error:
            if error.name != "openvino":
                raise _unusable(error) from error
            raise MissingExtraError("openvino", "openvino", "the engine openvino") from None
        except Exception as error:
            # Its bindings load other libraries, and can fail with any exception.
            raise _unusable(error) from error
    version = release(library)
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise EngineError(f"openvino {version} is too old", fix=f"Install {oldest} or newer.")
    return library


def release(library: Any) -> str:
    """The version without the build number, such as ``"2026.4.1"``."""
    return str(library.__version__).partition("-")[0]


def _imported_quietly() -> Any:
    if _TELEMETRY in sys.modules:
        return importlib.import_module("openvino")
    # With None in this table, Python raises ModuleNotFoundError for the module.
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[_TELEMETRY]


def _unusable(error: Exception) -> EngineError:
    return EngineError("openvino is installed and cannot be loaded", why=first_line(error))
