"""Tensors of Triton's Python backend, for NumPy 1 and NumPy 2.

The backend's stub up to Triton 2.5x was built for NumPy 1 and misreads the memory layout of NumPy 2 arrays: numbers are
corrupted without an error, and a tensor of bytes crashes the process. With such a stub, numbers are passed by DLPack,
which does not support bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_PROBE = np.arange(6, dtype=np.int64).reshape(2, 3)


def _plain_arrays_work() -> bool:
    return np.array_equal(pb_utils.Tensor("probe", _PROBE).as_numpy(), _PROBE)


# By the behaviour of the stub, since it does not give its version. NumPy 1 works with every stub.
_PLAIN = np.lib.NumpyVersion(np.__version__) < "2.0.0" or _plain_arrays_work()


def get(tensor: Any) -> NDArray[Any]:
    """The content of a tensor; for BYTES an array of ``object`` with values of `bytes`."""
    array: NDArray[Any] = tensor.as_numpy() if _PLAIN else np.from_dlpack(tensor)
    return array


def put(name: str, array: NDArray[Any]) -> Any:
    """A tensor of numbers."""
    array = np.ascontiguousarray(array)
    return pb_utils.Tensor(name, array) if _PLAIN else pb_utils.Tensor.from_dlpack(name, array)


def put_bytes(name: str, values: Sequence[bytes]) -> Any:
    """A tensor of BYTES with one axis."""
    return pb_utils.Tensor(name, np.array(values, np.object_))


def require_bytes() -> None:
    """Check that tensors of bytes can be read, instead of crashing the process.

    Raises:
        TritonModelException: this stub does not support this NumPy.
    """
    if not _PLAIN:
        raise pb_utils.TritonModelException(
            f"this Triton's Python backend was built for NumPy 1, and NumPy {np.__version__} is installed: tensors of"
            " bytes cannot be read. Install numpy<2 for the server's Python, or use a newer Triton."
        )


def refuse(message: str, code: str = "INVALID_ARG") -> Any:
    """An error response. Responses must not share an error object, which would crash the server."""
    error = pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))
    return pb_utils.InferenceResponse(error=error)
