"""TensorRT and TensorRT-RTX: the plans of a bundle on a GPU."""

from __future__ import annotations

import logging
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lrclr.engines._cuda import Cuda, Staging
from lrclr.engines._gpu import gpus
from lrclr.engines._layer_types import written_types
from lrclr.engines._plans import plan_entry
from lrclr.engines._tensorrt_library import tensorrt_library
from lrclr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from lrclr.bundle import Bundle

Shapes = dict[str, tuple[int, ...]]
_MAX_CUDA_GRAPHS = 16  # a plan; the launches of as many batch sizes are kept
_LOG = logging.getLogger("lrclr")
_OUTPUT_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}


class TensorRTEngine:
    """Runs the plans of a bundle on this machine's first GPU. A plan is loaded when it is first run.

    A context manager, whose end frees the memory on the GPU; so does `close`.

    Args:
        bundle: with plans that suit this machine.
        engine: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        cuda_graphs: launch a batch size that was seen before as one CUDA graph.
        eager_kernels: of TensorRT-RTX: compile the kernels for new sizes before their first run. By default they are
            compiled beside the first runs, so that the bits of an answer may change once.

    Raises:
        BundleError: the plans are for another GPU or version, or there are none.
        EngineError: there is no GPU, or the library cannot be used.
    """

    def __init__(
        self, bundle: Bundle, *, engine: str = "tensorrt", cuda_graphs: bool = True, eager_kernels: bool = False
    ) -> None:
        library = tensorrt_library(engine)
        here = gpus()
        entry = plan_entry(bundle, engine, str(library.__version__), here[0] if here else None)
        self._prepare(bundle, entry, cuda_graphs=cuda_graphs, eager_kernels=eager_kernels)

    @classmethod
    def of_entry(cls, bundle: Bundle, entry: Mapping[str, Any]) -> TensorRTEngine:
        """Run plans that no manifest names yet."""
        self = cls.__new__(cls)
        self._prepare(bundle, entry, cuda_graphs=True, eager_kernels=False)
        return self

    def _prepare(self, bundle: Bundle, entry: Mapping[str, Any], *, cuda_graphs: bool, eager_kernels: bool) -> None:
        self._bundle, self._entry = bundle, entry
        self._cuda_graphs, self._eager_kernels = cuda_graphs, eager_kernels
        self._library = tensorrt_library(entry["engine"])
        self._cuda = Cuda(entry["engine"])
        self._runners: dict[str, _Runner] = {}
        self._closed = False
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory of the plans, after the runs that are under way; nothing runs after it."""
        with self._lock:
            self._closed = True
            while self._runners:
                self._runners.popitem()[1].close()

    @property
    def name(self) -> str:
        return f"{self._entry['engine']} {self._library.__version__} {gpus()[0].name}"

    def run(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._runner(graph).run(inputs)

    def written_types(self, graph: str) -> dict[str, int]:
        """How many outputs of layers of a graph's plan have which type, by the library's inspector.

        ``"unknown"`` counts outputs that the inspector gives no type for.
        """
        return self._runner(graph).written_types()

    def _runner(self, graph: str) -> _Runner:
        with self._lock:
            if self._closed:
                raise EngineError(f"the engine {self._entry['engine']} was closed", fix="Open it again.")
            if graph not in self._runners:
                runner = _Runner(graph, self._library, self._cuda, cuda_graphs=self._cuda_graphs)
                try:
                    runner.load(self._bundle, self._entry, eager_kernels=self._eager_kernels)
                except BaseException:
                    runner.close()
                    raise
                self._runners[graph] = runner
            return self._runners[graph]


class _Runner:
    """One plan: a context for each of its profiles, their memory, and the launches that it keeps."""

    def __init__(self, graph: str, library: Any, cuda: Cuda, *, cuda_graphs: bool) -> None:
        self._graph, self._library, self._cuda, self._cuda_graphs = graph, library, cuda, cuda_graphs
        self._messages: list[str] = []
        self._engine: Any = None
        self._stream: Any = None
        self._memory = 0
        self._contexts: list[Any] = []
        self._staging: dict[str, Staging] = {}
        self._captured: OrderedDict[Any, Any] = OrderedDict()
        self._seen: set[Any] = set()
        self._not_capturable: set[Any] = set()
        self._lock = Lock()

    def load(self, bundle: Bundle, entry: Mapping[str, Any], *, eager_kernels: bool) -> None:
        """Load the plan; after an error, `close` frees what was taken."""
        library, cuda, options = self._library, self._cuda, entry["options"]
        log = _logger(library, self._messages)
        runtime = library.Runtime(log)
        if options["version_compatible"]:
            # Such a plan holds its own copy of the library's runtime, which is code. Bundle checked the plan's hash.
            runtime.engine_host_code_allowed = True
        self._engine = runtime.deserialize_cuda_engine(bundle.plan_path(self._graph, entry).read_bytes())
        if self._engine is None:
            raise self._failed("could not load the plan of")
        if options["strip"]:
            self._refit(library, log, bundle.graph_path(self._graph))
        self._stream = cuda("StreamCreate")
        profiles = range(self._engine.num_optimization_profiles)
        # One run at a time: the contexts take turns in the memory of the one that needs most.
        count = max(1, *(self._engine.get_device_memory_size_for_profile_v2(number) for number in profiles))
        self._memory = int(cuda("Malloc", count))
        for number in profiles:
            self._contexts.append(self._context(number, count, eager_kernels=eager_kernels))
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        is_input, self._json = library.TensorIOMode.INPUT, library.LayerInformationFormat.JSON
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == is_input]
        self._outputs = [name for name in names if name not in self._inputs]
        self._types = {
            name: np.dtype(_OUTPUT_TYPES[str(self._engine.get_tensor_dtype(name)).rpartition(".")[2]]) for name in names
        }
        self._staging = {name: Staging(cuda) for name in names}

    def close(self) -> None:
        """Free everything, after the run that is under way."""
        with self._lock:
            self._forget_all()
            # Contexts use the memory and the stream: they go first.
            self._contexts.clear()
            self._engine = None
            for staging in self._staging.values():
                staging.free()
            if self._memory:
                self._cuda("Free", self._memory)
                self._memory = 0
            if self._stream is not None:
                self._cuda("StreamDestroy", self._stream)
                self._stream = None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        arrays = self._checked(inputs)
        shapes = {name: array.shape for name, array in arrays.items()}
        with self._lock:
            if self._engine is None:
                raise EngineError(f"the plan of {self._graph} was closed", fix="Open the engine again.")
            self._messages.clear()
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
        with self._lock:
            number, context = len(self._contexts) - 1, self._contexts[-1]
            for name in self._inputs:
                context.set_input_shape(name, tuple(self._engine.get_tensor_profile_shape(name, number)[1]))
            inspector = self._engine.create_engine_inspector()
            # TensorRT 10 gives types where shapes are dynamic only for a context that knows its shapes.
            inspector.execution_context = context
            return written_types(inspector.get_engine_information(self._json))

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
        self._enqueue(context, shapes)
        if self._cuda_graphs and key in self._seen and key not in self._not_capturable:
            # What a context prepares for new shapes cannot be captured: this run has prepared it.
            self._cuda("StreamSynchronize", self._stream)
            self._capture(context, key, shapes)
        self._seen.add(key)

    def _capture(self, context: Any, key: Any, shapes: Shapes) -> None:
        """Keep the launches of these shapes for the next run; where that fails, they are launched one by one."""
        try:
            launches = self._recorded(context, shapes)
        except EngineError as error:
            self._cuda.clear_error()
            if not self._not_capturable:
                _LOG.warning("the plan of %s runs without a CUDA graph for some sizes: %s", self._graph, error)
            self._not_capturable.add(key)
            return
        self._captured[key] = launches
        if len(self._captured) > _MAX_CUDA_GRAPHS:
            self._cuda("GraphExecDestroy", self._captured.popitem(last=False)[1])

    def _recorded(self, context: Any, shapes: Shapes) -> Any:
        """The launches of a run, which is not run, as a CUDA graph.

        Raises:
            EngineError: they cannot be captured. The error is the first one, not those that follow from it.
        """
        # TensorRT-RTX knows beforehand.
        capturable = getattr(context, "is_stream_capturable", None)
        if capturable is not None and not capturable(int(self._stream)):
            raise EngineError("TensorRT-RTX cannot be captured at these sizes")
        self._cuda("StreamBeginCapture", self._stream, self._cuda.capture_here)
        try:
            self._enqueue(context, shapes)
        except EngineError:
            # The stream has to leave the capture; that a failed capture cannot be ended well is known.
            self._cuda.end_failed_capture(self._stream)
            raise
        graph = self._cuda("StreamEndCapture", self._stream)
        try:
            return self._cuda("GraphInstantiate", graph, 0)
        finally:
            self._cuda("GraphDestroy", graph)

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

    def _context(self, number: int, count: int, *, eager_kernels: bool) -> Any:
        """A context for a profile, in the memory that all share.

        Args:
            number: of the profile.
            count: bytes of the memory.
            eager_kernels: see `TensorRTEngine`.
        """
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._library.ExecutionContextAllocationStrategy.USER_MANAGED)
        if eager_kernels and hasattr(self._library, "DynamicShapesKernelSpecializationStrategy"):
            eager = self._library.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = eager
        context = self._engine.create_execution_context(config)
        if context is None or not context.set_optimization_profile_async(number, int(self._stream)):
            raise self._failed("could not make a context for")
        self._cuda("StreamSynchronize", self._stream)
        context.set_device_memory(self._memory, count)
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
        # The first message is the cause, and others follow from it.
        return EngineError(f"TensorRT {what} {self._graph}", why=self._messages[0] if self._messages else None)


def _within(shape: Sequence[int], low: Sequence[int], high: Sequence[int]) -> bool:
    return len(shape) == len(low) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))


def _logger(library: Any, messages: list[str]) -> Any:
    class Kept(library.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in {library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR}:
                messages.append(message)

    return Kept()
