"""A graph's ``config.pbtxt`` for Triton's TensorRT backend, and back again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton

from lrclr.bundle import plan_file
from lrclr_export.triton_config import BACKEND, set_cuda_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrclr_export.profiles import Profile

_PLANS = "tensorrt"


def serving_plans(
    config: str, shapes: Mapping[str, Sequence[int | str]], profiles: Sequence[Profile], capabilities: Sequence[str]
) -> str:
    """The configuration of a graph, changed so that Triton serves its plans on GPUs and nothing else.

    Args:
        config: of the graph, for whatever backend.
        shapes: of its inputs, where a name stands for a dynamic axis.
        profiles: the manifest's.
        capabilities: compute capabilities that there are plans for; a GPU of another one is refused by the server.
    """
    from lrclr_export.profiles import profiles_of_graph

    model = cleared(config)
    model.backend = _PLANS
    for capability in sorted(capabilities, key=float):
        model.cc_model_filenames[capability] = plan_file(_PLANS, capability)
    (group,) = model.instance_group
    group.kind = triton.ModelInstanceGroup.KIND_GPU
    group.profile.extend(str(number) for number in range(len(profiles_of_graph(shapes, profiles))))
    cuda = model.optimization.cuda
    cuda.graphs = True
    cuda.output_copy_stream = True
    largest = profiles[-1]
    batched = model.max_batch_size > 0
    axis = str(next(iter(shapes.values()))[0]) if batched else ""
    for size in _captured(largest, axis):
        spec = cuda.graph_spec.add(batch_size=size)
        for name, shape in shapes.items():
            # A request is for one image far more often than for several, where Triton makes no batches.
            sizes = [dim if isinstance(dim, int) else 1 if dim == "batch" else largest[dim][1] for dim in shape]
            spec.input[name].dim.extend(sizes[1:] if batched else sizes)
    return str(text_format.MessageToString(model))


def serving_graph(config: str) -> str:
    """The configuration as the export wrote it: Triton serves the ONNX graph."""
    model = cleared(config)
    model.backend = BACKEND
    set_cuda_options(model)
    return str(text_format.MessageToString(model))


def cleared(config: str) -> Any:
    """The parsed configuration without what a backend was told."""
    model = text_format.Parse(config, triton.ModelConfig())
    for field in ("cc_model_filenames", "default_model_filename", "optimization", "parameters"):
        model.ClearField(field)
    (group,) = model.instance_group
    group.ClearField("kind")
    group.ClearField("profile")
    return model


def _captured(profile: Profile, axis: str) -> list[int]:
    """Batch sizes whose launches are kept as a CUDA graph: powers of two for images, else the commonest."""
    if not axis:
        return [0]
    _, common, largest = profile[axis]
    powers = {1 << power for power in range(largest.bit_length())} if axis == "batch" else set()
    return sorted({size for size in powers if size <= largest} | {common, largest})
