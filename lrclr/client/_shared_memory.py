"""Inputs that lie in memory which client and server share, instead of travelling through a socket."""

from __future__ import annotations

import secrets
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr import protocol
from lrclr.client._wire import triton_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

__all__ = ["shared_inputs"]

_WORTH_IT = 4096  # bytes below which the two calls that a region costs are more than it saves


@contextmanager
def shared_inputs(client: Any, tensors: Mapping[str, NDArray[Any]]) -> Iterator[list[Any]]:
    """tritonclient's input objects, large ones in shared memory; regions are gone afterwards, whatever happened.

    Args:
        client: tritonclient's, connected to a server on this machine that allows it.
        tensors: by name.
    """
    from tritonclient.utils import serialize_byte_tensor
    from tritonclient.utils import shared_memory as shm

    grpc = triton_grpc()
    with ExitStack() as held:
        inputs = []
        for name, array in tensors.items():
            one = grpc.InferInput(name, list(array.shape), protocol.INPUTS[name].datatype)
            content = serialize_byte_tensor(array).item() if array.dtype == np.object_ else array.tobytes()
            if len(content) < _WORTH_IT:
                one.set_data_from_numpy(array)
            else:
                region = f"lrclr_{secrets.token_hex(8)}"
                handle = shm.create_shared_memory_region(region, f"/{region}", len(content))
                held.callback(shm.destroy_shared_memory_region, handle)
                shm.set_shared_memory_region(handle, [np.frombuffer(content, np.uint8)])
                client.register_system_shared_memory(region, f"/{region}", len(content))
                held.callback(client.unregister_system_shared_memory, region)
                one.set_shared_memory(region, len(content))
            inputs.append(one)
        yield inputs
