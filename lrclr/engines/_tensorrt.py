"""Engines TensorRT and TensorRT-RTX, for plans on a GPU."""

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

    from numpy.typing import NDArray

    from lrclr.bundle import Bundle

Shapes = dict[str, tuple[int, ...]]
_MAX_CUDA_GRAPHS = 16  # per plan; one for each batch size
_LOG = logging.getLogger("lrclr")
_OUTPUT_TYPES = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "INT32": np.int32, "BOOL": np.bool_}


class TensorRTEngine:
    """Runs the plans of a bundle on the first GPU of this machine. A plan is loaded at its first run.

    The end of the context, or `close`, frees the memory on the GPU.

    Args:
        bundle: a bundle with plans for this machine.
        engine: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        cuda_graphs: launch a batch size after its first runs as one CUDA graph.
        eager_kernels: for TensorRT-RTX, compile the kernels of new sizes before their first run. By default they are
            compiled during the first runs, so that the last bits of an answer may change once.

    Raises:
        BundleError: the bundle has no plans, or only for another GPU or version.
        EngineError: this machine has no GPU, or the library cannot be used.
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
        """Run plans that are not in the manifest yet."""
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

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory of the plans after the current runs. Later runs are errors."""
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
        """Number of outputs of layers by type in the plan of a graph, by the library's inspector.

        ``"unknown"`` stands for outputs without a type in the inspector.
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
    """One plan: a context for each of its profiles, their memory, and captured CUDA graphs."""

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
        """Load the plan. After an error, `close` frees its memory."""
        library, cuda, options = self._library, self._cuda, entry["options"]
        log = _logger(library, self._messages)
        runtime = library.Runtime(log)
        if options["version_compatible"]:
            # The plan contains a copy of the library's runtime, which is code. `Bundle` has checked the hash of the
            # plan.
            runtime.engine_host_code_allowed = True
        self._engine = runtime.deserialize_cuda_engine(bundle.plan_path(self._graph, entry).read_bytes())
        if self._engine is None:
            raise self._failed("could not load the plan of")
        if options["strip"]:
            self._refit(library, log, bundle.graph_path(self._graph))
        self._stream = cuda("StreamCreate")
        profiles = range(self._engine.num_optimization_profiles)
        # The contexts share the memory of the largest one, since only one runs at a time.
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
        """Free everything after the current run."""
        with self._lock:
            self._forget_all()
            # Contexts use the memory and the stream, so they are freed first.
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
            # For dynamic shapes, TensorRT 10 gives types only for a context with fixed shapes.
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
        """The first profile that includes the shapes. Profiles are ordered from special to general."""
        for number in range(len(self._contexts)):
            ranges = {name: self._engine.get_tensor_profile_shape(name, number) for name in shapes}
            if all(_within(shape, ranges[name][0], ranges[name][2]) for name, shape in shapes.items()):
                return number
        largest = {name: tuple(ranges[name][2]) for name in shapes}
        raise EngineError(
            f"the plan of {self._graph} does not support these sizes",
            why=f"it was given {shapes}, and supports up to {largest}",
            fix="Give fewer images or prompts at once, or export the checkpoint again with a larger --max-batch.",
        )

    def _make_room(self, context: Any, shapes: Shapes) -> None:
        moved = False
        for name, shape in shapes.items():
            moved |= self._staging[name].reserve(int(np.prod(shape, dtype=np.int64)) * self._types[name].itemsize)
        if moved:
            # Captured graphs copy from and to the old addresses.
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
            # A context prepares for new shapes at their first run, which cannot be captured.
            self._cuda("StreamSynchronize", self._stream)
            self._capture(context, key, shapes)
        self._seen.add(key)

    def _capture(self, context: Any, key: Any, shapes: Shapes) -> None:
        """Capture the launches of these shapes for later runs. If that fails, they are launched one by one."""
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
        """Capture the launches of a run as a CUDA graph, without running them.

        Raises:
            EngineError: they cannot be captured. It is the first error, and not a later one caused by it.
        """
        # TensorRT-RTX can be asked before.
        capturable = getattr(context, "is_stream_capturable", None)
        if capturable is not None and not capturable(int(self._stream)):
            raise EngineError("TensorRT-RTX cannot be captured at these sizes")
        self._cuda("StreamBeginCapture", self._stream, self._cuda.capture_here)
        try:
            self._enqueue(context, shapes)
        except EngineError:
            # The stream must leave the capture.
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
        """A context of a profile in the shared memory.

        Args:
            number: number of the profile.
            count: size of the memory in bytes.
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
        # The first message is the cause of the others.
        return EngineError(f"TensorRT {what} {self._graph}", why=self._messages[0] if self._messages else None)


def _within(shape: Sequence[int], low: Sequence[int], high: Sequence[int]) -> bool:
    return len(shape) == len(low) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))


def _logger(library: Any, messages: list[str]) -> Any:
    class Kept(library.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity in {library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR}:
                messages.append(message)

    return Kept()
