"""TensorRT and TensorRT-RTX: the plans of a bundle on a GPU."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.engines._cuda import Cuda, Staging
from lrclr.engines._gpu import gpus
from lrclr.engines._plans import plan_entry
from lrclr.engines._tensorrt_library import tensorrt_library
from lrclr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.bundle import Bundle

Shapes = dict[str, tuple[int, ...]]
_MAX_CUDA_GRAPHS = 16  # a plan; the launches of as many batch sizes are kept
_OUTPUT_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}


class TensorRTEngine:
    """Runs the plans of a bundle on this machine's first GPU. A plan is loaded when it is first run.

    Args:
        bundle: with plans that suit this machine.
        engine: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        cuda_graphs: launch a batch size that was seen before as one CUDA graph.

    Raises:
        BundleError: the plans are for another GPU or version, or there are none.
        EngineError: there is no GPU, or the library cannot be used.
    """

    def __init__(self, bundle: Bundle, *, engine: str = "tensorrt", cuda_graphs: bool = True) -> None:
        library = tensorrt_library(engine)
        here = gpus()
        entry = plan_entry(bundle, engine, str(library.__version__), here[0] if here else None)
        self._prepare(bundle, entry, cuda_graphs=cuda_graphs)

    @classmethod
    def of_entry(cls, bundle: Bundle, entry: Mapping[str, Any]) -> TensorRTEngine:
        """Run plans that no manifest speaks of yet."""
        self = cls.__new__(cls)
        self._prepare(bundle, entry, cuda_graphs=True)
        return self

    def _prepare(self, bundle: Bundle, entry: Mapping[str, Any], *, cuda_graphs: bool) -> None:
        self._bundle, self._entry, self._cuda_graphs = bundle, entry, cuda_graphs
        self._library = tensorrt_library(entry["engine"])
        self._cuda = Cuda(entry["engine"])
        self._runners: dict[str, _Runner] = {}
        self._lock = Lock()

    @property
    def name(self) -> str:
        return f"{self._entry['engine']} {self._library.__version__} {gpus()[0].name}"

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._runner(graph).run(inputs)

    def written_types(self, graph: str) -> dict[str, int]:
        """How many layers of a graph's plan write which type, by the library's inspector."""
        return self._runner(graph).written_types()

    def _runner(self, graph: str) -> _Runner:
        with self._lock:
            if graph not in self._runners:
                stripped = self._bundle.graph_path(graph) if self._entry["options"]["strip"] else None
                plan = self._bundle.plan_path(graph, self._entry)
                self._runners[graph] = _Runner(graph, plan, self._library, self._cuda, stripped, self._cuda_graphs)
            return self._runners[graph]


class _Runner:
    """One plan: a context for each of its profiles, its memory, and the launches that it keeps."""

    def __init__(
        self, graph: str, plan: Path, library: Any, cuda: Cuda, stripped_of: Path | None, cuda_graphs: bool
    ) -> None:
        self._graph, self._cuda, self._cuda_graphs = graph, cuda, cuda_graphs
        self._messages: list[str] = []
        log = _logger(library, self._messages)
        self._engine = library.Runtime(log).deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise self._failed("could not load the plan of")
        if stripped_of is not None:
            self._refit(library, log, stripped_of)
        self._stream = cuda("StreamCreate")
        self._contexts = [self._context(number) for number in range(self._engine.num_optimization_profiles)]
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        is_input, self._json = library.TensorIOMode.INPUT, library.LayerInformationFormat.JSON
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == is_input]
        self._outputs = [name for name in names if name not in self._inputs]
        self._types = {
            name: np.dtype(_OUTPUT_TYPES[str(self._engine.get_tensor_dtype(name)).rpartition(".")[2]]) for name in names
        }
        self._staging = {name: Staging(cuda) for name in names}
        self._captured: OrderedDict[Any, Any] = OrderedDict()
        self._seen: set[Any] = set()
        self._lock = Lock()

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        arrays = self._checked(inputs)
        shapes = {name: array.shape for name, array in arrays.items()}
        with self._lock:
            number = self._profile(shapes)
            context = self._contexts[number]
            for name, shape in shapes.items():
                if not context.set_input_shape(name, shape):
                    raise self._failed("did not take an input of")
            shapes |= {name: tuple(context.get_tensor_shape(name)) for name in self._outputs}
            self._make_room(context, shapes)
            for name, array in arrays.items():
                self._staging[name].view(array.shape, array.dtype)[...] = array
            self._launch(context, (number, *sorted(shapes.items())), shapes)
            self._cuda("StreamSynchronize", self._stream)
            return {name: self._staging[name].view(shapes[name], self._types[name]).copy() for name in self._outputs}

    def written_types(self) -> dict[str, int]:
        inspector = self._engine.create_engine_inspector()
        told = json.loads(inspector.get_engine_information(self._json))
        found: Counter[str] = Counter()
        for layer in told["Layers"]:
            # A plan that was built without details names its layers and says no more.
            for output in layer["Outputs"] if isinstance(layer, dict) else ():
                text = str(output["Format/Datatype"]).upper()
                names = {"HALF": "float16", "FP16": "float16", "FLOAT": "float32", "FP32": "float32"}
                found[next((name for word, name in names.items() if word in text), "other")] += 1
        return dict(sorted(found.items()))

    def _checked(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        if inputs.keys() != set(self._inputs):
            raise EngineError(f"{self._graph} takes {', '.join(self._inputs)}", why=f"it was given {', '.join(inputs)}")
        for name, array in inputs.items():
            if array.dtype != self._types[name]:
                raise EngineError(
                    f"{self._graph} takes {self._types[name]} as {name}", why=f"it was given {array.dtype}"
                )
        return {name: inputs[name] for name in self._inputs}

    def _profile(self, shapes: Shapes) -> int:
        """The first profile that the shapes fit in: they go from the special to the general."""
        for number in range(len(self._contexts)):
            ranges = {name: self._engine.get_tensor_profile_shape(name, number) for name in shapes}
            if all(_within(shape, ranges[name][0], ranges[name][2]) for name, shape in shapes.items()):
                return number
        largest = {name: tuple(ranges[name][2]) for name in shapes}
        raise EngineError(
            f"the plan of {self._graph} does not take these sizes",
            why=f"it was given {shapes}, and takes up to {largest}",
            fix="Give fewer at once, or export the checkpoint again with a larger --max-batch.",
        )

    def _make_room(self, context: Any, shapes: Shapes) -> None:
        moved = False
        for name, shape in shapes.items():
            moved |= self._staging[name].reserve(int(np.prod(shape, dtype=np.int64)) * self._types[name].itemsize)
        if moved:
            # What was captured copies from and to where the memory was.
            self._forget_all()
        for name in shapes:
            context.set_tensor_address(name, self._staging[name].device)

    def _launch(self, context: Any, key: Any, shapes: Shapes) -> None:
        if key in self._captured:
            self._captured.move_to_end(key)
            self._cuda("GraphLaunch", self._captured[key], self._stream)
            return
        if not self._cuda_graphs or key not in self._seen:
            # What a context prepares for new shapes cannot be captured: the first run is a plain one.
            self._seen.add(key)
            self._enqueue(context, shapes)
            return
        self._cuda("StreamBeginCapture", self._stream, self._cuda.capture_here)
        try:
            self._enqueue(context, shapes)
        finally:
            graph = self._cuda("StreamEndCapture", self._stream)
        self._captured[key] = self._cuda("GraphInstantiate", graph, 0)
        self._cuda("GraphDestroy", graph)
        if len(self._captured) > _MAX_CUDA_GRAPHS:
            self._cuda("GraphExecDestroy", self._captured.popitem(last=False)[1])
        self._cuda("GraphLaunch", self._captured[key], self._stream)

    def _enqueue(self, context: Any, shapes: Shapes) -> None:
        for name in self._inputs:
            staging = self._staging[name]
            self._cuda(
                "MemcpyAsync",
                staging.device,
                staging.host,
                self._size(name, shapes),
                self._cuda.to_device,
                self._stream,
            )
        if not context.execute_async_v3(int(self._stream)):
            raise self._failed("could not run")
        for name in self._outputs:
            staging = self._staging[name]
            self._cuda(
                "MemcpyAsync", staging.host, staging.device, self._size(name, shapes), self._cuda.to_host, self._stream
            )

    def _size(self, name: str, shapes: Shapes) -> int:
        return int(np.prod(shapes[name], dtype=np.int64)) * self._types[name].itemsize

    def _context(self, number: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(number, int(self._stream)):
            raise self._failed("could not make a context for")
        self._cuda("StreamSynchronize", self._stream)
        return context

    def _refit(self, library: Any, log: Any, graph: Path) -> None:
        refitter = library.Refitter(self._engine, log)
        parser = library.OnnxParserRefitter(refitter, log)
        if not parser.refit_from_file(str(graph)) or not refitter.refit_cuda_engine():
            raise self._failed("could not put the weights back into the plan of")

    def _forget_all(self) -> None:
        for launch in self._captured.values():
            self._cuda("GraphExecDestroy", launch)
        self._captured.clear()
        self._seen.clear()

    def _failed(self, what: str) -> EngineError:
        return EngineError(f"TensorRT {what} {self._graph}", why=self._messages[-1] if self._messages else None)


def _within(shape: Sequence[int], low: Sequence[int], high: Sequence[int]) -> bool:
    return len(shape) == len(low) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))


def _logger(library: Any, messages: list[str]) -> Any:
    class Kept(library.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in {library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR}:
                messages.append(message)

    return Kept()
