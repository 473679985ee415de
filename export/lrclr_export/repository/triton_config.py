"""``config.pbtxt`` of each model of a bundle, written through Triton's protobuf message, so that it is always valid.

Tensors come from `lrclr.contract`, sizes from the network's configuration or the bundle's manifest. No ``config.pbtxt``
is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton
from tritonclient.utils import np_to_triton_dtype

from lrclr.bundle import ServingSettings
from lrclr.contract import DYNAMIC, GRAPHS, ModelNames
from lrclr.engines._onnxruntime import DEFAULT_OPTIONS
from lrclr.engines._openvino import half_graphs
from lrclr.triton import protocol
from lrclr_export.repository.openvino_config import OpenVINOServing
from lrclr_export.repository.plan_config import PlanServing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lrclr.bundle import Golden, Manifest
    from lrclr.contract import Graph, Tensor
    from lrclr_export.profiles import Profile


class Serving(Protocol):
    """How Triton serves the graphs: `OnnxRuntimeServing`, `OpenVINOServing` or `PlanServing`."""

    @property
    def batches(self) -> bool:
        """Whether Triton may batch the rows of several requests."""

    @property
    def threads(self) -> str | None:
        """The backend's parameter for the threads of an instance; None if it has none."""

    def configure(self, model: Any, shapes: Mapping[str, Sequence[int | str]], profiles: Sequence[Profile]) -> None:
        """Complete a graph's configuration."""


class OnnxRuntimeServing:
    """Triton's ONNX Runtime backend serves the graphs."""

    batches = True
    threads = "intra_op_thread_count"

    def configure(self, model: Any, shapes: Mapping[str, Sequence[int | str]], profiles: Sequence[Profile]) -> None:
        """Complete a graph's configuration; as `PlanServing.configure`."""
        del shapes, profiles
        model.backend = "onnxruntime"
        # The backend passes these options to ONNX Runtime since Triton 24.06 (src/onnxruntime.cc), for models on a GPU
        # only. So its CUDA provider computes as that of `OnnxRuntimeEngine`.
        accelerator = model.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
        for name, value in DEFAULT_OPTIONS["cuda"].items():
            accelerator.parameters[name] = value


def triton_configs(
    sizes: Mapping[str, int | str],
    profiles: Sequence[Profile],
    serving: Serving | None = None,
    names: ModelNames | None = None,
    settings: ServingSettings | None = None,
) -> dict[str, str]:
    """Return the text of ``config.pbtxt`` of each model: the three graphs and the model `lrclr` above them.

    Args:
        sizes: sizes of the fixed axes: `LrclrConfig.axis_sizes`, or `sizes_of` a manifest.
        profiles: smallest, commonest and largest size of each dynamic axis; see `lrclr_export.profiles`.
        serving: how Triton serves the graphs; by default with ONNX Runtime.
        names: names of the models; by default without a prefix.
        settings: instances, threads and batching; by default those of a new bundle.
    """
    names, settings = names or ModelNames(), settings or ServingSettings()
    configs = {
        names.of(name): triton_config(graph, sizes, profiles, serving, names, settings)
        for name, graph in GRAPHS.items()
    }
    dimensions = {"S": "image_size", "R": "regions", "D": "projection"}
    axes = {axis: int(sizes[name]) for axis, name in dimensions.items()}
    classifier = _classifier(names.classifier, axes, settings.processes)
    return {**configs, classifier.name: text_format.MessageToString(classifier)}


def triton_config(
    graph: Graph,
    sizes: Mapping[str, int | str],
    profiles: Sequence[Profile],
    serving: Serving | None = None,
    names: ModelNames | None = None,
    settings: ServingSettings | None = None,
) -> str:
    """The text of ``config.pbtxt`` for one graph. Parameters as for `triton_configs`.

    Triton batches the image encoder over images and the text encoder over prompts. It does not batch the fusion head,
    which has both axes. Two versions of a graph stay loaded, so that the model `lrclr` of one bundle finds its graphs
    while the next bundle takes over. Before a graph is ready, the server runs `warmup_inputs` through it.
    """
    serving, settings = serving or OnnxRuntimeServing(), settings or ServingSettings()
    axis = _batch_axis(graph) if serving.batches else None
    model = triton.ModelConfig(name=graph.name, max_batch_size=profiles[-1][axis][2] if axis else 0)
    for kind, tensors in ((model.input, graph.inputs), (model.output, graph.outputs)):
        for tensor in tensors:
            dims = [-1 if size in DYNAMIC else size for size in _shape(tensor, sizes)]
            kind.add(name=tensor.name, data_type=_data_type(tensor), dims=dims[1:] if axis else dims)
    if axis:
        model.dynamic_batching.SetInParent()
        if axis == "batch":
            model.dynamic_batching.max_queue_delay_microseconds = settings.queue_delay_us
            model.dynamic_batching.preferred_batch_size.extend(settings.preferred_batches)
    model.version_policy.latest.num_versions = 2
    # On a GPU if there is one.
    instances, threads = settings.of_graph(graph.name)
    model.instance_group.add(count=instances)
    warmup = model.model_warmup.add(name="findings of a radiograph", batch_size=1 if axis else 0)
    for tensor in graph.inputs:
        entry = warmup.inputs[tensor.name]
        entry.data_type = _data_type(tensor)
        shape = _warmup_shape(graph, tensor, sizes, profiles[-1])
        entry.dims.extend(shape[1:] if axis else shape)
        entry.input_data_file = tensor.name
    serving.configure(model, {tensor.name: _shape(tensor, sizes) for tensor in graph.inputs}, profiles)
    if threads is not None and serving.threads is not None:
        model.parameters[serving.threads].string_value = str(threads)
    # Last, since `Serving.configure` knows a graph by its own name.
    model.name = (names or ModelNames()).of(graph.name)
    return str(text_format.MessageToString(model))


def warmup_inputs(
    golden: Golden, sizes: Mapping[str, int | str], profiles: Sequence[Profile]
) -> dict[str, dict[str, NDArray[Any]]]:
    """A radiograph and the findings' prompts, as each graph takes them.

    Args:
        golden: golden data of the bundle. The first prompts are those of the findings.
        sizes, profiles: as for `triton_configs`.
    """
    return {
        name: {
            tensor.name: golden[tensor.name][
                tuple(slice(size) for size in _warmup_shape(graph, tensor, sizes, profiles[-1]))
            ]
            for tensor in graph.inputs
        }
        for name, graph in GRAPHS.items()
    }


def sizes_of(manifest: Manifest) -> dict[str, int | str]:
    """As `LrclrConfig.axis_sizes`, from a manifest, without torch."""
    return {
        axis: size
        for name, graph in GRAPHS.items()
        for tensors, entries in (
            (graph.inputs, manifest.graphs[name]["inputs"]),
            (graph.outputs, manifest.graphs[name]["outputs"]),
        )
        for tensor in tensors
        for axis, size in zip(tensor.axes, entries[tensor.name]["shape"], strict=True)
        if isinstance(axis, str) and axis not in DYNAMIC
    }


def serving_of(manifest: Manifest) -> Serving:
    """How Triton serves a bundle: with `Manifest.served_plans`, with OpenVINO, or with ONNX Runtime."""
    served = {entry["compute_capabilities"][0]: entry["options"] for entry in manifest.served_plans}
    if served:
        # A plan that runs on other GPUs too is used for those without a plan.
        moving = [one for one in sorted(served, key=float) if served[one]["hardware_compatible"] == "ampere+"]
        return PlanServing(tuple(served), default=moving[0] if moving else None)
    if manifest.engine["name"] == "openvino":
        entry = next(entry for entry in manifest.plans if entry["engine"] == "openvino")
        files = {graph: str(entry["graphs"][graph]["file"]).rpartition("/")[2] for graph in GRAPHS}
        return OpenVINOServing(files, half=half_graphs(manifest.precision))
    return OnnxRuntimeServing()


def _batch_axis(graph: Graph) -> str | None:
    """The first axis of all inputs, over which Triton can make batches; None if they differ."""
    axes = {tensor.axes[0] for tensor in graph.inputs}
    return str(axes.pop()) if len(axes) == 1 else None


def _shape(tensor: Tensor, sizes: Mapping[str, int | str]) -> list[int | str]:
    """Shape of a tensor, with names for dynamic axes."""
    return [axis if isinstance(axis, int) else sizes.get(axis, axis) for axis in tensor.axes]


def _warmup_shape(graph: Graph, tensor: Tensor, sizes: Mapping[str, int | str], profile: Profile) -> list[int]:
    """Shape of a warm-up input: one row of the batch axis, one image, and the commonest other sizes."""
    one = {"batch", _batch_axis(graph)}
    return [size if isinstance(size, int) else 1 if size in one else profile[size][1] for size in _shape(tensor, sizes)]


def _data_type(tensor: Tensor) -> Any:
    return getattr(triton, f"TYPE_{np_to_triton_dtype(np.dtype(tensor.dtype))}")


def _classifier(name: str, sizes: dict[str, int], processes: int) -> Any:
    """Configuration of the model `lrclr`. One of its processes answers each request."""
    model = triton.ModelConfig(name=name, backend="python")
    for kind, tensors in ((model.input, protocol.INPUTS), (model.output, protocol.OUTPUTS)):
        for tensor_name, tensor in tensors.items():
            dims = [dim if isinstance(dim, int) else sizes.get(dim, -1) for dim in tensor.dims]
            # The type is STRING in the configuration and BYTES in the protocol.
            data_type = getattr(triton, f"TYPE_{'STRING' if tensor.datatype == 'BYTES' else tensor.datatype}")
            if kind is model.input:
                kind.add(name=tensor_name, data_type=data_type, dims=dims, optional=True)
            else:
                kind.add(name=tensor_name, data_type=data_type, dims=dims)
    model.instance_group.add(count=processes, kind=triton.ModelInstanceGroup.KIND_CPU)
    # In Triton, a queue policy is a part of ``dynamic_batching``. If ``max_batch_size`` is 0, the scheduler takes one
    # request at a time from the queue. With a policy, it assigns a request only to a waiting process, which it may
    # notice half a second late if no other process ends a request meanwhile. Measured on a machine under load: no loss
    # with four processes or more, and a loss of two thirds of the throughput with one process. The graphs have one
    # or a few processes each, and therefore no policy: the number of processes of this model limits their queues.
    policy = model.dynamic_batching.default_queue_policy
    policy.max_queue_size = protocol.MAX_QUEUED
    policy.default_timeout_microseconds = protocol.MAX_QUEUED_SECONDS * 1_000_000
    policy.timeout_action = triton.ModelQueuePolicy.REJECT
    # A client may set a shorter time limit for its request, but not a longer one.
    policy.allow_timeout_override = True
    return model
