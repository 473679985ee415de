"""A cache of the graphs that torch's exporter writes, by the content of the network.

The exporter takes three quarters of the time of an export. The rest of the export always runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import platform
import shutil
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr_export.onnx.graphs import GraphSpec
    from lrclr_export.onnx.onnx_graph import TypedGraph

ROOT: Final = Path(__file__).parents[1]
KEPT: Final = ROOT / ".make" / "exports"
_CODE: Final = ("lrclr/model", "lrclr/contract.py", "lrclr/_kernels.py", "export/lrclr_export", "tests/kept_exports.py")
# Settings of an `LrclrConfig` that are used outside of the graphs.
_AFTER: Final = (
    "alpha",
    "assumed",
    "finding_calibration",
    "fusion_trained",
    "local_loss_weight",
    "score_bias",
    "score_scale",
)
_PACKAGES: Final = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")


@contextmanager
def exporting_once() -> Iterator[None]:
    """Let exports in this process use the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lrclr_export.repository.pipeline.typed_onnx_from_module", kept_export)
        yield


def kept_export(spec: GraphSpec, *, opset: int) -> TypedGraph:
    """`typed_onnx_from_module` with the cache."""
    import onnx
    import onnx_ir as ir

    from lrclr_export.onnx.onnx_graph import TypedGraph, typed_onnx_from_module

    file = _folder() / f"{spec.name}-{fingerprint(spec, opset)}"
    graph, layers = file.with_suffix(".onnx"), file.with_suffix(".json")
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layers.exists():
            exported = typed_onnx_from_module(spec, opset=opset)
            graph.write_bytes(ir.to_proto(exported.model).SerializeToString())
            layers.write_text(json.dumps(exported.layers))
            return exported
    model = ir.from_proto(onnx.load_from_string(graph.read_bytes()))
    return TypedGraph(spec.name, model, json.loads(layers.read_text()))


@cache
def _folder() -> Path:
    """The folder of graphs for the current code. Folders for other code are removed."""
    digest = hashlib.sha256(platform.python_version().encode())
    for package in _PACKAGES:
        digest.update(f"{package} {importlib.metadata.version(package)}\n".encode())
    for place in map(ROOT.joinpath, _CODE):
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    folder = KEPT / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for other in KEPT.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    return folder


def fingerprint(spec: GraphSpec, opset: int) -> str:
    """A hash of everything in the input of an export: settings, weights and example inputs."""
    import torch

    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update(f"{values!r}\n".encode())

    add(opset, spec.outputs, [(name, str(dims)) for name, dims in spec.dynamic.items()])
    for name, module in spec.module.named_modules():
        settings = {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float | str)}
        add(name, type(module).__qualname__, sorted(settings.items()))
        if hasattr(module, "config"):
            add(json.dumps(_plain(module.config.to_dict()), sort_keys=True, default=str))
    # A state dict does not contain buffers that are not saved.
    for name, tensor in (*spec.module.named_parameters(), *spec.module.named_buffers(), *spec.inputs.items()):
        add(name, tensor.dtype, tuple(tensor.shape))
        # As bytes: NumPy has no FP8.
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that affect the graphs."""
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in _AFTER}
