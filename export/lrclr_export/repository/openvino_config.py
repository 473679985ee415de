"""``config.pbtxt`` of a graph for Triton's OpenVINO backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import model_config_pb2 as triton

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from lrclr_export.profiles import Profile


@dataclass(frozen=True)
class OpenVINOServing:
    """Triton's OpenVINO backend serves the graphs.

    That backend always computes ``max_batch_size`` rows, also for a request with fewer. So Triton makes no batches: the
    batch axis is an axis of the graph, and a request has any number of rows.

    Attributes:
        files: name of each graph's file: ``"model.onnx"``, or ``"model.xml"`` if the ONNX graph has a node that
            OpenVINO does not support.
        half: graphs whose products may be in bfloat16, if the processor has it.
    """

    files: Mapping[str, str]
    half: Collection[str]
    batches = False
    threads = "INFERENCE_NUM_THREADS"

    def configure(self, model: Any, shapes: Mapping[str, Sequence[int | str]], profiles: Sequence[Profile]) -> None:
        """Complete a graph's configuration; as `PlanServing.configure`."""
        del shapes, profiles
        model.backend, model.default_model_filename = "openvino", self.files[model.name]
        (group,) = model.instance_group
        group.kind = triton.ModelInstanceGroup.KIND_CPU
        given = {
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            **({"HINT_BF16": "YES"} if model.name in self.half else {}),
        }
        for name, value in given.items():
            model.parameters[name].string_value = value
