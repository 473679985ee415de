"""The native classes of TensorRT that its Python layer for plugins needs. TensorRT's libraries are not on PyPI.

The Python layer, which checks a plugin and asks it for shapes and launches, is NVIDIA's (``tensorrt-cu13-bindings``).
The classes here replace the native ones: known sizes, and containers. ``make test-gpu`` checks on a machine with
TensorRT that TensorRT launches the kernel.
"""

from __future__ import annotations

import enum
import importlib.util
import operator
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


class DataType(enum.Enum):
    FLOAT, HALF, BF16, INT32, INT64, BOOL = range(6)


class DimensionOperation(enum.Enum):
    SUM, PROD, SUB, FLOOR_DIV, EQUAL, LESS = range(6)


class IDimensionExpr:
    """A known size."""

    def __init__(self, value: int) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return True

    def get_constant_value(self) -> int:
        return self.value


_WORK = {
    DimensionOperation.SUM: operator.add,
    DimensionOperation.PROD: operator.mul,
    DimensionOperation.SUB: operator.sub,
    DimensionOperation.FLOOR_DIV: operator.floordiv,
}


class ExprBuilder:
    def constant(self, value: int) -> IDimensionExpr:
        return IDimensionExpr(value)

    def operation(self, how: DimensionOperation, one: IDimensionExpr, other: IDimensionExpr) -> IDimensionExpr:
        return IDimensionExpr(_WORK[how](one.value, other.value))


class DimsExprs(list[Any]):
    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class Dims(list[int]):
    MAX_DIMS = 8

    def __init__(self, sizes: Any = ()) -> None:
        super().__init__([0] * sizes if isinstance(sizes, int) else sizes)


@dataclass
class PluginTensorDesc:
    dims: Dims = field(default_factory=Dims)
    type: DataType = DataType.FLOAT
    format: str = "LINEAR"
    scale: float = 1.0


@dataclass
class DynamicPluginTensorDesc:
    desc: PluginTensorDesc


@dataclass
class PluginField:
    name: str
    data: Any = None
    type: Any = None


class Registry:
    """The creators of plugins by name."""

    def __init__(self) -> None:
        self._creators: dict[tuple[str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self._creators[namespace, creator.name] = creator
        return True

    def get_creator(self, name: str, _version: str, namespace: str) -> Any:
        return self._creators[namespace, name]


def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module ``tensorrt`` with NVIDIA's ``tensorrt.plugin``, for one test."""
    trt = ModuleType("tensorrt")
    registry = Registry()
    own: dict[str, Any] = {
        "__version__": "11.4.0.106",
        "float32": DataType.FLOAT,
        "float16": DataType.HALF,
        "bfloat16": DataType.BF16,
        "int64": DataType.INT64,
        "PluginFieldCollection": list,
        "TensorFormat": enum.Enum("TensorFormat", ["LINEAR"]),
        "PluginFieldType": enum.Enum("PluginFieldType", "INT8 INT16 INT32 INT64 FLOAT16 FLOAT32 FLOAT64 CHAR UNKNOWN"),
        "PluginArgType": enum.Enum("PluginArgType", ["INT"]),
        "PluginArgDataType": enum.Enum("PluginArgDataType", ["INT8", "INT16", "INT32"]),
        "QuickPluginCreationRequest": enum.Enum(
            "QuickPluginCreationRequest", "UNKNOWN PREFER_JIT PREFER_AOT STRICT_JIT STRICT_AOT"
        ),
        "TensorRTPhase": enum.Enum("TensorRTPhase", ["BUILD", "RUNTIME"]),
        "get_plugin_registry": lambda: registry,
        "Logger": type("Logger", (), {"WARNING": 2, "log": lambda *_: None}),
    }
    bases = "IPluginV3 IPluginV3QuickCore IPluginV3QuickBuild IPluginV3QuickRuntime IPluginV3QuickAOTBuild"
    for name in (*bases.split(), "IPluginCreatorV3Quick", "ISymExpr", "ITensor"):
        own[name] = type(name, (), {"__init__": lambda *_: None})
    for one in (DataType, DimensionOperation, IDimensionExpr, DimsExprs, Dims, PluginTensorDesc):
        own[one.__name__] = one
    own["DynamicPluginTensorDesc"], own["PluginField"] = DynamicPluginTensorDesc, PluginField
    vars(trt).update(own)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    found = importlib.util.find_spec("tensorrt_bindings")
    if found is None or found.origin is None:
        pytest.skip("tensorrt-cu13-bindings is not installed: it is for x86-64 Linux")
    folder = Path(found.origin).parent / "plugin"
    spec = importlib.util.spec_from_file_location(
        "tensorrt.plugin", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    trt.plugin = importlib.util.module_from_spec(spec)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", trt.plugin)
    spec.loader.exec_module(trt.plugin)
    return trt
