"""Tensors out of a TorchScript archive, without running any of its code.

``torch.jit.load`` would rebuild the archive's classes and run their ``__setstate__``. OpenAI's archives are wanted for
their weights alone, so this reads the archive's object pickle with an unpickler that knows tensors, storages and plain
attribute holders, and nothing else.
"""

from __future__ import annotations

import io
import pickle
import sys
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrclr.checkpoints._archive import entries_of
from lrclr.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
_MAX_DEPTH, _MAX_MODULES = 100, 100_000


def is_torchscript(path: Path) -> bool:
    """Whether a file is a zip archive of TorchScript's: those hold constants beside the data."""
    return any(entry.filename.endswith("/constants.pkl") for entry in entries_of(path))


def read(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of the archive, under their dotted names."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = _TensorUnpickler(archive, data.removesuffix("data.pkl")).load()
        return dict(_tensors(root))
    except OSError:
        raise
    except Exception as error:
        # Damaged bytes make pickle, zipfile and torch raise nearly anything.
        raise CheckpointError(
            f"{path} is not a TorchScript archive of weights",
            why=f"it is damaged, or holds more than modules and tensors ({str(error) or type(error).__name__})",
        ) from error


class _Module:
    """Stands for an instance of any class of the archive: its attributes, and no behaviour."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise pickle.UnpicklingError("a module's state is not a table of names")
        self.attributes = state


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, prefix: str) -> None:
        self._archive, self._prefix = archive, prefix
        self._storages: dict[str, Tensor] = {}
        if f"{prefix}byteorder" in archive.namelist() and self._stored("byteorder") != sys.byteorder.encode():
            raise pickle.UnpicklingError("it was written by a machine of another byte order")
        # A pickle may set attributes on a class it was given, so every archive gets a class of its own.
        self._module = type("_Module", (_Module,), {})
        super().__init__(io.BytesIO(self._stored("data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return self._module
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
            raw = bytearray(self._stored(f"data/{key}"))
            storage = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
            if storage.numel() < count:
                raise pickle.UnpicklingError("a storage is shorter than its tensor")
            self._storages[key] = storage
        return self._storages[key]

    def _stored(self, name: str) -> bytes:
        entry = self._archive.getinfo(self._prefix + name)
        # PyTorch compresses its code, never its data; what inflates could inflate without end.
        if entry.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError("its data is compressed")
        return self._archive.read(entry)


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    # as_strided checks the bounds against the storage; repetition it allows.
    view = storage.as_strided(tuple(size), tuple(stride), offset)
    if view.numel() > storage.numel():
        raise pickle.UnpicklingError("a tensor repeats its storage")
    return view.clone()


def _first(value: Any, _: Any) -> Any:
    return value


def _tensors(root: object) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the module tree under its dotted name."""
    waiting, seen = [("", root, 0)], 0
    while waiting:
        prefix, node, depth = waiting.pop()
        seen += 1
        if depth > _MAX_DEPTH or seen > _MAX_MODULES:
            raise CheckpointError("its modules hold each other")
        if not isinstance(node, _Module):
            continue
        for name, value in node.attributes.items():
            if isinstance(value, Tensor):
                yield prefix + name, value
            else:
                waiting.append((f"{prefix}{name}.", value, depth + 1))
