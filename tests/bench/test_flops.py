"""Operations counted from a configuration equal those that torch counts while it runs the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lrclr.bench import Case, Network
from lrclr.engines import TorchEngine

if TYPE_CHECKING:
    from lrclr.bench import Stage
    from lrclr.checkpoints import Checkpoint


def counted(engine: TorchEngine, graph: str, inputs: dict[str, np.ndarray]) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        engine.run(graph, inputs)
    return float(counter.get_total_flops())


@pytest.mark.parametrize("batch", [1, 3])
def test_counts_equal_torchs_counts(tiny_checkpoint: Checkpoint, batch: int) -> None:
    config, engine = tiny_checkpoint.config, TorchEngine(tiny_checkpoint.model)
    tokens = tiny_checkpoint.tokenizer.encode(tiny_checkpoint.findings.prompts)
    prompts, length = tokens.input_ids.shape
    network = Network.of_config(config.to_dict(), length)
    side = config.vision_config.image_size
    image_inputs = {"pixel_values": np.random.default_rng(0).normal(size=(batch, 3, side, side)).astype(np.float32)}
    text_inputs = {"input_ids": tokens.input_ids}
    image, text = engine.run("image_encoder", image_inputs), engine.run("text_encoder", text_inputs)
    pairs = {
        "region_tokens": image["region_tokens"],
        "text_tokens": text["text_tokens"],
        "text_mask": tokens.mask,
    }
    expected: dict[Stage, float] = {
        "image_encoder": counted(engine, "image_encoder", image_inputs),
        "text_encoder": counted(engine, "text_encoder", text_inputs),
        "fusion_head": counted(engine, "fusion_head", pairs),
    }
    for stage, flops in expected.items():
        case = Case("one", stage, 0 if stage == "text_encoder" else batch, 0 if stage == "image_encoder" else prompts)
        cost = network.cost(case, "fp32")
        assert cost is not None
        # Products of vectors and matrices in the attention rollout are not counted. They are a larger part of a tiny
        # network.
        assert cost.flops == pytest.approx(flops, rel=0.05), stage
        assert cost.traffic > 0
    whole = network.cost(Case("one", "classifier", batch, prompts), "fp32")
    assert whole is not None
    assert whole.flops == pytest.approx(expected["image_encoder"] + expected["fusion_head"], rel=0.05)


def test_bytes_of_weights_equal_those_of_the_network(tiny_checkpoint: Checkpoint) -> None:
    network = Network.of_config(tiny_checkpoint.config.to_dict(), 8)
    vision = [*tiny_checkpoint.model.vision_model.parameters(), tiny_checkpoint.model.visual_projection.weight]
    fp32, fp16 = (network.cost(Case("one", "image_encoder", 1, 0), kind) for kind in ("fp32", "fp16"))
    assert fp32 is not None
    assert fp16 is not None
    # Half precision saves half of the weights, apart from norms and biases.
    assert 2 * (fp32.traffic - fp16.traffic) == pytest.approx(
        4 * sum(parameter.numel() for parameter in vision), rel=0.03
    )


def test_reading_files_has_no_matrix_products(tiny_checkpoint: Checkpoint) -> None:
    network = Network.of_config(tiny_checkpoint.config.to_dict(), 8)
    assert network.cost(Case("one", "files", 1, 4), "fp32") is None
