"""Hardware and software that the figures depend on, without names of host, user or paths."""

from __future__ import annotations

import platform
from typing import Any, Final

from lrclr._version import __version__, installed_versions
from lrclr.bench import _nvml
from lrclr.bench._machine import machine, settings

PACKAGES: Final = (
    "numpy", "pillow", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt_rtx", "torch",
    "transformers", "tokenizers", "pydicom", "pylibjpeg", "python-gdcm", "tritonclient", "grpcio", "nvidia-ml-py",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """``machine``, ``settings``, ``system``, ``python``, ``packages``, ``gpus`` and ``lrclr``."""
    return {
        "lrclr": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "distribution": _distribution(),
        "machine": machine(),
        "gpus": _nvml.describe(),
        "settings": settings(),
        "packages": installed_versions(PACKAGES),
    }


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None
