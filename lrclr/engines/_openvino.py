"""OpenVINO, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from queue import Empty, LifoQueue
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

from lrclr.bundle import GRAPHS, Bundle
from lrclr.engines._openvino_library import openvino_library, release
from lrclr.engines._openvino_regions import region_extension
from lrclr.errors import EngineError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

_DEVICE: Final = "CPU"


class OpenVINOEngine:
    """Runs graphs in OpenVINO on the CPU. A graph is compiled when it is first run, once for all shapes.

    OpenVINO multiplies in one precision, whatever the types in a graph: a graph in float16 runs in bfloat16 where the
    processor has it, and in float32 where it has not; every other graph runs in float32 (an int8 graph's quantised
    products in int8). `name` says which. Region selection is meant to stay float32 in all of them; with bfloat16 that
    was read in OpenVINO's source and never run.

    Args:
        graphs: a bundle, or the file of each graph: ONNX, or OpenVINO's own ``.xml``.
        threads: of one operator; ``None`` for one a core.
        half: whether products may be in bfloat16; only for files: a bundle says it by its precision.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        EngineError: it is, and cannot be used.
    """

    def __init__(self, graphs: Bundle | Mapping[str, Path], *, threads: int | None = None, half: bool = False) -> None:
        if threads is not None and threads < 1:
            raise UsageError("an engine needs at least one thread")
        if isinstance(graphs, Bundle):
            half = graphs.manifest.precision == "fp16"
            graphs = {graph: graphs.graph_path(graph) for graph in GRAPHS}
        self._paths = dict(graphs)
        self._settings = OpenVINOSettings(half=half, threads=threads)
        self._graphs: dict[str, CompiledGraph] = {}
        self._lock = Lock()
        self._precision = precision_here(half=half)
        self._version = release(openvino_library())

    @property
    def name(self) -> str:
        return f"openvino {self._version} cpu {self._precision}"

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._graph(graph).run(inputs)

    def _graph(self, graph: str) -> CompiledGraph:
        with self._lock:
            if graph not in self._graphs:
                self._graphs[graph] = CompiledGraph(self._paths[graph], self._settings, name=graph)
            return self._graphs[graph]


@dataclass(frozen=True)
class OpenVINOSettings:
    """How a graph is compiled.

    Attributes:
        half: whether products may be in bfloat16, where the processor has it.
        threads: of one operator; ``None`` for one a core.
        streams: how many requests run side by side; they share the threads.
        hint: ``"LATENCY"`` or ``"THROUGHPUT"``.
    """

    half: bool = False
    threads: int | None = None
    streams: str | None = None
    hint: str = "LATENCY"


def precision_here(*, half: bool) -> str:
    """``"bf16"`` if it is allowed and this processor has it, else ``"f32"``, in OpenVINO's words."""
    if not half:
        return "f32"
    return "bf16" if "BF16" in _core().get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES") else "f32"


class CompiledGraph:
    """A graph, ready to run; safe to call from several threads.

    Args:
        path: the ONNX file, or OpenVINO's own.
        settings: how it is compiled.
        name: of the graph, for errors.

    Raises:
        EngineError: it cannot be loaded.
    """

    def __init__(self, path: Path, settings: OpenVINOSettings, *, name: str) -> None:
        self._name = name
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": settings.hint,
            # Said always: OpenVINO's own choice is bfloat16 wherever there is some, also for a float32 graph.
            "INFERENCE_PRECISION_HINT": precision_here(half=settings.half),
            # Threads bound to cores meet those of the next process on the same cores, while others are idle.
            "ENABLE_CPU_PINNING": False,
        }
        if settings.threads is not None:
            options["INFERENCE_NUM_THREADS"] = settings.threads
        if settings.streams is not None:
            options["NUM_STREAMS"] = settings.streams
        try:
            model = read_model(path)
            # Asked of the graph as it was written: a compiled one gives a tensor the names of all that it swallowed.
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
            # Inputs are read where they lie. Outputs are copied: the request's memory is the next run's.
            values = request.infer(dict(inputs), share_inputs=True, share_outputs=False).to_tuple()
        except Exception as error:
            raise EngineError(f"OpenVINO could not run {self._name}", why=reason(error)) from error
        self._idle.put(request)
        return dict(zip(self.outputs, values, strict=True))

    def _check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """OpenVINO itself would convert another type in silence, and go on with the last run's if one is missing."""
        if inputs.keys() != self._inputs.keys():
            raise EngineError(f"{self._name} takes {', '.join(self._inputs)}", why=f"it was given {', '.join(inputs)}")
        for name, array in inputs.items():
            if array.dtype != self._inputs[name]:
                raise EngineError(
                    f"{self._name} takes {self._inputs[name]} as {name}", why=f"it was given {array.dtype}"
                )


def read_model(path: Path) -> Any:
    """A graph in OpenVINO's own terms, region selection included.

    Raises:
        RuntimeError: OpenVINO's own, of many kinds.
    """
    return _core().read_model(path)


def reason(error: BaseException) -> str:
    """The line of OpenVINO's message that gives the reason; other lines name places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from ", "Check '", "While validating"))]
    return (told or lines or [type(error).__name__])[0]


_the_core: list[Any] = []
_making = Lock()


def _core() -> Any:
    """One for the process: it holds the plugins."""
    with _making:
        if not _the_core:
            library = openvino_library()
            core = library.Core()
            core.add_extension(region_extension(library))
            _the_core.append(core)
        return _the_core[0]
