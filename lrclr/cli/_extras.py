"""Checks that a command's optional dependencies are installed, before it begins its work."""

from __future__ import annotations

from lrclr.errors import is_installed
from lrclr.errors import require_packages as _require

_TORCH = ("torch", "transformers", "safetensors")


def require_torch() -> None:
    """Raise MissingExtraError if packages that read checkpoints are missing."""
    _require("torch", _TORCH, "reading a checkpoint")


def require_export() -> None:
    """Raise MissingExtraError if packages that export graphs are missing."""
    from lrclr.engines._onnxruntime_package import onnxruntime_library

    # No extra installs ONNX Runtime along with others: there are two packages of it, which exclude each other.
    extra = "export" if is_installed("onnxruntime") else "export,onnxruntime"
    _require(extra, (*_TORCH, "onnx", "onnxscript", "tritonclient", "google.protobuf"), "exporting a checkpoint")
    onnxruntime_library()


def require_build() -> None:
    """Raise MissingExtraError if packages that put plans into a bundle are missing."""
    _require("serve", ("tritonclient", "google.protobuf"), "building plans")


def require_deploy() -> None:
    """Raise MissingExtraError if packages that write manifests are missing."""
    _require("deploy", ("yaml", "tritonclient", "google.protobuf"), "writing manifests")


def require_evaluate() -> None:
    """Raise MissingExtraError if packages that evaluate a model are missing."""
    _require("evaluate", ("sklearn", "jinja2", "matplotlib"), "evaluating a model")


def require_drift() -> None:
    """Raise MissingExtraError if packages that compare collections of scores are missing."""
    _require("drift", ("pyarrow", "scipy", "sklearn", "jinja2", "matplotlib"), "comparing scores")


def require_bench() -> None:
    """Raise MissingExtraError if packages that measure the machine or write reports are missing."""
    _require("bench", ("psutil", "jinja2", "matplotlib"), "a benchmark")


def require_tune() -> None:
    """Raise MissingExtraError if packages that start servers, measure them or write reports are missing."""
    _require("tune", ("psutil", "jinja2", "matplotlib", "tritonclient", "google.protobuf"), "tuning a server")


def require_train() -> None:
    """Raise MissingExtraError if packages that train a checkpoint are missing."""
    _require("train", (*_TORCH, "accelerate", "sklearn", "matplotlib"), "training")


def require_dicom_results() -> None:
    """Raise MissingExtraError where DICOM objects cannot be written."""
    _require("dicom-results", ("pydicom", "highdicom"), "writing DICOM results")


def require_pacs() -> None:
    """Raise MissingExtraError where a PACS cannot be reached."""
    _require("pacs", ("pydicom", "highdicom", "pynetdicom", "requests"), "working with a PACS")


def require_web() -> None:
    """Raise MissingExtraError if packages of the web page and the REST API are missing."""
    _require("web", ("fastapi", "uvicorn", "python_multipart"), "the web page and the REST API")
