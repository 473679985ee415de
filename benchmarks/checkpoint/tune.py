"""Second stage: tunes the base on images and sentences of their reports, with LRCLR's loss or CheXzero's.

::

    python -m benchmarks.checkpoint.tune build/phantom/manifest.csv --base build/base.pt -o build/lrclr
    python -m benchmarks.checkpoint.tune build/phantom/manifest.csv --base build/base.pt -o build/global --local none

Both use the same images, sentences and augmentation, in the same order. Neither uses masks or labels. The same command
continues a run that was stopped.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.checkpoint.images import SIZE, augmented, read_split
from benchmarks.checkpoint.initial import initialise_fusion
from benchmarks.checkpoint.network import CONTEXT, network
from benchmarks.checkpoint.running import BATCH, RowBatches, run_to_end
from benchmarks.checkpoint.vocabulary import learn_tokenizer
from benchmarks.commands import reports_errors
from lrclr._files import sha256_of
from lrclr.checkpoints import Checkpoint
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import FindingSet
from lrclr.training import ContrastiveTask, LossSettings

if TYPE_CHECKING:
    from benchmarks.checkpoint.images import Split
    from lrclr.model import LrclrModel
    from lrclr.training import LocalLoss

__all__ = ["TuneRun"]

_WARM_UP = 100
_TOWER_RATE, _RATE = 3e-4, 1e-3
_FROZEN_LAYERS = 3  # the first layers detect edges, which the base has learnt
_ALPHA = 0.5


class TuneRun:
    """The run that tunes a base; see `benchmarks.checkpoint.running.Run`."""

    def __init__(self, data: Split, base: dict[str, Tensor], *, local: LocalLoss, steps: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.step, self.steps = 0, steps
        self.tokenizer = learn_tokenizer(data.reports, context_length=CONTEXT)
        self.model = network(vocabulary=self.tokenizer.vocab_size)
        self.model.vision_model.load_state_dict(base)
        self._data, self._local = data, local
        initialise_fusion(self.model.fusion_head, torch.Generator().manual_seed(seed + 3))
        self._task = ContrastiveTask(self.model, LossSettings(local=local, pairs_at_once=0))
        self._optimizer = _optimizer(self.model)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)
        self._rng = torch.Generator().manual_seed(seed + 1)
        self._rows = RowBatches(np.arange(len(data.images)), seed + 2)

    def advance(self) -> dict[str, float]:
        """As `Run.advance`."""
        chosen = self._rows.draw()
        pixel_values, _ = augmented(self._data.images[chosen], None, self._rng)
        texts = [_some_sentences(self._data.reports[row], self._rows.rng) for row in chosen]
        tokens = self.tokenizer.encode(texts, truncate=True)
        distinct = {text.lower(): number for number, text in enumerate(texts)}
        key = torch.tensor([distinct[text.lower()] for text in texts])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = self._task(pixel_values, torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.mask), key)
        self._optimizer.zero_grad()
        result["loss"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
        self.step += 1
        return {name: value.item() for name, value in result.items()}

    def state(self) -> dict[str, Any]:
        """As `Run.state`."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "rng": self._rng.get_state(),
            "rows": self._rows.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """As `Run.restore`."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._rng.set_state(state["rng"])
        self._rows.restore(state["rows"])

    def checkpoint(self) -> Checkpoint:
        """The tuned network with tokenizer, preprocessing and findings."""
        self.model.eval()
        self.model.config.fusion_trained = self._local != "none"
        self.model.config.alpha = _ALPHA
        # With the contrastive temperature a softmax over scores is a probability.
        self.model.config.score_scale = self.model.logit_scale.exp().item()
        findings = FindingSet.load(Path(__file__).with_name("findings.toml"))
        return Checkpoint(self.model, self.tokenizer, PreprocessSpec.clip(SIZE), findings, source="lrclr", sha256="")

    def _rate(self, step: int) -> float:
        """Share of the learning rate: a linear warm-up, then a cosine down to a fiftieth."""
        return min(1.0, (step + 1) / _WARM_UP) * (0.49 * (1 + math.cos(math.pi * step / self.steps)) + 0.02)


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


@reports_errors
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
    data = read_split(options.dataset, "train")
    steps = int(options.epochs * len(data.images) / BATCH)
    base = torch.load(options.base, weights_only=True)
    run = TuneRun(data, base, local=options.local, steps=steps, seed=options.seed)
    files = {"dataset": sha256_of(options.dataset), "base": sha256_of(options.base)}
    run_to_end(run, options.output, {**files, "local": options.local, "seed": options.seed, "steps": steps})
    run.checkpoint().save(options.output, overwrite=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
