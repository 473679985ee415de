"""Replacements of CUDA's and TensorRT's native classes for machines without a GPU. The plan doubles its input.

They check the rules about the order of calls: memory must be allocated and large enough; work is done when its stream
is synchronised; a context can be captured only after a run at the same sizes and a synchronisation of the stream; an
error during a capture invalidates it; and an error that was not cleared makes TensorRT's next call fail.

``tests/export/plans/test_tensorrt_api.py`` checks the names and signatures against the real classes. ``make test-gpu``
checks their real behaviour on a machine with a GPU.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH = 4
PROFILES = ((1, 1, 1), (1, 8, 32))
NEEDED = (1000, 3000)
_FLOAT = 4


class Gpu:
    """The module ``cuda.bindings.runtime`` and its state.

    Attributes:
        calls: names of the calls whose order matters.
        memory: allocations by address, on the device or (pinned) on the host.
        fail: names of CUDA functions that report an error.
    """

    def __init__(self) -> None:
        from cuda.bindings import runtime

        self._real = runtime
        self.calls: list[str] = []
        self.memory: dict[int, ctypes.Array[Any]] = {}
        self.streams: set[int] = set()
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.instances: dict[int, list[Callable[[], None]]] = {}
        self.fail: set[str] = set()
        self.capturing = False
        self.spoilt = False
        self.error = runtime.cudaError_t.cudaSuccess
        self.queue: list[Callable[[], None]] = []
        self._numbers = itertools.count(1)

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        do = getattr(self, f"_{name.removeprefix('cuda')}", None)
        if do is None:
            return getattr(self._real, name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            status = self._real.cudaError_t
            if name.removeprefix("cuda") in self.fail:
                if name == "cudaStreamEndCapture":
                    self.capturing, self.queue = False, []
                self.error = status.cudaErrorUnknown
                return self.error, None
            result = do(*arguments)
            if isinstance(result, status):
                self.error = result
                return result, None
            return status.cudaSuccess, result

        return call

    @property
    def empty(self) -> bool:
        """Whether everything was freed."""
        return not (self.memory or self.streams or self.graphs or self.instances)

    def cudaGetLastError(self) -> tuple[Any]:
        error, self.error = self.error, self._real.cudaError_t.cudaSuccess
        return (error,)

    def cudaGetErrorString(self, status: Any) -> tuple[Any, bytes]:
        return status, str(status).encode()

    def find(self, address: int, count: int) -> None:
        """Fail the test unless `count` bytes are allocated at `address`."""
        assert address in self.memory, "memory that was never allocated, or was freed"
        assert len(self.memory[address]) >= count, "less memory than is used"

    def put(self, work: Callable[[], None]) -> None:
        self.queue.append(work)

    def _Malloc(self, count: int) -> int:
        assert not self.capturing, "memory is allocated in a capture"
        buffer = (ctypes.c_byte * count)()
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    _MallocHost = _Malloc

    def _Free(self, address: int) -> None:
        del self.memory[address]

    _FreeHost = _Free

    def _StreamCreate(self) -> int:
        self.streams.add(number := next(self._numbers))
        return number

    def _StreamDestroy(self, stream: int) -> None:
        self.streams.remove(stream)

    def _StreamSynchronize(self, stream: int) -> Any:
        assert stream in self.streams
        self.calls.append("synchronise")
        if self.capturing:
            self.spoilt = True
            return self._real.cudaError_t.cudaErrorStreamCaptureUnsupported
        for work in self.queue:
            work()
        self.queue = []
        return None

    def _MemcpyAsync(self, target: int, source: int, count: int, _kind: Any, stream: int) -> None:
        assert stream in self.streams

        def copy() -> None:
            self.find(target, count)
            self.find(source, count)
            ctypes.memmove(target, source, count)

        self.put(copy)

    def _StreamBeginCapture(self, stream: int, _mode: Any) -> None:
        assert not self.queue, "work is still under way"
        assert stream in self.streams
        self.calls.append("capture")
        self.capturing, self.spoilt = True, False

    def _StreamEndCapture(self, _stream: int) -> Any:
        assert self.capturing
        self.capturing = False
        recorded, self.queue = self.queue, []
        if self.spoilt:
            return self._real.cudaError_t.cudaErrorStreamCaptureInvalidated
        self.graphs[number := next(self._numbers)] = recorded
        return number

    def _GraphInstantiate(self, graph: int, _flags: int) -> int:
        self.instances[number := next(self._numbers)] = self.graphs[graph]
        return number

    def _GraphDestroy(self, graph: int) -> None:
        del self.graphs[graph]

    def _GraphExecDestroy(self, instance: int) -> None:
        del self.instances[instance]

    def _GraphLaunch(self, instance: int, _stream: int) -> None:
        self.calls.append("launch a graph")
        self.queue.extend(self.instances[instance])


class _Strategy(enum.Enum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)


class _Specialisation(enum.Enum):
    LAZY, EAGER, NONE = range(3)


class _Mode(enum.Enum):
    INPUT, OUTPUT = range(2)


class _Config:
    def __init__(self) -> None:
        self.strategy = _Strategy.STATIC
        self.dynamic_shapes_kernel_specialization_strategy = _Specialisation.LAZY

    def set_execution_context_allocation_strategy(self, strategy: _Strategy) -> None:
        self.strategy = strategy


class Context:
    """An execution context. It records its settings and what it has run."""

    def __init__(self, library: Library, config: _Config) -> None:
        self._library, self._gpu, self.config = library, library.gpu, config
        self._profile = 0
        self._shape: tuple[int, ...] = ()
        self._prepared: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}
        self.device_memory = (0, 0)

    def set_optimization_profile_async(self, number: int, _stream: int) -> bool:
        self._profile = number
        return True

    def set_device_memory(self, address: int, count: int) -> None:
        assert self.config.strategy is _Strategy.USER_MANAGED, "the context has memory of its own"
        self.device_memory = (address, count)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = PROFILES[self._profile]
        if name != "x" or not low <= shape[0] <= high:
            return False
        if shape != self._shape:
            self._shape, self._prepared = shape, None
        return True

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return self._shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        gpu, shape, addresses = self._gpu, self._shape, dict(self._addresses)
        assert stream in gpu.streams
        if gpu.error is not gpu.cudaError_t.cudaSuccess:
            return self._library.failed("an earlier CUDA call failed")
        if self.config.strategy is _Strategy.USER_MANAGED:
            assert self.device_memory[1] >= NEEDED[self._profile]
            gpu.find(*self.device_memory)
        if gpu.capturing and (self._prepared != shape or shape[0] in self._library.not_capturable):
            gpu.spoilt = True
            gpu.error = gpu.cudaError_t.cudaErrorStreamCaptureUnsupported
            return self._library.failed("operation not permitted when stream is capturing")
        gpu.calls.append(f"enqueue {shape[0]}")
        gpu.put(lambda: self._double(shape, addresses))
        return True

    def _double(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        self._prepared = shape
        count = int(np.prod(shape)) * _FLOAT
        for name in ("x", "y"):
            self._gpu.find(addresses[name], count)
        x, y = (np.ctypeslib.as_array(self._gpu.memory[addresses[name]]) for name in ("x", "y"))
        y[:count].view(np.float32)[:] = 2 * x[:count].view(np.float32)


class RtxContext(Context):
    """The context of TensorRT-RTX, which reports in advance what can be captured."""

    def is_stream_capturable(self, _stream: int) -> bool:
        return self._shape[0] not in self._library.not_capturable


class _Engine:
    num_optimization_profiles = len(PROFILES)
    num_io_tensors = 2

    def __init__(self, library: Library) -> None:
        self._library = library

    def get_tensor_name(self, number: int) -> str:
        return "xy"[number]

    def get_tensor_mode(self, name: str) -> _Mode:
        return _Mode.INPUT if name == "x" else _Mode.OUTPUT

    def get_tensor_dtype(self, _name: str) -> str:
        return "DataType.FLOAT"

    def get_tensor_profile_shape(self, _name: str, number: int) -> list[tuple[int, ...]]:
        return [(size, WIDTH) for size in PROFILES[number]]

    def get_device_memory_size_for_profile_v2(self, number: int) -> int:
        return NEEDED[number]

    def create_runtime_config(self) -> _Config:
        return _Config()

    def create_execution_context(self, config: _Config) -> Context | None:
        library = self._library
        if len(library.contexts) == library.most_contexts:
            library.failed("out of memory")
            return None
        library.contexts.append(library.context(library, config))
        return library.contexts[-1]

    def create_engine_inspector(self) -> Any:
        inspector = SimpleNamespace(execution_context=None)

        def information(_form: Any) -> str:
            known = inspector.execution_context is not None and inspector.execution_context.get_tensor_shape("x")
            output = {"Format/Datatype": "Half" if known else "N/A due to dynamic shapes"}
            return json.dumps({"Layers": [{"Name": "double", "Outputs": [output]}]})

        inspector.get_engine_information = information
        return inspector


class Library(ModuleType):
    """The part of the module ``tensorrt`` that runs a plan.

    Attributes:
        gpu: the device.
        contexts: all contexts that were created.
        not_capturable: sizes at which a capture fails.
        most_contexts: how many contexts can be created.
        host_code: whether the plan may run its own code; None before it is loaded.
    """

    def __init__(self, gpu: Gpu, context: type[Context]) -> None:
        super().__init__("tensorrt")
        self.__version__ = "11.4.0.106"
        self.gpu, self.context = gpu, context
        self.contexts: list[Context] = []
        self.not_capturable: set[int] = set()
        self.most_contexts = len(PROFILES)
        self.host_code: bool | None = None
        self._log: Any = None
        self.ILogger = type("ILogger", (), {"__init__": lambda _: None, "Severity": _Severity})
        self.ExecutionContextAllocationStrategy = _Strategy
        self.DynamicShapesKernelSpecializationStrategy = _Specialisation
        self.TensorIOMode = _Mode
        self.LayerInformationFormat = SimpleNamespace(JSON="JSON")
        self.Runtime = self._runtime

    def failed(self, why: str) -> bool:
        """Log an error and a follow-up error, as TensorRT does. Returns False."""
        self._log.log(_Severity.ERROR, why)
        self._log.log(_Severity.ERROR, "a later error")
        return False

    def _runtime(self, log: Any) -> Any:
        self._log = log
        runtime = SimpleNamespace(engine_host_code_allowed=False)

        def load(plan: bytes) -> _Engine | None:
            self.host_code = runtime.engine_host_code_allowed
            if plan == b"version compatible" and not self.host_code:
                self.failed("host code is not allowed")
                return None
            return _Engine(self)

        runtime.deserialize_cuda_engine = load
        return runtime


class _Severity(enum.Enum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


def install(monkeypatch: pytest.MonkeyPatch, context: type[Context] = Context) -> Library:
    """Replace CUDA's and TensorRT's Python packages for one test."""
    bindings = pytest.importorskip("cuda.bindings", reason="cuda-bindings is for x86-64 Linux")
    gpu = Gpu()
    library = Library(gpu, context)
    monkeypatch.setattr(bindings, "runtime", gpu, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    return library
