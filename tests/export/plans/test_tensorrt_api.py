"""Every name of TensorRT that lrclr uses, and every call, is checked against the supported modules.

TensorRT-RTX can be imported here. Of full TensorRT, the bindings of version 11 are installed, and
``tensorrt_10_12.json`` has the output of ``tensorrt_surface.py`` for 10.12, the oldest supported version. Nothing is
called: the effects of calls are tested on a machine with a GPU.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import shutil
import textwrap
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Private: calls of full TensorRT are checked against its own surface, since it does not run here.
from lrclr.engines import _tensorrt
from lrclr_export.plans import _build, _callbacks, _network, _region_plugin
from tests.export.plans import tensorrt_calls as calls
from tests.export.plans import tensorrt_surface as surfaces

if TYPE_CHECKING:
    from types import ModuleType

    from tests.export.plans.tensorrt_calls import Use
    from tests.export.plans.tensorrt_surface import Surface

SOURCES = (_tensorrt, _build, _network, _region_plugin, _callbacks)
OLDEST = Path(__file__).with_name("tensorrt_10_12.json")
LIBRARIES = ("tensorrt 10.12", "tensorrt 11", "tensorrt-rtx")
# Names that the sources use for one library only, behind `options.engine` or an argument that the others refuse.
ONLY_RTX = {
    ("module", "ComputeCapability"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("ComputeCapability", "CURRENT"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
}


@cache
def _surface(library: str) -> Surface:
    if library == "tensorrt 10.12":
        found: Surface = json.loads(OLDEST.read_text())
        return found
    if library == "tensorrt-rtx":
        return surfaces.surface(pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is for x86-64 Linux"))
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None or spec.origin is None:
        pytest.skip("tensorrt-cu13-bindings is not installed: it is for x86-64 Linux")
    if shutil.which("cc") is None:
        pytest.skip("the bindings load beside libraries that a C compiler makes, and there is none")
    return surfaces.of_bindings(Path(spec.origin).parent.parent)


@cache
def _uses(source: ModuleType, library: str) -> tuple[Use, ...]:
    return tuple(calls.uses(inspect.getsource(source), _surface(library)))


def _wrong(use: Use, surface: Surface) -> str | None:
    """The reason why a use is wrong for a library. None if it is right."""
    if use.owner == calls.MODULE:
        member = surface.get(use.member, {}).get("__init__", {}) if use.member in surface else None
    else:
        member = surface[use.owner].get(use.member)
    if member is None:
        return None if use.guarded else "there is no such member"
    if use.stored and not member.get("settable"):
        return "it cannot be set"
    if use.call is not None and not any(_takes(one["takes"], *use.call) for one in member.get("signatures", [])):
        return f"it is not called like that, but by {member}"
    return None


def _takes(parameters: list[tuple[str, bool]], count: int, named: tuple[str, ...]) -> bool:
    if count < 0 or "**" in named or any(name.startswith("*") for name, _ in parameters):
        return True
    rest = parameters[count:]
    required = {name for name, optional in rest if not optional}
    return count <= len(parameters) and required <= set(named) <= {name for name, _ in rest}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_use_is_there(source: ModuleType, library: str) -> None:
    surface = _surface(library)
    wrong = {
        f"{use.owner}.{use.member}, line {use.line}": why
        for use in _uses(source, library)
        if library == "tensorrt-rtx" or (use.owner, use.member) not in ONLY_RTX
        if (why := _wrong(use, surface)) is not None
    }
    assert not wrong


def test_every_name_that_is_asked_for_is_in_some_library() -> None:
    """A misspelt name would be taken for one that the library does not have."""
    owners: dict[str, set[str]] = defaultdict(set)
    for source in SOURCES:
        for library in LIBRARIES:
            for use in _uses(source, library):
                if use.guarded:
                    owners[use.member].add(use.owner)
    assert {"REQUIRE_USER_ALLOCATION", "STRIP_PLAN", "is_stream_capturable"} <= owners.keys()
    for name, of_name in owners.items():
        there = [_surface(library) for library in LIBRARIES]
        assert any(name in surface or name in surface.get(owner, {}) for surface in there for owner in of_name), name


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_is_overridden_takes_the_same(library: str) -> None:
    """TensorRT calls these methods of lrclr with positional arguments."""
    surface = _surface(library)
    for owner, made in (
        ("ILogger", _callbacks.logger),
        ("IProgressMonitor", _callbacks.monitor),
        ("ILogger", _tensorrt._logger),
    ):
        tree = ast.parse(textwrap.dedent(inspect.getsource(made)))
        (own,) = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for method in own.body:
            if isinstance(method, ast.FunctionDef) and method.name != "__init__":
                (signature,) = surface[owner][method.name]["signatures"]
                assert len(method.args.args) - 1 == len(signature["takes"]), method.name


def test_the_audit_sees_what_lrclr_does() -> None:
    """A check that loses the types on the way would find no mistakes."""
    seen = {(use.owner, use.member) for source in SOURCES for use in _uses(source, "tensorrt-rtx")}
    assert {
        ("module", "Builder"),
        ("module", "Refitter"),
        ("Builder", "build_serialized_network"),
        ("BuilderFlag", "REQUIRE_USER_ALLOCATION"),
        ("BuilderFlag", "TF32"),
        ("BuilderFlag", "STRIP_PLAN"),
        ("IBuilderConfig", "progress_monitor"),
        ("IBuilderConfig", "set_compute_capability"),
        ("ComputeCapability", "CURRENT"),
        ("DynamicShapesKernelSpecializationStrategy", "EAGER"),
        ("EngineInspector", "execution_context"),
        ("ExecutionContextAllocationStrategy", "USER_MANAGED"),
        ("ICudaEngine", "get_device_memory_size_for_profile_v2"),
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "is_stream_capturable"),
        ("IExecutionContext", "set_device_memory"),
        ("INetworkDefinition", "get_layer"),
        ("IOptimizationProfile", "set_shape"),
        ("IRuntimeConfig", "set_execution_context_allocation_strategy"),
        ("OnnxParser", "parse_from_file"),
        ("Runtime", "engine_host_code_allowed"),
    } <= seen


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("library.Bulder(log)", "there is no such member"),
        ("library.Builder()", "it is not called like that"),
        ("builder.create_network(1, 2)", "it is not called like that"),
        ("builder.create_builder_config().max_workspace_size", "there is no such member"),
        ("config.set_flag(library.BuilderFlag.FP16)", "there is no such member"),
        ("context.execute_async_v3(stream=1)", "it is not called like that"),
        ("context.execute_async_v2(1)", "there is no such member"),
        ("context.engine = 1", "it cannot be set"),
        ("self.e = library.Runtime(log).deserialize_cuda_engine(b''); self.e.num_bindings", "there is no such member"),
    ],
)
def test_the_audit_sees_mistakes(source: str, why: str) -> None:
    surface = _surface("tensorrt-rtx")
    found = [_wrong(use, surface) for use in calls.uses(f"def f(library, builder, config, context): {source}", surface)]
    assert [text for text in found if text is not None and text.startswith(why)]


def test_cuda_calls_are_there() -> None:
    """Every call of CUDA is in its bindings."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is for x86-64 Linux")
    from lrclr.engines import _cuda

    for source in (_tensorrt, _cuda):
        tree = ast.parse(inspect.getsource(source))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in {"self._cuda", "cuda", "self"} and isinstance(node.args[0], ast.Constant):
                name, count = "cuda" + str(node.args[0].value), len(node.args) - 1
                # The first line of the bindings' documentation is the signature.
                text = getattr(runtime, name).__doc__.splitlines()[0]
                taken = text[text.index("(") + 1 : text.rindex(")")]
                assert len(taken.split(",") if taken else []) == count, text
