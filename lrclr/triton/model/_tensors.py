"""Tensors in and out of Triton's Python backend, right under every NumPy.

Stubs that were built for NumPy 1 (Triton up to 2.5x) read a NumPy 2 array's layout wrongly: numbers come out corrupted
without an error, and a tensor of bytes ends the process. Numbers then go by DLPack; bytes have no such way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["get", "put", "put_bytes", "refuse", "require_bytes"]

_PROBE = np.arange(6, dtype=np.int64).reshape(2, 3)


def _plain_arrays_work() -> bool:
    return np.array_equal(pb_utils.Tensor("probe", _PROBE).as_numpy(), _PROBE)


# By what the stub does and not by its version, which it does not tell. NumPy 1 is what every stub was built for.
_PLAIN = np.lib.NumpyVersion(np.__version__) < "2.0.0" or _plain_arrays_work()


def get(tensor: Any) -> NDArray[Any]:
    """A tensor's content: an array of its own type, of ``object`` holding bytes for BYTES."""
    array: NDArray[Any] = tensor.as_numpy() if _PLAIN else np.from_dlpack(tensor)
    return array


def put(name: str, array: NDArray[Any]) -> Any:
    """An output or input tensor of numbers."""
    array = np.ascontiguousarray(array)
    return pb_utils.Tensor(name, array) if _PLAIN else pb_utils.Tensor.from_dlpack(name, array)


def put_bytes(name: str, values: Sequence[bytes]) -> Any:
    """An output tensor of BYTES, of one axis."""
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return pb_utils.Tensor(name, array)


def require_bytes() -> None:
    """Refuse to go on where a tensor of bytes would end the process.

    Raises:
        TritonModelException: this stub and this NumPy do not fit together.
    """
    if not _PLAIN:
        raise pb_utils.TritonModelException(
            f"this Triton's Python backend was built for NumPy 1, and NumPy {np.__version__} is installed: tensors of"
            " bytes cannot be read. Install numpy<2 for the server's Python, or use a newer Triton."
        )


def refuse(message: str, code: str = "INVALID_ARG") -> Any:
    """A response that is an error. A new one each time: one error object shared by responses ends the server."""
    error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    return pb_utils.InferenceResponse(error=error)
