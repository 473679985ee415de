"""Names and signatures of a TensorRT Python module, as its bindings document them.

Full TensorRT cannot be installed here, but its Python bindings can. They contain the classes and signatures, and can be
loaded with empty libraries. As a program, this prints the surface of the package ``tensorrt_bindings``:

    python tests/export/plans/tensorrt_surface.py FOLDER > tests/export/plans/tensorrt_10_12.json

where FOLDER contains the package, such as the unpacked wheel of ``tensorrt-cu12-bindings``.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

Surface = dict[str, dict[str, Any]]
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_STUBS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
# lrclr does not create layers, and TensorRT's Python layer handles its plugin.
_NOT_USED = re.compile(r"I\w+Layer|IPlugin\w*|IAlgorithm\w*")
_SIGNATURE = re.compile(r"^(?:\d+\. )?(\w*)\((.*)\) -> (.+)$", re.MULTILINE)


def surface(module: Any) -> Surface:
    """Members of each name: methods of classes with their signatures, properties, and constants.

    A signature has the parameters without ``self``, each with whether it is optional, and the returned type. A property
    has whether it can be set.
    """
    return {
        name: {
            member: _member(value, member)
            for member in (dir(value) if inspect.isclass(value) else ())
            if member[0] != "_" or member == "__init__"
        }
        for name, value in vars(module).items()
        if not (name.startswith("_") or inspect.ismodule(value) or _NOT_USED.fullmatch(name))
    }


def _member(owner: Any, name: str) -> dict[str, Any]:
    value = inspect.getattr_static(owner, name)
    if isinstance(value, property):
        returned = _signatures(value.fget.__doc__ or "", "")
        return {"settable": value.fset is not None, "type": returned[0]["returns"] if returned else None}
    found = _signatures(getattr(owner, name).__doc__ or "", name) if callable(getattr(owner, name)) else []
    return {"signatures": found} if found else {}


def _signatures(text: str, name: str) -> list[dict[str, Any]]:
    return [
        {"takes": _parameters(taken), "returns": returned.split("[")[0].rpartition(".")[2].strip()}
        for called, taken, returned in _SIGNATURE.findall(text)
        if called == name
    ]


def _parameters(text: str) -> list[tuple[str, bool]]:
    """Parameter names, and whether each has a default."""
    found, depth, start = [], 0, 0
    for place, sign in enumerate(f"{text},"):
        depth += (sign in "([{<") - (sign in ")]}>")
        if sign == "," and depth == 0:
            found.append(text[start:place].strip())
            start = place + 1
    named = [(one.partition(":")[0].strip(), " = " in one) for one in found if one]
    # The getter of a property calls its parameter arg0.
    return [one for one in named if one[0] not in {"self", "arg0"}] if named else []


def of_bindings(folder: Path) -> Surface:
    """The surface of the package ``tensorrt_bindings`` in a folder. Needs a C compiler."""
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, check=True)
    found: Surface = json.loads(done.stdout)
    return found


def _load(folder: Path) -> Any:
    (extension,) = (folder / "tensorrt_bindings").glob("tensorrt*.so")
    versions = set(re.findall(rb"libnvinfer\.so\.(\d+)", extension.read_bytes()))
    code = "".join(f"void* {name}(void) {{ return 0; }}\n" for name in _STUBS)
    with tempfile.TemporaryDirectory() as empty:
        for name in _LIBRARIES:
            for version in versions:
                library = f"lib{name}.so.{version.decode()}"
                target = Path(empty) / library
                compiler = ["cc", "-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{library}"]
                subprocess.run([*compiler, "-x", "c", "-", "-o", str(target)], input=code.encode(), check=True)
                ctypes.CDLL(str(target), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(folder))
    return importlib.import_module("tensorrt_bindings")


if __name__ == "__main__":
    print(json.dumps(surface(_load(Path(sys.argv[1]))), sort_keys=True))
