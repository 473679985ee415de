"""Facts of a bundle that determine the values of its chart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lrclr import budget
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.bundle import Bundle, FileEntry, Manifest, ServingSettings
    from lrclr.deploy._options import DeployOptions

_FLOAT: Final = 4


@dataclass(frozen=True)
class Facts:
    """Facts of one bundle.

    Attributes:
        sha256: hash of its manifest.
        model: name of the Triton model that answers requests with files.
        engine: name of its engine.
        precision: precision of its graphs.
        max_batch: largest number of images in one run of the image encoder.
        capabilities: compute capabilities of its plans; empty if it runs on any machine.
        from_ampere: whether plans run on every GPU from compute capability 8.0.
        members: number of networks whose probabilities are averaged; 1 unless the bundle is an ensemble.
        graph_bytes: size of the three graphs of each member with their weights, once for each instance that holds them.
        bytes: size of all files.
        pixel_bytes: size of one preprocessed image.
        feature_bytes: size of all members' features of the largest number of prompts, each of the largest length.
        activation_bytes: memory of all instances of the three graphs of all members while each runs at its largest
            size.
        instances: number of processes of the model `lrclr`.
        gpu: whether a server gets a GPU.
    """

    sha256: str
    model: str
    engine: str
    precision: str
    max_batch: int
    capabilities: tuple[str, ...]
    from_ampere: bool
    members: int
    graph_bytes: int
    bytes: int
    pixel_bytes: int
    feature_bytes: int
    activation_bytes: int
    instances: int
    gpu: bool

    @classmethod
    def of(cls, bundle: Bundle, options: DeployOptions) -> Facts:
        """Read the facts of a bundle.

        Raises:
            UsageError: the options exclude a GPU that the engine needs, or Triton cannot serve the plans.
        """
        manifest = bundle.manifest
        engine = manifest.engine["name"]
        if options.gpu is False and engine == "tensorrt":
            raise UsageError(
                "the bundle is served by TensorRT, which needs a GPU",
                fix=f"Omit --cpu-only, or run: lrclr build {bundle.path} --engine onnxruntime",
            )
        bundle.require_servable()
        plans = manifest.served_plans
        files, names = manifest.files, manifest.names
        return cls(
            sha256=bundle.sha256,
            model=names.classifier,
            engine=engine,
            precision=manifest.precision,
            max_batch=manifest.max_batch,
            capabilities=tuple(sorted({one for entry in plans for one in entry["compute_capabilities"]}, key=float)),
            from_ampere=any(entry["options"]["hardware_compatible"] == "ampere+" for entry in plans),
            members=len(manifest.members),
            graph_bytes=sum(
                _instances(bundle, model) * _bytes_of_graph(files, names.folder(model)) for model in names.graphs
            ),
            bytes=sum(int(entry["bytes"]) for entry in files.values()),
            pixel_bytes=3 * manifest.model["vision_config"]["image_size"] ** 2 * _FLOAT,
            feature_bytes=sum(map(_features, manifest.members)),
            activation_bytes=sum(_activations(each, manifest.serving) for each in manifest.members),
            instances=options.instances or _instances(bundle, names.classifier),
            gpu=engine.startswith("tensorrt") if options.gpu is None else options.gpu,
        )


def _bytes_of_graph(files: Mapping[str, FileEntry], folder: str) -> int:
    graph = f"{folder}/model.onnx"
    return sum(int(files[name]["bytes"]) for name in (graph, f"{graph}.data") if name in files)


def _features(manifest: Manifest) -> int:
    largest = manifest.profiles[-1]
    return largest["prompts"][2] * largest["tokens"][2] * int(manifest.model["text_config"]["hidden_size"]) * _FLOAT


def _activations(manifest: Manifest, serving: ServingSettings) -> int:
    """Bytes of one block of each instance of a graph: tokens, queries, keys, values, attention maps, and hidden values
    of the MLP.
    """
    model, largest = manifest.model, manifest.profiles[-1]
    vision, text = model["vision_config"], model["text_config"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    prompts, tokens = largest["prompts"][2], largest["tokens"][2]
    regions = int(manifest.graphs["image_encoder"]["outputs"]["region_tokens"]["shape"][1])
    # The fusion head runs all pairs of one image with the prompts together.
    rows = max(budget.FUSION_ROWS, prompts * (regions + tokens))
    fusion = {
        "hidden_size": model["fusion_hidden_size"],
        "intermediate_size": model["fusion_intermediate_size"],
        "num_attention_heads": model["fusion_num_heads"],
    }
    return (
        serving.encoder_instances * _block(vision, manifest.max_batch * patches, patches)
        + _block(text, prompts * tokens, tokens)
        + serving.fusion_instances * _block(fusion, rows, regions + tokens)
    )


def _block(sizes: Mapping[str, Any], rows: int, length: int) -> int:
    widths = 6 * sizes["hidden_size"] + 2 * sizes["intermediate_size"] + 2 * sizes["num_attention_heads"] * length
    return int(rows * widths * _FLOAT)


def _instances(bundle: Bundle, model: str) -> int:
    """Instances of one model of the bundle, by its configuration."""
    from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
    from tritonclient.grpc import model_config_pb2

    text = (bundle.path / model / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    return sum(int(group.count) for group in config.instance_group)
