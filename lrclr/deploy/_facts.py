"""What a bundle says of itself that a cluster must know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrclr.bundle import GRAPHS
from lrclr.contract import MODEL
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from lrclr.bundle import Bundle
    from lrclr.deploy._options import DeployOptions

__all__ = ["Facts"]


@dataclass(frozen=True)
class Facts:
    """Of one bundle.

    Attributes:
        sha256: of its manifest.
        engine: that answers.
        precision: of its graphs.
        max_batch: most images of a request.
        capabilities: compute capabilities of its plans; empty where it runs on any machine.
        from_ampere: whether plans run on every GPU from compute capability 8.0.
        graph_bytes: of the three ONNX files.
        bytes: of all files.
        instances: processes of the model `lrclr`.
        gpu: whether a server gets a GPU.
    """

    sha256: str
    engine: str
    precision: str
    max_batch: int
    capabilities: tuple[str, ...]
    from_ampere: bool
    graph_bytes: int
    bytes: int
    instances: int
    gpu: bool

    @classmethod
    def of(cls, bundle: Bundle, options: DeployOptions) -> Facts:
        """Read them from a bundle whose hashes were checked.

        Raises:
            UsageError: a GPU was refused that its engine needs.
        """
        manifest = bundle.manifest
        engine = manifest.engine["name"]
        if options.gpu is False and engine == "tensorrt":
            raise UsageError(
                "the bundle is served by TensorRT, which needs a GPU",
                fix=f"Leave --cpu-only out, or run: lrclr build {bundle.path} --engine onnxruntime",
            )
        # Plans for TensorRT-RTX are for `lrclr predict`: Triton serves the graphs of such a bundle.
        plans = [entry for entry in manifest.plans if entry["engine"] == engine == "tensorrt"]
        files = manifest.files
        return cls(
            sha256=bundle.sha256,
            engine=engine,
            precision=manifest.precision,
            max_batch=manifest.max_batch,
            capabilities=tuple(sorted({one for entry in plans for one in entry["compute_capabilities"]}, key=float)),
            from_ampere=any(entry["options"]["hardware_compatible"] == "ampere+" for entry in plans),
            graph_bytes=sum(int(files[f"{graph}/1/model.onnx"]["bytes"]) for graph in GRAPHS),
            bytes=sum(int(entry["bytes"]) for entry in files.values()),
            instances=options.instances or _instances(bundle),
            gpu=engine != "onnxruntime" if options.gpu is None else options.gpu,
        )


def _instances(bundle: Bundle) -> int:
    from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
    from tritonclient.grpc import model_config_pb2

    text = (bundle.path / MODEL / "config.pbtxt").read_text(encoding="utf-8")
    model = text_format.Parse(text, model_config_pb2.ModelConfig())
    return sum(int(group.count) for group in model.instance_group)
