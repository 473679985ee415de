"""Second stage: tunes the base on images and sentences of their reports, with LRCLR's loss or CheXzero's.

::

    python -m benchmarks.checkpoint.tune build/phantom/manifest.csv --base build/base.pt -o build/lrclr
    python -m benchmarks.checkpoint.tune build/phantom/manifest.csv --base build/base.pt -o build/global --local none

Both use the same images, sentences and augmentation, in the same order. Neither uses masks or labels.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.checkpoint.base import rate_at
from benchmarks.checkpoint.images import SIZE, augmented, read_split, row_batches
from benchmarks.checkpoint.network import CONTEXT, network
from benchmarks.checkpoint.vocabulary import learn_tokenizer
from lrclr.checkpoints import Checkpoint
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import FindingSet
from lrclr.training import ContrastiveTask, LossSettings

if TYPE_CHECKING:
    from lrclr.model import LrclrModel
    from lrclr.training import LocalLoss

_BATCH, _WARM_UP = 32, 100
_TOWER_RATE, _RATE = 3e-4, 1e-3
_FROZEN_LAYERS = 3  # the first layers detect edges, which the base has learnt
_ALPHA = 0.5


def tune(dataset: Path, base: Path, output: Path, *, local: LocalLoss, epochs: float, seed: int) -> None:
    """Tune the base and write a checkpoint folder."""
    torch.manual_seed(seed)
    data = read_split(dataset, "train")
    tokenizer = learn_tokenizer(data.reports, context_length=CONTEXT)
    model = network(vocabulary=tokenizer.vocab_size)
    model.vision_model.load_state_dict(torch.load(base, weights_only=True))
    task = ContrastiveTask(model, LossSettings(local=local, pairs_at_once=0))
    optimizer = _optimizer(model)
    steps = int(epochs * len(data.images) / _BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps, _WARM_UP))
    rng, order = torch.Generator().manual_seed(seed + 1), np.random.default_rng(seed + 2)
    began = time.monotonic()
    for step, chosen in enumerate(row_batches(len(data.images), _BATCH, steps, order), 1):
        pixel_values, _ = augmented(data.images[chosen], None, rng)
        texts = [_some_sentences(data.reports[row], order) for row in chosen]
        tokens = tokenizer.encode(texts, truncate=True)
        distinct = {text.lower(): number for number, text in enumerate(texts)}
        key = torch.tensor([distinct[text.lower()] for text in texts])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = task(pixel_values, torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.mask), key)
        optimizer.zero_grad()
        result["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(100))
        if step % 100 == 0:
            parts = ", ".join(f"{name} {value.item():.3f}" for name, value in result.items())
            rate = step * _BATCH / (time.monotonic() - began)
            sys.stderr.write(f"step {step} of {steps}: {parts}, {rate:.0f} images/s\n")
    model.eval()
    model.config.fusion_trained = local != "none"
    model.config.alpha = _ALPHA
    # With the contrastive temperature a softmax over scores is a probability.
    model.config.score_scale = model.logit_scale.exp().item()
    findings = FindingSet.load(Path(__file__).with_name("findings.toml"))
    spec = PreprocessSpec.clip(SIZE)
    Checkpoint(model, tokenizer, spec, findings, source="lrclr", sha256="").save(output, overwrite=True)


def _optimizer(model: LrclrModel) -> torch.optim.Optimizer:
    vision = model.vision_model
    for part in (vision.embeddings, vision.pre_layrnorm, *vision.encoder.layers[:_FROZEN_LAYERS]):
        part.requires_grad_(False)
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim > 1 and "embedding" not in name
            groups.setdefault((name.startswith("vision_model"), decays), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": some, "lr": _TOWER_RATE if in_tower else _RATE, "weight_decay": 0.05 if decays else 0.0}
            for (in_tower, decays), some in groups.items()
        ],
        betas=(0.9, 0.98),
    )


def _some_sentences(report: str, rng: np.random.Generator) -> str:
    """One or two sentences, since prompts are shorter than reports and short texts make the fusion head fast."""
    sentences = re.findall(r"[^.]+\.", report)
    count = int(rng.integers(1, min(3, len(sentences) + 1)))
    return " ".join(sentences[at].strip() for at in rng.permutation(len(sentences))[:count])


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.tune", description="Tune the base on reports.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the phantom data set")
    parser.add_argument("--base", type=Path, required=True, help="weights that benchmarks.checkpoint.base wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--local", choices=("none", "pair", "pair+words"), default="pair+words", help="local loss")
    parser.add_argument("--epochs", type=float, default=4.8, help="passes through the training split")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    options = parser.parse_args()
    tune(
        options.dataset,
        options.base,
        options.output,
        local=options.local,
        epochs=options.epochs,
        seed=options.seed,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
