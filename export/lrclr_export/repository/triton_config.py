"""``config.pbtxt`` of each graph, made from Triton's own message type so that it is always valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton

from lrclr.engines._onnxruntime import DEFAULT_OPTIONS
from lrclr.triton import protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lrclr.bundle import Golden
    from lrclr.model import LrclrConfig
    from lrclr_export.profiles import Profile

BACKEND = "onnxruntime"
# Each decodes and waits for the graphs, and the image encoder batches what they ask at once: at most so many images
# meet there. Measured in benchmarks/results/serving; each costs 55 MiB.
_CLASSIFIERS = 8


def triton_configs(config: LrclrConfig, profile: Profile) -> dict[str, str]:
    """The text of ``config.pbtxt`` for each graph, and for the model `lrclr` above them.

    The image encoder batches over images and the text encoder over prompts; the fusion head has both axes, so Triton
    does not batch it. Two versions of a graph stay loaded, so that the `lrclr` model of one bundle finds the graphs of
    that bundle while the next is taking over. Before a graph is ready, the server runs `warmup_inputs` through it.

    Args:
        config: the network's.
        profile: smallest, commonest and largest size of each axis; see `lrclr_export.profiles`.
    """
    vision, text = config.vision_config, config.text_config
    rows, regions = config.num_regions + 1, config.num_regions
    image = _model(
        "image_encoder",
        profile["batch"][2],
        inputs={"pixel_values": ("FP32", [3, vision.image_size, vision.image_size])},
        outputs={
            "image_embedding": ("FP32", [config.projection_dim]),
            "region_tokens": ("FP32", [rows, vision.hidden_size]),
            "region_index": ("INT64", [regions]),
            "region_importance": ("FP32", [regions]),
        },
    )
    prompts = _model(
        "text_encoder",
        profile["prompts"][2],
        inputs={"input_ids": ("INT64", [-1])},
        outputs={
            "text_embedding": ("FP32", [config.projection_dim]),
            "text_tokens": ("FP32", [-1, text.hidden_size]),
        },
    )
    fusion = _model(
        "fusion_head",
        0,
        inputs={
            "region_tokens": ("FP32", [-1, rows, vision.hidden_size]),
            "text_tokens": ("FP32", [-1, -1, text.hidden_size]),
            "text_mask": ("INT64", [-1, -1]),
        },
        outputs={"local_score": ("FP32", [-1, -1]), "region_attention": ("FP32", [-1, -1, regions])},
    )
    for graph in (image, prompts, fusion):
        graph.version_policy.latest.num_versions = 2
        # One, on a GPU where there is one: its threads or kernels fill the device, and a batch serves all who wait.
        graph.instance_group.add(count=1)
        set_cuda_options(graph)
    _warm_up(image, {"pixel_values": [3, vision.image_size, vision.image_size]})
    many, long = profile["prompts"][1], profile["tokens"][1]
    _warm_up(prompts, {"input_ids": [long]})
    sizes = {"region_tokens": [1, rows, vision.hidden_size], "text_tokens": [many, long, text.hidden_size]}
    _warm_up(fusion, {**sizes, "text_mask": [many, long]})
    classifier = _classifier({"S": vision.image_size, "R": regions})
    return {model.name: text_format.MessageToString(model) for model in (image, prompts, fusion, classifier)}


def warmup_inputs(golden: Golden, profile: Profile) -> dict[str, dict[str, NDArray[Any]]]:
    """A radiograph and the findings' prompts, as each graph takes them, without the axis that Triton batches over.

    Args:
        golden: of the bundle; the first prompts are those of the findings.
        profile: as for `triton_configs`.
    """
    many, long = profile["prompts"][1], profile["tokens"][1]
    return {
        "image_encoder": {"pixel_values": golden.pixel_values[0]},
        "text_encoder": {"input_ids": golden.input_ids[0, :long]},
        "fusion_head": {
            "region_tokens": golden.region_tokens[:1],
            "text_tokens": golden.text_tokens[:many, :long],
            "text_mask": golden.text_mask[:many, :long],
        },
    }


def set_cuda_options(model: Any) -> None:
    """Let Triton's onnxruntime backend create its CUDA provider with the options of `OnnxRuntimeEngine`.

    The backend passes them to ONNX Runtime since Triton 24.06 (``src/onnxruntime.cc``). Where a model runs on the CPU,
    it does not read them.

    Args:
        model: the message, which is changed.
    """
    accelerator = model.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
    for name, value in DEFAULT_OPTIONS["cuda"].items():
        accelerator.parameters[name] = value


def _warm_up(model: Any, shapes: dict[str, list[int]]) -> None:
    types = {tensor.name: tensor.data_type for tensor in model.input}
    warmup = model.model_warmup.add(name="findings of a radiograph", batch_size=min(1, model.max_batch_size))
    for name, shape in shapes.items():
        entry = warmup.inputs[name]
        entry.data_type = types[name]
        entry.dims.extend(shape)
        entry.input_data_file = name


def _classifier(sizes: dict[str, int]) -> Any:
    """The model that answers for files: requests with tensors of any size, each answered by one of its processes."""
    model = triton.ModelConfig(name=protocol.MODEL, backend="python")
    for kind, tensors in ((model.input, protocol.INPUTS), (model.output, protocol.OUTPUTS)):
        for name, tensor in tensors.items():
            dims = [dim if isinstance(dim, int) else sizes.get(dim, -1) for dim in tensor.dims]
            # Triton calls text strings, and its protocol calls them bytes.
            data_type = getattr(triton, f"TYPE_{'STRING' if tensor.datatype == 'BYTES' else tensor.datatype}")
            if kind is model.input:
                kind.add(name=name, data_type=data_type, dims=dims, optional=True)
            else:
                kind.add(name=name, data_type=data_type, dims=dims)
    model.instance_group.add(count=_CLASSIFIERS, kind=triton.ModelInstanceGroup.KIND_CPU)
    # Triton has a queue policy only under ``dynamic_batching``. Its scheduler takes one request at a time from the
    # queue of a model whose ``max_batch_size`` is 0. With a policy it hands a request out only when a process waits,
    # and can see that up to half a second late if no other process ends a request meanwhile. Measured on a machine
    # under load: with four processes and more nothing is lost, with one process two thirds of the throughput. The
    # graphs, of which there is one process each, therefore have no policy: the processes of this model bound what waits
    # for them.
    policy = model.dynamic_batching.default_queue_policy
    policy.max_queue_size = protocol.MAX_QUEUED
    policy.default_timeout_microseconds = protocol.MAX_QUEUED_SECONDS * 1_000_000
    policy.timeout_action = triton.ModelQueuePolicy.REJECT
    # A client may set a shorter time limit for its request, not a longer one: then the request leaves the queue.
    policy.allow_timeout_override = True
    return model


def _model(name: str, max_batch: int, *, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    model = triton.ModelConfig(name=name, backend=BACKEND, max_batch_size=max_batch)
    for kind, tensors in ((model.input, inputs), (model.output, outputs)):
        for tensor, (data_type, dims) in tensors.items():
            kind.add(name=tensor, data_type=getattr(triton, f"TYPE_{data_type}"), dims=dims)
    if max_batch > 0:
        # Without a queue delay: it would cost that delay at low load, and at high load a queue forms by itself.
        model.dynamic_batching.SetInParent()
    return model
