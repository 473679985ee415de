"""Third stage: tunes the base on views of images and sentences of their reports, with LRCLR's loss or CheXzero's.

::

    python -m benchmarks.checkpoint.tune DATASET --base build/base.pt --views build/views -o build/lrclr
    python -m benchmarks.checkpoint.tune DATASET --base … --views … -o build/global --local-loss none

The image tower stays as the base has it (Zhai et al., LiT, 2022), except for the norm before the projection. Both
losses use the same views and sentences, in the same order. Neither uses masks or labels. The same command continues a
run that was stopped.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.checkpoint.images import SIZES, read_reports
from benchmarks.checkpoint.initial import initialise_fusion
from benchmarks.checkpoint.network import CONTEXT, REGIONS, network
from benchmarks.checkpoint.running import BATCH, RowBatches, average, falling_rate, joined, place, run_to_end, share
from benchmarks.checkpoint.views import read_views, split_of
from benchmarks.checkpoint.vocabulary import learn_tokenizer
from benchmarks.commands import reports_errors
from lrclr._files import sha256_of
from lrclr.checkpoints import Checkpoint
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import FindingSet
from lrclr.training import ContrastiveTask, LossSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.checkpoint.views import Views
    from lrclr.model import LrclrModel
    from lrclr.training import LocalLoss

__all__ = ["TuneRun"]

_WARM_UP = 100
_RATE = 1e-3
_ALPHA = 0.5


class TuneRun:
    """The run that tunes a base; see `benchmarks.checkpoint.running.Run`."""

    def __init__(
        self,
        reports: Sequence[str],
        views: Views,
        base: Mapping[str, Tensor],
        *,
        local: LocalLoss,
        steps: int,
        seed: int,
        regions: int = REGIONS,
    ) -> None:
        torch.manual_seed(seed)
        self.step, self.steps = 0, steps
        self.tokenizer = learn_tokenizer(reports, context_length=CONTEXT)
        self.model = network(vocabulary=self.tokenizer.vocab_size, regions=regions)
        self.model.vision_model.load_state_dict(base)
        self._views, self._local, self._sentences = views, local, Sentences(reports)
        initialise_fusion(self.model.fusion_head, torch.Generator().manual_seed(seed + 3))
        self._task = ContrastiveTask(self.model, LossSettings(local=local, pairs_at_once=0))
        self._optimizer = _optimizer(self.model)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: falling_rate(step, steps, _WARM_UP)
        )
        self._rows = RowBatches(np.arange(len(views.rows)), seed + 2)

    def advance(self) -> dict[str, float]:
        """As `Run.advance`."""
        chosen, mine = torch.from_numpy(self._rows.draw()), share()
        texts = [self._sentences.draw(row, self._rows.rng) for row in self._views.rows[chosen].tolist()]
        tokens = self.tokenizer.encode(texts[mine], truncate=True)
        distinct = {text.lower(): number for number, text in enumerate(texts)}
        key = torch.tensor([distinct[text.lower()] for text in texts[mine]])
        regions = self._views.tokens[chosen[mine], : 1 + self.model.config.region_top_k].float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            image = self.model.visual_projection(self.model.vision_model.pool(regions[:, 0]))
            result = self._task.loss(
                nn.functional.normalize(image.float(), dim=-1),
                regions,
                torch.from_numpy(tokens.input_ids),
                torch.from_numpy(tokens.mask),
                key,
            )
        self._optimizer.zero_grad()
        result["loss"].backward()  # type: ignore[no-untyped-call]  # torch declares no types
        average(each.grad for each in self.model.parameters() if each.grad is not None)
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
            "rows": self._rows.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """As `Run.restore`."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._rows.restore(state["rows"])

    def checkpoint(self) -> Checkpoint:
        """The tuned network with tokenizer, preprocessing and findings."""
        self.model.eval()
        self.model.config.fusion_trained = self._local != "none"
        self.model.config.alpha = _ALPHA
        # With the contrastive temperature a softmax over scores is a probability.
        self.model.config.score_scale = self.model.logit_scale.exp().item()
        findings = FindingSet.load(Path(__file__).with_name("findings.toml"))
        return Checkpoint(
            self.model, self.tokenizer, PreprocessSpec.clip(SIZES[-1]), findings, source="lrclr", sha256=""
        )


def _optimizer(model: LrclrModel) -> torch.optim.Optimizer:
    for name, parameter in model.vision_model.named_parameters():
        parameter.requires_grad_("post_layernorm" in name)
    groups: dict[bool, list[Tensor]] = {False: [], True: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[parameter.ndim > 1 and "embedding" not in name].append(parameter)
    return torch.optim.AdamW(
        [{"params": some, "weight_decay": 0.05 if decays else 0.0} for decays, some in groups.items()],
        lr=_RATE,
        betas=(0.9, 0.98),
    )


class Sentences:
    """Draws one or two sentences of a report, since prompts are shorter than reports and short texts are faster.

    A sentence is drawn in proportion to the inverse square root of how many reports have it. Otherwise most texts say
    that nothing was found, in the same words for many images, which teaches little: after 300 steps on a frozen base,
    the mean AUROC was 0.942 on the validation split, against 0.934 with equal chances.
    """

    def __init__(self, reports: Sequence[str]) -> None:
        self._reports = [[each.strip() for each in re.findall(r"[^.]+\.", report)] for report in reports]
        counts = Counter(each for sentences in self._reports for each in sentences)
        self._weights = [np.array([counts[each] for each in sentences]) ** -0.5 for sentences in self._reports]

    def draw(self, report: int, rng: np.random.Generator) -> str:
        """A text from the report of this number."""
        sentences, weights = self._reports[report], self._weights[report]
        count = int(rng.integers(1, min(3, len(sentences) + 1)))
        return " ".join(rng.choice(sentences, count, replace=False, p=weights / weights.sum()))


@reports_errors
@joined()
def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.tune", description="Tune the base on reports.")
    parser.add_argument("dataset", type=Path, help="manifest.csv of the phantom data set")
    parser.add_argument("--base", type=Path, required=True, help="weights that benchmarks.checkpoint.base wrote")
    parser.add_argument("--views", type=Path, required=True, help="folder that benchmarks.checkpoint.views wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--local-loss", choices=("none", "pair", "pair+words"), default="pair+words", help="local loss")
    parser.add_argument("--regions", type=int, default=REGIONS, help="regions to use of those of the views")
    parser.add_argument("--epochs", type=float, default=2.5, help="passes through the views")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order")
    options = parser.parse_args()
    views = read_views(options.views)
    steps = int(options.epochs * len(views.rows) / BATCH)
    base = torch.load(options.base, weights_only=True)
    reports = read_reports(options.dataset, split_of(options.views))
    local, seed, regions = options.local_loss, options.seed, options.regions
    run = TuneRun(reports, views, base, local=local, steps=steps, seed=seed, regions=regions)
    files = {"dataset": sha256_of(options.dataset), "base": sha256_of(options.base)}
    settings = {"local": local, "regions": regions, "seed": seed, "steps": steps}
    run_to_end(run, options.output, {**files, **settings})
    if place()[0] == 0:
        run.checkpoint().save(options.output, overwrite=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
