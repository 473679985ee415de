"""``config.pbtxt`` of a graph for Triton's TensorRT backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import model_config_pb2 as triton

from lrclr.bundle import plan_file
from lrclr_export.profiles import profiles_of_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrclr_export.profiles import Profile

_BACKEND = "tensorrt"


@dataclass(frozen=True)
class PlanServing:
    """Triton serves plans, on GPUs only.

    Attributes:
        capabilities: compute capabilities that have plans.
        default: one of them, whose plan also runs on GPUs of other capabilities. Without it, the server refuses such
            GPUs.
    """

    capabilities: tuple[str, ...]
    default: str | None = None
    batches = True
    threads = None

    def configure(self, model: Any, shapes: Mapping[str, Sequence[int | str]], profiles: Sequence[Profile]) -> None:
        """Complete a graph's configuration.

        Args:
            model: Triton's `ModelConfig` of the graph.
            shapes: shapes of the graph's inputs, where a name stands for a dynamic axis.
            profiles: profiles of the manifest.
        """
        model.backend = _BACKEND
        for capability in sorted(self.capabilities, key=float):
            model.cc_model_filenames[capability] = plan_file(_BACKEND, capability)
        if self.default is not None:
            model.default_model_filename = plan_file(_BACKEND, self.default)
        # By default the context of each profile would allocate the memory of the largest.
        model.parameters["execution_context_allocation_strategy"].string_value = "ON_PROFILE_CHANGE"
        (group,) = model.instance_group
        group.kind = triton.ModelInstanceGroup.KIND_GPU
        group.profile.extend(str(number) for number in range(len(profiles_of_graph(shapes, profiles))))
        _add_cuda_graphs(model, shapes, profiles[-1])


def _add_cuda_graphs(model: Any, shapes: Mapping[str, Sequence[int | str]], largest: Profile) -> None:
    cuda = model.optimization.cuda
    # Triton captures each size for each profile, and logs an error for a size outside a profile, as for all but the
    # first size with the profile of one image. It goes on, and such a size runs with the other profile.
    cuda.graphs = True
    cuda.output_copy_stream = True
    batched = model.max_batch_size > 0
    axis = str(next(iter(shapes.values()))[0]) if batched else ""
    captured = _captured(largest, axis)
    for smaller, size in zip([0, *captured], captured, strict=False):
        spec = cuda.graph_spec.add(batch_size=size)
        for name, shape in shapes.items():
            # Without batches by Triton, most requests are for one image.
            sizes = [dim if isinstance(dim, int) else 1 if dim == "batch" else largest[dim][1] for dim in shape]
            spec.input[name].dim.extend(sizes[1:] if batched else sizes)
        # Other numbers of images run as the next larger size, which is faster than launching kernels one by one. Texts
        # do not, since the length of a row is part of their size.
        if axis == "batch" and smaller + 1 < size <= largest[axis][1]:
            spec.graph_lower_bound.batch_size = smaller + 1
            for name, dims in spec.input.items():
                spec.graph_lower_bound.input[name].dim.extend(dims.dim)


def _captured(profile: Profile, axis: str) -> list[int]:
    """Batch sizes that are captured as CUDA graphs: powers of two for images, else the commonest and the largest."""
    if not axis:
        return [0]
    _, common, largest = profile[axis]
    powers = {1 << power for power in range(largest.bit_length())} if axis == "batch" else set()
    return sorted({size for size in powers if size <= largest} | {common, largest})
