"""Who is compared, what each needs to be had, and what was found that it cannot do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lrclr.engines import ENGINES
from lrclr.errors import UsageError
from lrclr.verification import Tolerances

BASELINE = "torch eager"
RANDOM, TRAINED = "vit-b-32", "default"
_BOTH, _SHAPE = (RANDOM, TRAINED), (RANDOM,)
_NO_REGIONS = "no regions, no gates"
_TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Candidate:
    """One way to answer.

    Attributes:
        name: in every table.
        precision: what its products compute in: ``"fp32"``, ``"16 bit"``, ``"int8"``, or ``"int8 weights"``.
        adapter: module in `benchmarks.peers.adapters`; "" for a peer that cannot be had, whose installation is tried.
        options: of the adapter.
        environment: its own, by name; "" for the project's.
        requirements: what pip is asked for, for a user who has nothing.
        commands: what a user types or writes after that, up to the first answer.
        cannot: what was found, by running it or in its source.
        checkpoints: which ones its format can hold.
        processor: flags of a processor of which it needs one.
        ours: whether it is lrclr.
    """

    name: str
    precision: str
    adapter: str
    options: dict[str, str] = field(default_factory=dict)
    environment: str = ""
    requirements: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = _BOTH
    processor: tuple[str, ...] = ()
    ours: bool = False


_EXPORT = "torch.onnx.export, a wrapper for each tower"

PEERS: tuple[Candidate, ...] = (
    Candidate(
        BASELINE,
        "fp32",
        "torch_clip",
        {"attention": "eager"},
        requirements=(_TORCH, "transformers==5.23.0"),
        commands=("CLIPModel.from_pretrained(..., attn_implementation='eager')",),
        cannot=(_NO_REGIONS,),
    ),
    Candidate(
        "torch eager, sdpa",
        "fp32",
        "torch_clip",
        {"attention": "sdpa"},
        requirements=(_TORCH, "transformers==5.23.0"),
        commands=("CLIPModel.from_pretrained(...)",),
        cannot=(_NO_REGIONS,),
    ),
    Candidate(
        "torch.onnx, ONNX Runtime",
        "fp32",
        "plain_onnx",
        {"provider": "CPUExecutionProvider"},
        requirements=("onnxruntime==1.32.0",),
        commands=(_EXPORT, "InferenceSession"),
        cannot=(_NO_REGIONS, "tokenizer and preprocessing are the user's"),
    ),
    Candidate(
        "OpenVINO straight, f32",
        "fp32",
        "openvino_straight",
        {"precision": "f32"},
        environment="openvino",
        requirements=("openvino==2026.4.1",),
        commands=(_EXPORT, "Core().compile_model"),
        cannot=(_NO_REGIONS, "tokenizer and preprocessing are the user's"),
    ),
    Candidate(
        "OpenVINO straight, bf16",
        "16 bit",
        "openvino_straight",
        {"precision": "bf16"},
        environment="openvino",
        requirements=("openvino==2026.4.1",),
        commands=(_EXPORT, "Core().compile_model, INFERENCE_PRECISION_HINT bf16"),
        cannot=(_NO_REGIONS, "tokenizer and preprocessing are the user's"),
        processor=("avx512_bf16", "amx_bf16"),
    ),
    Candidate(
        "OpenVINO straight, int8 by NNCF",
        "int8",
        "openvino_straight",
        {"precision": "int8"},
        environment="openvino",
        requirements=("openvino==2026.4.1", "nncf==3.4.0"),
        commands=(_EXPORT, "nncf.quantize on images and prompts of the user's choice", "Core().compile_model"),
        cannot=(_NO_REGIONS, "tokenizer and preprocessing are the user's", "nothing judges what was lost"),
    ),
    Candidate(
        "onnxruntime-openvino",
        "fp32",
        "plain_onnx",
        {"provider": "OpenVINOExecutionProvider"},
        environment="onnxruntime-openvino",
        requirements=("onnxruntime-openvino==1.24.1",),
        commands=(_EXPORT, "InferenceSession(providers=['OpenVINOExecutionProvider'])"),
        cannot=(
            _NO_REGIONS,
            "tokenizer and preprocessing are the user's",
            "takes onnxruntime's place, eight releases back",
        ),
    ),
    Candidate(
        "optimum-onnx",
        "fp32",
        "optimum_onnx",
        environment="optimum-onnx",
        requirements=(_TORCH, "optimum-onnx[onnxruntime]==0.1.0"),
        commands=(
            "optimum-cli export onnx --task zero-shot-image-classification",
            "ORTModelForZeroShotImageClassification",
        ),
        cannot=(_NO_REGIONS, "neither tower alone: one graph wants both inputs", "wants transformers below 4.58"),
    ),
    Candidate(
        "modern-onnx-clip",
        "fp32",
        "modern_onnx_clip",
        environment="modern-onnx-clip",
        requirements=("modern-onnx-clip==0.2.0", "onnxruntime==1.32.0"),
        commands=(_EXPORT, "a folder laid out by hand: its exporter reads open_clip's models only", "OnnxClip(folder)"),
        cannot=(_NO_REGIONS, "prompts always padded to the context", "no probabilities", "threads cannot be set"),
        checkpoints=_SHAPE,
    ),
    Candidate(
        "transformers pipeline",
        "fp32",
        "pipeline",
        requirements=(_TORCH, "transformers==5.23.0", "pillow==13.0.0"),
        commands=("pipeline('zero-shot-image-classification', ...)",),
        cannot=(_NO_REGIONS, "encodes the prompts again for every picture", "one picture at a time"),
        checkpoints=_SHAPE,
    ),
    Candidate(
        "faster-clip",
        "int8 weights",
        "faster_clip",
        environment="faster-clip",
        requirements=("faster-clip==0.4.0",),
        commands=("weights laid by hand where its download would lie", "ClipModel().encode_image"),
        cannot=(
            _NO_REGIONS,
            "ViT-B/32 only, and no switch for own weights",
            "its text tower is another model, which could not be downloaded: no prompts",
            "int8 storage of the weights only, computes in float32",
            "no probabilities",
        ),
        checkpoints=_SHAPE,
    ),
    Candidate(
        "infinity-emb",
        "fp32",
        "infinity",
        environment="infinity-emb",
        requirements=(_TORCH, "infinity-emb[torch]==0.0.78", "pillow==13.0.0"),
        commands=("SyncEngineArray.from_args([EngineArgs(model_name_or_path=folder, bettertransformer=False)])",),
        cannot=(_NO_REGIONS, "pictures only, no tensors", "no probabilities", "wants numpy below 2"),
        checkpoints=_SHAPE,
    ),
    Candidate(
        "zentorch",
        "fp32",
        "torch_clip",
        {"attention": "sdpa", "compile": "zentorch"},
        environment="zentorch",
        requirements=(_TORCH, "transformers==5.23.0", "zentorch==2.13.0.2"),
        commands=("import zentorch", "torch.compile(..., backend='zentorch')"),
        cannot=(_NO_REGIONS, "compiles anew in every process and for every batch size", "one release for each torch"),
    ),
    Candidate(
        "torch.compile, frozen",
        "fp32",
        "torch_clip",
        {"attention": "sdpa", "compile": "inductor"},
        requirements=(_TORCH, "transformers==5.23.0"),
        commands=("apt-get install g++", "torch.compile, inductor's freezing switched on"),
        cannot=(_NO_REGIONS, "compiles anew in every process and for every batch size", "needs a C++ compiler"),
    ),
    Candidate(
        "clip-server",
        "fp32",
        "",
        environment="clip-server",
        requirements=("clip-server[onnx]==0.8.3",),
    ),
    Candidate("TensorRT", "16 bit", "", environment="tensorrt", requirements=("tensorrt==11.4.0.106",)),
)


def ours() -> tuple[Candidate, ...]:
    """lrclr with every engine that it has on every precision that it knows, and torch."""
    return (
        _ours("torch", "fp32", (_TORCH, "transformers==5.23.0")),
        *(
            _ours(engine, precision, (_REQUIRED[engine],) if engine in _REQUIRED else ())
            for engine in ENGINES
            for precision in precisions()
        ),
    )


_REQUIRED = {"onnxruntime": "onnxruntime==1.32.0", "openvino": "openvino==2026.4.1"}


def _ours(engine: str, precision: str, requirements: tuple[str, ...]) -> Candidate:
    return Candidate(
        f"lrclr, {engine} {precision}",
        "16 bit" if precision == "fp16" else precision,
        "lrclr_classifier",
        {"engine": engine, "precision": precision},
        requirements=("lrclr", *requirements),
        commands=("lrclr.ZeroShotClassifier.from_checkpoint",)
        if engine == "torch"
        else (f"lrclr export CHECKPOINT --{precision}", "lrclr predict IMAGE"),
        ours=True,
    )


def precisions() -> tuple[str, ...]:
    """Those that lrclr exports."""
    known = []
    for precision in ("fp32", "fp16", "int8"):
        try:
            Tolerances.for_precision(precision)
        except UsageError:
            continue
        known.append(precision)
    return tuple(known)


def lacking(candidate: Candidate, flags: set[str]) -> str:
    """Why this processor cannot run it; "" if it can."""
    if candidate.processor and not flags & set(candidate.processor):
        return f"this processor has none of {', '.join(candidate.processor)}"
    return ""


def processor_flags() -> set[str]:
    """What this machine's processor says that it can do; nothing where it is not Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
