"""Checks that a command's optional dependencies are installed, before it begins its work."""

from __future__ import annotations

from typing import Final

from lrclr.errors import is_installed, require_packages

_TORCH: Final = ("torch", "transformers", "safetensors")
_TRITON: Final = ("tritonclient", "google.protobuf")
_REPORTS: Final = ("jinja2", "matplotlib")
# The packages that an extra installs and a command needs, and what needs them.
_NEEDS: Final[dict[str, tuple[tuple[str, ...], str]]] = {
    "torch": (_TORCH, "reading a checkpoint"),
    "export": ((*_TORCH, "onnx", "onnxscript", *_TRITON), "exporting a checkpoint"),
    "serve": (_TRITON, "building plans"),
    "deploy": (("yaml", *_TRITON), "writing manifests"),
    "evaluate": (("sklearn", *_REPORTS), "evaluating a model"),
    "drift": (("pyarrow", "scipy", "sklearn", *_REPORTS), "comparing scores"),
    "bench": (("psutil", *_REPORTS), "a benchmark"),
    "tune": (("psutil", *_REPORTS, *_TRITON), "tuning a server"),
    "train": ((*_TORCH, "accelerate", "sklearn", "matplotlib"), "training"),
    "dicom-results": (("pydicom", "highdicom"), "writing DICOM results"),
    "pacs": (("pydicom", "highdicom", "pynetdicom", "requests"), "working with a PACS"),
    "web": (("fastapi", "uvicorn", "python_multipart"), "the web page and the REST API"),
}


def require(extra: str) -> None:
    """Raise MissingExtraError if a package that the extra installs is missing."""
    packages, purpose = _NEEDS[extra]
    # No extra installs ONNX Runtime along with others: there are two packages of it, which exclude each other.
    installing = "export,onnxruntime" if extra == "export" and not is_installed("onnxruntime") else extra
    require_packages(installing, packages, purpose)
    if extra == "export":
        from lrclr.engines._onnxruntime_package import onnxruntime_library

        onnxruntime_library()
