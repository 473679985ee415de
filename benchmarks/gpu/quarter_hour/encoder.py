"""Command 2: the cost of region selection in the fp16 image encoder. ``python -m benchmarks.gpu.quarter_hour.encoder``.

torch's image encoder with random weights in CUDA graphs, in four variants:
  maps         eager attention; regions are selected from its float32 maps by torch's own operators
  maps alone   the same without selection: the cost of writing the maps
  kernel       fused attention; the region kernel computes the maps again from the layers' queries and keys
  no regions   fused attention, nothing is selected; the last block runs for the first 13 tokens

All variants compute the last block for CLS and the selected tokens only.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface

from benchmarks.gpu.launch import launch
from benchmarks.gpu.quarter_hour.common import (
    NETWORKS,
    TINY,
    Network,
    measure,
    milliseconds,
    parser,
    select_unchecked,
    start,
)
from lrclr.checkpoints import ARCHITECTURES
from lrclr.model import LrclrConfig, LrclrModel, Regions, select_regions
from lrclr.model.attention import attend, split_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from benchmarks.gpu.quarter_hour.record import Record

BATCHES = (1, 8, 32, 64)
FUSED = "benchmark_fused"


class _QueriesKeys:
    """Collects the layers' queries and keys ``[B, N, H, C]``."""

    def __init__(self) -> None:
        self.queries: list[Tensor] = []
        self.keys: list[Tensor] = []


def _fused_attention(
    module: torch.nn.Module,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    recorder: _QueriesKeys | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    if recorder is not None:
        recorder.queries.append(query.transpose(1, 2))
        recorder.keys.append(key.transpose(1, 2))
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=scaling)
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(FUSED, _fused_attention)


def model_of(network: Network, device: str) -> LrclrModel:
    """The network with random weights, fp16 on a GPU and fp32 on a CPU, made on the device."""
    given = ARCHITECTURES[network.architecture]
    vision = {**given["vision_config"], "image_size": network.image_size}
    torch.manual_seed(0)
    with torch.device(device):
        model = LrclrModel(LrclrConfig(**{**given, "vision_config": vision}))
    model.text_model = None
    made: LrclrModel = model.to(device, torch.float16 if device == "cuda" else torch.float32).eval()
    return made


def encode_fused(model: LrclrModel, pixels: Tensor, select: Callable[..., Regions] | None) -> tuple[Tensor, Tensor]:
    """The image encoder with fused attention; `select` takes queries, keys, start row, tokens, k and mean."""
    vision, recorder = model.vision_model, _QueriesKeys()
    attention_of = vision.config._attn_implementation  # noqa: SLF001 - transformers' switch of the attention
    vision.config._attn_implementation = FUSED  # noqa: SLF001
    try:
        hidden = vision.pre_layrnorm(vision.embeddings(pixels))
        layers = vision.encoder.layers
        for layer in layers[:-1]:
            hidden = layer(hidden, None, recorder=recorder if select else None)
    finally:
        vision.config._attn_implementation = attention_of  # noqa: SLF001
    last, attention = layers[-1], layers[-1].self_attn
    normed = last.layer_norm1(hidden)
    key, value = (split_heads(part(normed), attention.num_heads) for part in (attention.k_proj, attention.v_proj))
    if select is None:
        rows = hidden[:, : 1 + attention.num_heads].contiguous()
    else:
        first = split_heads(attention.q_proj(normed[:, :1]), attention.num_heads)
        _, start = attend(first, key, value, None, attention.scale)
        rows = select(recorder.queries, recorder.keys, start[:, :, 0], hidden, 1, False).tokens
    query = split_heads(attention.q_proj(last.layer_norm1(rows)), attention.num_heads)
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=attention.scale)
    rows = rows + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    rows = rows + last.mlp(last.layer_norm2(rows))
    embedding = model.visual_projection(vision.post_layernorm(rows[:, 0])).float()
    return embedding / embedding.square().sum(-1, keepdim=True).sqrt(), rows


def _kernel_qk(*given: Any) -> Regions:
    return Regions(*launch(*given))


def _reference_qk(queries: Sequence[Tensor], keys: Sequence[Tensor], start: Tensor, *rest: Any) -> Regions:
    pairs = zip(queries, keys, strict=True)
    maps = [(query.transpose(1, 2) @ key.permute(0, 2, 3, 1) * 64**-0.5).float().softmax(-1) for query, key in pairs]
    return select_regions([*maps, start[:, :, None]], *rest)


def _no_kernel(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool, prefix: int) -> Regions:  # noqa: ARG001
    """Take the first tokens. The layers still write their maps."""
    index = torch.zeros((tokens.shape[0], maps[0].shape[1]), dtype=torch.int64, device=tokens.device)
    return Regions(tokens[:, : 1 + maps[0].shape[1]].contiguous(), index, index.float())


def variants(model: LrclrModel, pixels: Tensor, device: str) -> dict[str, Callable[[], Any]]:
    """The four ways to run the encoder."""
    select_qk = _kernel_qk if device == "cuda" else _reference_qk
    return {
        "maps": lambda: model.encode_image(pixels, select=select_unchecked, prune=True),
        "maps alone": lambda: model.encode_image(pixels, select=_no_kernel, prune=True),
        "kernel": lambda: encode_fused(model, pixels, select_qk),
        "no regions": lambda: encode_fused(model, pixels, None),
    }


def main() -> None:
    """Run all sizes."""
    given = parser(__doc__, "encoder").parse_args()
    record = start(given.output, "encoder", given.device)
    networks, batches = (TINY, (1,)) if given.device == "cpu" else (NETWORKS, BATCHES)
    with torch.inference_mode():
        for network in networks:
            models: list[LrclrModel] = []
            measure(record, f"weights: {network.name}", lambda: _weights(network, given.device, models))  # noqa: B023
            if models:
                for batch in batches:
                    _measure(record, given.device, network, models[0], batch)
            models.clear()
            if given.device == "cuda":
                torch.cuda.empty_cache()
    sys.exit(int(bool(record.failed)))


def _weights(network: Network, device: str, models: list[LrclrModel]) -> dict[str, Any]:
    models.append(model_of(network, device))
    parameters = models[0].vision_model.parameters()
    return {"network": network.name, "bytes": sum(one.numel() * one.element_size() for one in parameters)}


def _measure(record: Record, device: str, network: Network, model: LrclrModel, batch: int) -> None:
    random = torch.Generator(device).manual_seed(batch)
    side = network.image_size
    pixels = torch.randn(batch, 3, side, side, generator=random, device=device).to(next(model.parameters()).dtype)
    common = {"network": network.name, "batch": batch}
    runs = variants(model, pixels, device)

    def agreement() -> dict[str, Any]:
        ours, (embedding, _) = runs["maps"](), runs["kernel"]()
        cosine = float((ours.embedding * embedding).sum(-1).min())
        finite = bool(runs["no regions"]()[0].isfinite().all())
        return {**common, "cosine_of_maps_and_qk": cosine, "finite": finite}

    def timed(name: str) -> dict[str, Any]:
        peak = 0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            runs[name]()
            peak = torch.cuda.max_memory_allocated() - before
        return {**common, "variant": name, "ms": milliseconds([runs[name]], device), "activation_bytes": peak}

    measure(record, f"agreement: {network.name}, batch {batch}", agreement)
    for name in runs:
        measure(record, f"encoder: {name}, {network.name}, batch {batch}", partial(timed, name))


if __name__ == "__main__":
    main()
