"""Operators that an engine runs for a graph, with the types in which they compute and their times.

An engine rewrites a graph before it runs it, so the types in the file do not say what runs. These are the operators
after the rewriting, from the engine's own profile of a run.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol, runtime_checkable

from msgspec import Meta

from lrclr._processors import cpu_flags
from lrclr._records import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

INT8_FLAGS: Final = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm")
"""Flags in ``/proc/cpuinfo`` of processors with instructions for products of int8."""
_PRODUCT: Final = re.compile(r"MatMul|Gemm|Conv(?!ert)|FullyConnected|Attention|InnerProduct")
_QUANTISED: Final = re.compile(
    r"MatMulInteger|ConvInteger|QLinearMatMul|QLinearConv|QGemm|QAttention|DynamicQuantizeMatMul"
)
_TYPES: Final = {
    "float": "float32",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "u8": "int8",
    "uint8": "int8",
    "double": "float64",
    "f64": "float64",
    "i32": "int32",
    "i64": "int64",
}


class Operator(Record, frozen=True):
    """All nodes of one kind in the graph that an engine runs.

    Attributes:
        name: the engine's name of the kind, such as ``"MatMulIntegerToFloat"``.
        dtype: type in which it computes. For a product it is the type of the factors; unsigned bytes count as int8.
        nodes: number of nodes.
        seconds: time of all nodes in one run, on one machine; of several runs each node's shortest time counts.
    """

    name: str
    dtype: str
    nodes: Annotated[int, Meta(ge=1)]
    seconds: Annotated[float, Meta(ge=0)]

    @property
    def is_product(self) -> bool:
        """Whether it multiplies matrices, or convolves."""
        return _PRODUCT.search(self.name) is not None


@runtime_checkable
class ProfiledEngine(Protocol):
    """An engine that can report the operators it runs."""

    @property
    def product_types(self) -> frozenset[str]:
        """Types for which both the engine and this processor have instructions for products."""

    def operators(self, graph: str, inputs: Mapping[str, NDArray[Any]], runs: int = 1) -> tuple[Operator, ...]:
        """Run a graph with a profile, in a session of its own.

        Args:
            graph: name of the graph.
            inputs: as for `Engine.run`.
            runs: number of runs; the first of several does not count.

        Returns:
            The operators, the one with the longest time first.
        """


def has_int8_products() -> bool:
    """Whether this processor has instructions for products of int8, by its flags in ``/proc/cpuinfo``."""
    return not cpu_flags().isdisjoint(INT8_FLAGS)


def profiled(engine: object) -> ProfiledEngine | None:
    """Return the engine, or the one in a `lrclr.auto.ChosenEngine`, if it can report its operators; else None."""
    inner = getattr(engine, "engine", engine)
    return inner if isinstance(inner, ProfiledEngine) else None


def products_by_type(operators: Iterable[Operator]) -> dict[str, int]:
    """Return the number of products by type."""
    found: dict[str, int] = {}
    for each in operators:
        if each.is_product:
            found[each.dtype] = found.get(each.dtype, 0) + each.nodes
    return dict(sorted(found.items()))


def grouped(nodes: Iterable[tuple[str, str, float]]) -> tuple[Operator, ...]:
    """Return the operators of nodes.

    Args:
        nodes: kind, type in the engine's words, and seconds of each node.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for name, dtype, seconds in nodes:
        found.setdefault((name, _TYPES.get(dtype, dtype)), []).append(seconds)
    made = (Operator(name, dtype, len(each), sum(each)) for (name, dtype), each in found.items())
    return tuple(sorted(made, key=lambda each: -each.seconds))


def onnxruntime_operators(
    library: Any, path: Path, options: Any, inputs: Mapping[str, NDArray[Any]], runs: int
) -> tuple[Operator, ...]:
    """Run a graph on the CPU with ONNX Runtime's profile.

    Args:
        library: the module ``onnxruntime``.
        path: the ONNX file.
        options: options of the session; they are changed.
        inputs, runs: as for `ProfiledEngine.operators`.
    """
    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[str, list[float]] = {}
    kinds: dict[str, tuple[str, str]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            details = event["args"]
            node = f"{details['node_index']} {name}"
            times.setdefault(node, []).append(event["dur"] / 1e6)
            kinds[node] = (details["op_name"], _factor_type(details["op_name"], details["input_type_shape"]))
    return grouped((*kinds[node], _shortest(each)) for node, each in times.items())


def openvino_operators(request: Any, inputs: Mapping[str, NDArray[Any]], runs: int) -> tuple[Operator, ...]:
    """Run a graph that was compiled with ``PERF_COUNT``.

    Args:
        request: a request of the compiled model.
        inputs, runs: as for `ProfiledEngine.operators`.
    """
    times: dict[int, list[float]] = {}
    kinds: dict[int, tuple[str, str]] = {}
    for _ in range(runs):
        request.infer(dict(inputs))
        for place, node in enumerate(request.get_profiling_info()):
            if node.status.name == "EXECUTED":
                # Such as brgemm_avx512_i8: the kernel and its type.
                kinds[place] = (node.node_type, node.exec_type.rpartition("_")[2].lower())
                times.setdefault(place, []).append(node.real_time.total_seconds())
    return grouped((*kinds[place], _shortest(each)) for place, each in times.items())


def _shortest(seconds: Sequence[float]) -> float:
    return min(seconds[1:] or seconds)


def _factor_type(name: str, inputs: Sequence[Mapping[str, Any]]) -> str:
    """The type of a node's first input; int8 for a product that quantises it itself."""
    if _QUANTISED.search(name) is not None:
        return "int8"
    return next((str(dtype) for each in inputs[:1] for dtype in each), "none")
