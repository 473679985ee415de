"""A gRPC server of Triton's protocol whose answers a test scripts."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from lrclr.triton import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Script = Callable[["ScriptedServer", Any], None]

__all__ = ["ScriptedServer", "scripted_server"]

_TYPES = {"BOOL": np.bool_, "FP32": np.float32, "FP64": np.float64, "INT64": np.int64}
_SIZES = {"B": 1, "D": 3, "F": 1, "R": 2}
BUNDLE = "0" * 64


class ScriptedServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers each request with a prediction for one image, unless the script aborts the request.

    Args:
        script: called with this server and gRPC's context before each answer. It may abort the request.

    Attributes:
        address: address of the server.
        left: seconds until the client's deadline, for each request.
        queued: microseconds that the client allows in the queue, for each request.
        described: for each request, whether it asks for the description.
        images: first bytes of the file of each request for a prediction.
        bundle: SHA-256 of the manifest that the answers name.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self.address = ""
        self.left: list[float] = []
        self.queued: list[int] = []
        self.described: list[bool] = []
        self.images: list[bytes] = []
        self.bundle = BUNDLE

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.left.append(context.time_remaining())
        self.queued.append(request.parameters["timeout"].int64_param)
        self.described.append(request.inputs[0].name == "describe")
        if not self.described[-1]:
            self.images.append(request.raw_input_contents[0][4:])
        self._script(self, context)
        answer = service_pb2.ModelInferResponse(model_name=protocol.MODEL)
        if self.described[-1]:
            _add(answer, "description", json.dumps({"bundle": self.bundle, "fusion_trained": True}).encode())
            return answer
        for name in protocol.OUTPUTS:
            if name not in {"description", "heatmap"}:
                _add(answer, name, self.bundle.encode())
        return answer


def _add(answer: Any, name: str, text: bytes) -> None:
    tensor = protocol.OUTPUTS[name]
    shape = [dim if isinstance(dim, int) else _SIZES[dim] for dim in tensor.dims]
    answer.outputs.add(name=name, datatype=tensor.datatype, shape=shape)
    if tensor.datatype == "BYTES":
        answer.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
    else:
        answer.raw_output_contents.append(np.full(shape, 0.5, _TYPES[tensor.datatype]).tobytes())


@contextmanager
def scripted_server(script: Script = lambda _server, _context: None) -> Iterator[ScriptedServer]:
    """A running server on a free port."""
    servicer = ScriptedServer(script)
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield servicer
        server.stop(None).wait()
