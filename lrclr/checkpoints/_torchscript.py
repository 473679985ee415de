"""Tensors out of a TorchScript archive, without running any of its code.

``torch.jit.load`` would rebuild the archive's classes and run their ``__setstate__``. OpenAI's archives are wanted for
their weights alone, so this reads the archive's object pickle with an unpickler that knows tensors, storages and plain
attribute holders, and nothing else.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrclr.errors import CheckpointError

_STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Whether a zip archive is TorchScript's: those hold constants beside the data."""
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of the archive, under their dotted names."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = _TensorUnpickler(archive, data.removesuffix("data.pkl")).load()
    except (pickle.UnpicklingError, zipfile.BadZipFile, StopIteration) as error:
        raise CheckpointError(
            f"{path} is not a TorchScript archive of weights", why="it is damaged or holds more than modules and tensors"
        ) from error
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, EOFError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a TorchScript archive of weights", why="it is damaged") from error
    tensors: dict[str, Tensor] = {}
    _collect(root, "", tensors, depth=0)
    return tensors


class _Module:
    """Stands for an instance of any class of the archive: its attributes, and no behaviour."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module's state is not a dict")
        self.attributes = state


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{prefix}data.pkl")))
        self._archive, self._prefix = archive, prefix
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.jit._pickle", "build_intlist"): list,
            ("torch.jit._pickle", "build_doublelist"): list,
            ("torch.jit._pickle", "build_boollist"): list,
            ("torch.jit._pickle", "build_tensorlist"): list,
            ("torch.jit._pickle", "restore_type_tag"): _first,
        }
        try:
            return known[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        if key not in self._storages:
            raw = bytearray(self._archive.read(f"{self._prefix}data/{key}"))
            storage = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            if storage.numel() < count:
                raise pickle.UnpicklingError("a storage is shorter than its tensor")
            self._storages[key] = storage
        return self._storages[key]


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    # as_strided checks the bounds against the storage.
    return storage.as_strided(tuple(size), tuple(stride), offset).clone()


def _first(value: Any, _: Any) -> Any:
    return value


def _collect(node: Any, prefix: str, found: dict[str, Tensor], depth: int) -> None:
    if depth > 100:
        raise CheckpointError("the TorchScript archive is not a module tree", why="its modules hold each other")
    if isinstance(node, _Module):
        for name, value in node.attributes.items():
            if isinstance(value, Tensor):
                found[prefix + name] = value
            else:
                _collect(value, f"{prefix}{name}.", found, depth + 1)
