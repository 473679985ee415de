"""Calls of CUDA for running plans, and reusable memory."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.errors import EngineError, MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Cuda:
    """Calls functions of `cuda.bindings.runtime`, and checks their status.

    Raises:
        MissingExtraError: the package ``cuda-bindings`` is not installed.
    """

    def __init__(self, extra: str) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError:
            raise MissingExtraError("cuda-bindings", extra, "running plans") from None
        self._runtime = runtime

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Call ``cuda<function>``, and return its result, if it has one.

        Raises:
            EngineError: CUDA reported an error.
        """
        status, *results = getattr(self._runtime, f"cuda{function}")(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            text = self._runtime.cudaGetErrorString(status)[1]
            raise EngineError(
                f"CUDA could not do {function}", why=text.decode() if isinstance(text, bytes) else str(text)
            )
        return results[0] if results else None

    def end_failed_capture(self, stream: Any) -> None:
        """End the capture of a stream after a failure. CUDA reports the failure again, which is ignored."""
        graph = self._runtime.cudaStreamEndCapture(stream)[1]
        if graph is not None and int(graph):
            self("GraphDestroy", graph)

    def clear_error(self) -> None:
        """Reset the last error of this thread. Libraries would take it for an error of their calls."""
        self._runtime.cudaGetLastError()

    @property
    def to_device(self) -> Any:
        return self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice

    @property
    def to_host(self) -> Any:
        return self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost

    @property
    def capture_here(self) -> Any:
        """Mode in which calls of other threads do not disturb a capture."""
        return self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal


class Staging:
    """Memory of a tensor on the device, and pinned memory on the host. It grows when needed.

    Attributes:
        device, host: addresses of the memory.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._bytes = 0
        self.device = 0
        self.host = 0

    def reserve(self, count: int) -> bool:
        """Allocate at least so many bytes; returns whether the addresses changed."""
        count = max(count, 1)
        if count <= self._bytes:
            return False
        self.free()
        self.device = int(self._cuda("Malloc", count))
        self.host = int(self._cuda("MallocHost", count))
        self._bytes = count
        return True

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The memory on the host as an array."""
        count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        buffer = (ctypes.c_byte * count).from_address(self.host)
        return np.ndarray(shape, dtype, memoryview(buffer))

    def free(self) -> None:
        if self._bytes:
            self._cuda("Free", self.device)
            self._cuda("FreeHost", self.host)
            self._bytes = self.device = self.host = 0
