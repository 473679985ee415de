"""Optional dependencies, asked for before a command begins its work."""

from __future__ import annotations

import importlib.util

from lrclr.errors import MissingExtraError

_TORCH = ("torch", "transformers", "safetensors")


def require_torch() -> None:
    """Raise MissingExtraError where checkpoints cannot be read."""
    _require("torch", _TORCH, "reading a checkpoint")


def require_export() -> None:
    """Raise MissingExtraError where graphs cannot be exported."""
    from lrclr.engines._onnxruntime_package import onnxruntime_library

    _require("export", (*_TORCH, "onnx", "onnxscript", "tritonclient", "google.protobuf"), "exporting a checkpoint")
    # No extra brings it along: there are two packages of it, which exclude each other.
    onnxruntime_library()


def require_build() -> None:
    """Raise MissingExtraError where plans cannot be put into a bundle."""
    _require("serve", ("tritonclient", "google.protobuf"), "building plans")


def require_deploy() -> None:
    """Raise MissingExtraError where manifests cannot be written."""
    _require("deploy", ("yaml", "tritonclient", "google.protobuf"), "writing manifests")


def require_evaluate() -> None:
    """Raise MissingExtraError where models cannot be judged."""
    _require("evaluate", ("sklearn", "jinja2", "matplotlib"), "judging a model")


def require_bench() -> None:
    """Raise MissingExtraError where the machine cannot be measured or reports cannot be written."""
    _require("bench", ("psutil", "jinja2", "matplotlib"), "a benchmark")


def require_train() -> None:
    """Raise MissingExtraError where checkpoints cannot be tuned."""
    _require("train", (*_TORCH, "accelerate", "sklearn", "matplotlib"), "training")


def require_dicom_results() -> None:
    """Raise MissingExtraError where DICOM objects cannot be written."""
    _require("dicom-results", ("pydicom", "highdicom"), "writing DICOM results")


def require_pacs() -> None:
    """Raise MissingExtraError where a PACS cannot be reached."""
    _require("pacs", ("pydicom", "highdicom", "pynetdicom", "requests"), "working with a PACS")


# Each function names the one extra that brings everything that its command needs.


def _require(extra: str, packages: tuple[str, ...], purpose: str) -> None:
    for package in packages:
        try:
            found = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            found = None
        if found is None:
            raise MissingExtraError(package, extra, purpose)
