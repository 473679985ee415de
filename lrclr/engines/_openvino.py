"""Engine OpenVINO, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from queue import Empty, LifoQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from lrclr._processors import check_threads
from lrclr.bundle import Bundle
from lrclr.contract import GRAPHS
from lrclr.engines._openvino_attention import rearrange_attention
from lrclr.engines._openvino_library import openvino_library, release
from lrclr.engines._openvino_regions import region_extension
from lrclr.engines._operators import has_int8_products, openvino_operators
from lrclr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from lrclr.engines._operators import Operator

_DEVICE: Final = "CPU"


class OpenVINOEngine:
    """Runs graphs in OpenVINO on the CPU. A graph is compiled at its first run, once for all shapes.

    OpenVINO multiplies in one precision, independent of the types in a graph. A graph in float16 runs in bfloat16 if
    the processor has it, else in float32. Every other graph runs in float32, with the quantised products of an int8
    graph in int8; only the text encoder of an int8 bundle has the rest in bfloat16. `name` contains the precision that
    all graphs have. Region selection stays in float32.

    Args:
        graphs: a bundle, or the file of each graph: ONNX, or OpenVINO's ``.xml``.
        threads: threads of one operator; ``None`` for one per core.
        half: graphs whose products may be in bfloat16, for files. For a bundle its precision decides.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        EngineError: OpenVINO cannot be used.
    """

    def __init__(
        self, graphs: Bundle | Mapping[str, Path], *, threads: int | None = None, half: Collection[str] = ()
    ) -> None:
        check_threads(threads)
        if isinstance(graphs, Bundle):
            half = half_graphs(graphs.manifest.precision)
            graphs = {graph: graphs.graph_path(graph) for graph in GRAPHS}
        self._paths = dict(graphs)
        self._half, self._settings = frozenset(half), OpenVINOSettings(threads=threads)
        self._graphs: dict[str, CompiledGraph] = {}
        self._lock = Lock()
        self._precision = precision_here(half=self._half >= self._paths.keys())
        self._version = release(openvino_library())

    @property
    def name(self) -> str:
        return f"openvino {self._version} cpu {self._precision}"

    @property
    def tokens_of_call(self) -> int:
        """See `lrclr.engines.tokens_of_call`. Measured for ViT-B/32 and the default checkpoint."""
        return 512

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._graph(graph).run(inputs)

    @property
    def product_types(self) -> frozenset[str]:
        """Types for which OpenVINO and this processor have instructions for products."""
        capabilities = _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        # OpenVINO reports INT8 for every x86 processor.
        has_int8 = "INT8" in capabilities and has_int8_products()
        has = {"float32": True, "int8": has_int8, "bfloat16": "BF16" in capabilities}
        return frozenset(name for name, given in has.items() if given)

    def operators(self, graph: str, inputs: Mapping[str, NDArray[Any]], runs: int = 1) -> tuple[Operator, ...]:
        """As `lrclr.engines.ProfiledEngine.operators`."""
        return self._compile(graph, profile=True).operators(inputs, runs)

    def _graph(self, graph: str) -> CompiledGraph:
        with self._lock:
            if graph not in self._graphs:
                self._graphs[graph] = self._compile(graph)
            return self._graphs[graph]

    def _compile(self, graph: str, *, profile: bool = False) -> CompiledGraph:
        settings = replace(self._settings, half=graph in self._half, profile=profile)
        return CompiledGraph(self._paths[graph], settings, name=graph)


@dataclass(frozen=True)
class OpenVINOSettings:
    """Settings of a compiled graph.

    Attributes:
        half: whether products may be in bfloat16, if the processor has it.
        threads: threads of one operator; ``None`` for one per core.
        streams: number of requests that run in parallel and share the threads.
        hint: ``"LATENCY"`` or ``"THROUGHPUT"``.
        profile: whether the times of operators are recorded.
    """

    half: bool = False
    threads: int | None = None
    streams: str | None = None
    hint: str = "LATENCY"
    profile: bool = False


def half_graphs(precision: str) -> frozenset[str]:
    """The graphs that OpenVINO may compute in bfloat16 for a bundle of a precision, except for quantised products.

    In an int8 bundle it is the text encoder. In bfloat16 the default checkpoint's image encoder would be a tenth to a
    fifth faster, but its region gap 0.048 instead of 0.028 (limit 0.05), and its fusion head would not pass the gates.
    """
    return {"fp16": frozenset(GRAPHS), "int8": frozenset({"text_encoder"})}.get(precision, frozenset())


def precision_here(*, half: bool) -> str:
    """OpenVINO's name of the precision: ``"bf16"`` if `half` is set and this processor has it, else ``"f32"``."""
    if not half:
        return "f32"
    return "bf16" if "BF16" in _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES") else "f32"


class CompiledGraph:
    """A compiled graph. Safe to call from several threads.

    Args:
        path: the ONNX file, or OpenVINO's file.
        settings: settings of the graph.
        name: name of the graph, for errors.

    Raises:
        EngineError: the graph cannot be loaded.
    """

    def __init__(self, path: Path, settings: OpenVINOSettings, *, name: str) -> None:
        self._name = name
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": settings.hint,
            # Always set: OpenVINO's default is bfloat16 if the processor has it, also for a float32 graph.
            "INFERENCE_PRECISION_HINT": precision_here(half=settings.half),
            # Otherwise the threads of several processes would be bound to the same cores, while others are idle.
            "ENABLE_CPU_PINNING": False,
        }
        if settings.profile:
            options["PERF_COUNT"] = True
        if settings.threads is not None:
            options["INFERENCE_NUM_THREADS"] = settings.threads
        if settings.streams is not None:
            options["NUM_STREAMS"] = settings.streams
        try:
            model = read_model(path)
            # Names come from the graph before compilation, which gives a tensor the names of all fused tensors.
            self._inputs: dict[str, np.dtype[Any]] = {
                tensor.any_name: tensor.element_type.to_dtype() for tensor in model.inputs
            }
            self.outputs = tuple(tensor.any_name for tensor in model.outputs)
            self._compiled = _core().compile_model(model, _DEVICE, options)
        except Exception as error:
            raise EngineError(f"OpenVINO could not load {name}", why=reason(error)) from error
        self._idle: LifoQueue[Any] = LifoQueue()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every output by name.

        Raises:
            EngineError: the inputs are not the graph's, or it failed.
        """
        self._check(inputs)
        try:
            request = self._idle.get_nowait()
        except Empty:
            request = self._compiled.create_infer_request()
        try:
            # Inputs are not copied. Outputs are, since the next run reuses the memory of the request.
            values = request.infer(dict(inputs), share_inputs=True, share_outputs=False).to_tuple()
        except Exception as error:
            raise EngineError(f"OpenVINO could not run {self._name}", why=reason(error)) from error
        self._idle.put(request)
        return dict(zip(self.outputs, values, strict=True))

    def operators(self, inputs: Mapping[str, NDArray[Any]], runs: int) -> tuple[Operator, ...]:
        """The operators of a graph that was compiled with a profile; see `lrclr.engines.ProfiledEngine.operators`."""
        self._check(inputs)
        try:
            return openvino_operators(self._compiled.create_infer_request(), inputs, runs)
        except Exception as error:
            raise EngineError(f"OpenVINO could not profile {self._name}", why=reason(error)) from error

    def _check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Check names and types. OpenVINO would convert another type, and reuse the last value of a missing input."""
        if inputs.keys() != self._inputs.keys():
            raise EngineError(f"{self._name} takes {', '.join(self._inputs)}", why=f"it was given {', '.join(inputs)}")
        for name, array in inputs.items():
            if array.dtype != self._inputs[name]:
                raise EngineError(
                    f"{self._name} takes {self._inputs[name]} as {name}", why=f"it was given {array.dtype}"
                )


def read_model(path: Path) -> Any:
    """A graph as a model of OpenVINO, with region selection and rearranged attention.

    Raises:
        RuntimeError: OpenVINO's errors.
    """
    model = _core().read_model(path)
    rearrange_attention(openvino_library().opset14, model)
    return model


def reason(error: BaseException) -> str:
    """The line of OpenVINO's message with the reason, without lines about places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.startswith(("Exception from ", "Check '", "While validating"))]
    return (reasons or lines or [type(error).__name__])[0]


_core_lock = Lock()


def _core() -> Any:
    """OpenVINO's `Core` of this process, with its plugins."""
    with _core_lock:
        return _make_core()


@cache
def _make_core() -> Any:
    library = openvino_library()
    core = library.Core()
    core.add_extension(region_extension(library))
    return core
