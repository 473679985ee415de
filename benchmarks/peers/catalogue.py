"""The candidates of the comparison: how each is installed, what it reads, and what it cannot do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BASELINE = "torch eager"
RANDOM, TRAINED = "vit-b-32", "default"
PRECISIONS = ("fp32", "fp16", "int8")
"""Precisions in which lrclr exports bundles."""

_BOTH, _SHAPE = (RANDOM, TRAINED), (RANDOM,)
_TORCH, _TRANSFORMERS = "torch==2.13.0", "transformers==5.23.0"
_OPENVINO, _ONNXRUNTIME = "openvino==2026.4.1", "onnxruntime==1.32.0"
_EXPORT = "torch.onnx.export, a wrapper for each tower"
_NO_REGIONS = "no regions, no gates"
_TOWERS_ONLY = (_NO_REGIONS, "the user writes tokenizer and preprocessing")
_COMPILES = "compiles in every process and for every batch size"


@dataclass(frozen=True)
class Candidate:
    """One program that answers with the common weights.

    Attributes:
        name: name in every table.
        precision: type in which its products are computed: ``"fp32"``, ``"16 bit"``, ``"int8"``, or ``"int8 weights"``.
        adapter: module in `benchmarks.peers.adapters`; "" for a peer of which only the installation is tried.
        requirements: packages from which its environment is made.
        options: options of the adapter.
        formats: adapters whose `prepare` writes the files that it reads, in this order.
        commands: what a user types or writes after the installation, up to the first answer.
        cannot: limits that were found by running it or in its source.
        checkpoints: checkpoints that its format can hold.
        processor: flags of the processor, of which it needs one.
        ours: whether it is lrclr.
    """

    name: str
    precision: str
    adapter: str
    requirements: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)
    formats: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = _BOTH
    processor: tuple[str, ...] = ()
    ours: bool = False

    @property
    def environment(self) -> str:
        """Name of its environment, made from the requirements. Candidates with the same ones share it."""
        return re.sub(r"[^\w.]+", "-", " ".join(self.requirements)).strip("-")


PEERS: tuple[Candidate, ...] = (
    Candidate(
        BASELINE,
        "fp32",
        "torch_clip",
        (_TORCH, _TRANSFORMERS),
        {"attention": "eager"},
        commands=("CLIPModel.from_pretrained(..., attn_implementation='eager')",),
        cannot=(_NO_REGIONS,),
    ),
    Candidate(
        "torch eager, sdpa",
        "fp32",
        "torch_clip",
        (_TORCH, _TRANSFORMERS),
        {"attention": "sdpa"},
        commands=("CLIPModel.from_pretrained(...)",),
        cannot=(_NO_REGIONS,),
    ),
    Candidate(
        "torch.onnx, ONNX Runtime",
        "fp32",
        "plain_onnx",
        (_ONNXRUNTIME,),
        {"provider": "CPUExecutionProvider"},
        formats=("plain_onnx",),
        commands=(_EXPORT, "InferenceSession"),
        cannot=_TOWERS_ONLY,
    ),
    Candidate(
        "OpenVINO straight, f32",
        "fp32",
        "openvino_straight",
        (_OPENVINO,),
        {"precision": "f32"},
        formats=("plain_onnx",),
        commands=(_EXPORT, "Core().compile_model"),
        cannot=_TOWERS_ONLY,
    ),
    Candidate(
        "OpenVINO straight, bf16",
        "16 bit",
        "openvino_straight",
        (_OPENVINO,),
        {"precision": "bf16"},
        formats=("plain_onnx",),
        commands=(_EXPORT, "Core().compile_model, INFERENCE_PRECISION_HINT bf16"),
        cannot=_TOWERS_ONLY,
        processor=("avx512_bf16", "amx_bf16"),
    ),
    Candidate(
        "OpenVINO straight, int8 by NNCF",
        "int8",
        "openvino_straight",
        (_OPENVINO, "nncf==3.4.0"),
        {"precision": "int8"},
        formats=("plain_onnx", "openvino_straight"),
        commands=(_EXPORT, "nncf.quantize on images and prompts of the user's choice", "Core().compile_model"),
        cannot=(*_TOWERS_ONLY, "does not check what was lost"),
    ),
    Candidate(
        "onnxruntime-openvino",
        "fp32",
        "plain_onnx",
        ("onnxruntime-openvino==1.24.1",),
        {"provider": "OpenVINOExecutionProvider"},
        formats=("plain_onnx",),
        commands=(_EXPORT, "InferenceSession(providers=['OpenVINOExecutionProvider'])"),
        cannot=(*_TOWERS_ONLY, "replaces the package onnxruntime, eight releases back"),
    ),
    Candidate(
        "optimum-onnx",
        "fp32",
        "optimum_onnx",
        (_TORCH, "optimum-onnx[onnxruntime]==0.1.0"),
        formats=("optimum_onnx",),
        commands=(
            "optimum-cli export onnx --task zero-shot-image-classification",
            "ORTModelForZeroShotImageClassification",
        ),
        cannot=(_NO_REGIONS, "one graph with both inputs: neither tower alone", "needs transformers below 4.58"),
    ),
    Candidate(
        "modern-onnx-clip",
        "fp32",
        "modern_onnx_clip",
        ("modern-onnx-clip==0.2.0", _ONNXRUNTIME),
        formats=("plain_onnx", "modern_onnx_clip"),
        commands=(_EXPORT, "a folder laid out by hand: its exporter reads open_clip's models only", "OnnxClip(folder)"),
        cannot=(_NO_REGIONS, "pads prompts to the context", "no probabilities", "threads cannot be set"),
        checkpoints=_SHAPE,
    ),
    Candidate(
        "transformers pipeline",
        "fp32",
        "pipeline",
        (_TORCH, _TRANSFORMERS, "pillow==13.0.0"),
        commands=("pipeline('zero-shot-image-classification', ...)",),
        cannot=(_NO_REGIONS, "encodes the prompts again for every picture", "one picture at a time"),
        checkpoints=_SHAPE,
    ),
    Candidate(
        "faster-clip",
        "int8 weights",
        "faster_clip",
        ("faster-clip==0.4.0", "pillow==13.0.0"),
        formats=("faster_clip",),
        commands=("weights put by hand where its download would be", "ClipModel().encode_image"),
        cannot=(
            _NO_REGIONS,
            "ViT-B/32 only, without an option for own weights",
            "no prompts: its text tower is another model, which could not be downloaded",
            "stores weights in int8, computes in float32",
            "no probabilities",
        ),
        checkpoints=_SHAPE,
    ),
    Candidate(
        "infinity-emb",
        "fp32",
        "infinity",
        (_TORCH, "infinity-emb[torch]==0.0.78", "aiohttp==3.13.2", "pillow==13.0.0"),
        commands=("SyncEngineArray.from_args([EngineArgs(model_name_or_path=folder, bettertransformer=False)])",),
        cannot=(_NO_REGIONS, "takes pictures, not tensors", "no probabilities", "needs numpy below 2"),
        checkpoints=_SHAPE,
    ),
    Candidate(
        "zentorch",
        "fp32",
        "torch_clip",
        (_TORCH, _TRANSFORMERS, "zentorch==2.13.0.2"),
        {"attention": "sdpa", "compile": "zentorch"},
        commands=("import zentorch", "torch.compile(..., backend='zentorch')"),
        cannot=(_NO_REGIONS, _COMPILES, "one release for each torch"),
    ),
    Candidate(
        "torch.compile, frozen",
        "fp32",
        "torch_clip",
        (_TORCH, _TRANSFORMERS),
        {"attention": "sdpa", "compile": "inductor"},
        commands=("apt-get install g++", "torch.compile, with inductor's freezing"),
        cannot=(_NO_REGIONS, _COMPILES, "needs a C++ compiler"),
    ),
    Candidate("clip-server", "fp32", "", ("clip-server[onnx]==0.8.3",)),
    Candidate("TensorRT", "16 bit", "", ("tensorrt==11.4.0.106",)),
)

OURS: tuple[Candidate, ...] = tuple(
    Candidate(
        f"lrclr, {engine} {precision}",
        "16 bit" if precision == "fp16" else precision,
        "lrclr_classifier",
        (f"lrclr[{engine}]",),
        {"engine": engine, "precision": precision},
        commands=("lrclr.ZeroShotClassifier.from_checkpoint",)
        if engine == "torch"
        else (f"lrclr export CHECKPOINT --{precision}", "lrclr predict IMAGE"),
        ours=True,
    )
    for engine, precision in (
        ("torch", "fp32"),
        *((engine, precision) for engine in ("onnxruntime", "openvino") for precision in PRECISIONS),
    )
)
"""lrclr with torch, and with each engine for the CPU in each precision."""


def missing_flags(candidate: Candidate, flags: set[str]) -> str:
    """The reason why a processor with these flags cannot run the candidate; "" if it can."""
    if candidate.processor and not flags & set(candidate.processor):
        return f"this processor has none of {', '.join(candidate.processor)}"
    return ""
