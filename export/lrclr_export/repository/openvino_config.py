"""A graph's ``config.pbtxt`` for Triton's OpenVINO backend, and back again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton

from lrclr_export.repository.plan_config import cleared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrclr_export.profiles import Profile

BACKEND = "openvino"


def serving_openvino(config: str, file: str, *, half: bool) -> str:
    """The configuration of a graph, changed so that Triton's OpenVINO backend serves it.

    That backend computes as many rows as ``max_batch_size`` says, however few were asked for. So the axis that Triton
    batches over becomes one of the graph's own: requests have any number of rows, and are not put together.

    Args:
        config: of the graph, as `lrclr_export.repository.triton_config` wrote it.
        file: of the graph: ``"model.onnx"``, or ``"model.xml"`` where ONNX has a node that OpenVINO does not know.
        half: whether products may be in bfloat16, where the processor has it.
    """
    model = cleared(config)
    model.backend, model.default_model_filename = BACKEND, file
    if model.max_batch_size > 0:
        _unbatched(model)
    (group,) = model.instance_group
    group.kind = triton.ModelInstanceGroup.KIND_CPU
    given = {"NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY", **({"HINT_BF16": "YES"} if half else {})}
    for name, value in given.items():
        model.parameters[name].string_value = value
    return str(text_format.MessageToString(model))


def batched_again(config: str, shapes: Mapping[str, Sequence[int | str]], profiles: Sequence[Profile]) -> str:
    """The configuration as it was before `serving_openvino` took its batches away; any other is left as it is.

    Args:
        config: of the graph, for whatever backend.
        shapes: of its inputs, where a name stands for a dynamic axis.
        profiles: the manifest's.
    """
    model = text_format.Parse(config, triton.ModelConfig())
    axes = {shape[0] for shape in shapes.values()}
    # A graph with inputs of several batch axes never had Triton's.
    if model.backend != BACKEND or len(axes) != 1:
        return config
    for tensor in (*model.input, *model.output):
        del tensor.dims[0]
    for warmup in model.model_warmup:
        warmup.batch_size = 1
        for entry in warmup.inputs.values():
            del entry.dims[0]
    model.max_batch_size = profiles[-1][str(axes.pop())][2]
    model.dynamic_batching.SetInParent()
    return str(text_format.MessageToString(model))


def _unbatched(model: Any) -> None:
    for tensor in (*model.input, *model.output):
        tensor.dims.insert(0, -1)
    for warmup in model.model_warmup:
        for entry in warmup.inputs.values():
            entry.dims.insert(0, warmup.batch_size)
        warmup.batch_size = 0
    model.max_batch_size = 0
    model.ClearField("dynamic_batching")
