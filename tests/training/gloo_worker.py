"""Loss and gradients of one batch in one of several processes: ``gloo_worker.py RANK PROCESSES FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from lrclr.checkpoints import init_checkpoint
from lrclr.training import ContrastiveTask, LossSettings

VARIANTS = {
    "none": LossSettings("none"),
    "pair": LossSettings("pair", 0.7),
    "pair, in pieces": LossSettings("pair", 0.7, encode_at_once=3, pairs_at_once=20),
    "pair+words": LossSettings("pair+words"),
    "pair+words, in pieces": LossSettings("pair+words", encode_at_once=2, pairs_at_once=16),
}
TEXTS = (
    "Edema.",
    "No pleural effusion, and the heart is of normal size.",
    "Pneumothorax.",
    "EDEMA.",  # the same text as the first one
    "A nodule in the left upper lobe.",
    "Clear lungs.",
    "Consolidation at the right base with air bronchograms.",
    "Rib fracture.",
)


def batch(rank: int, processes: int) -> dict[str, Tensor]:
    """The part of eight images and texts that belongs to a process. Texts are padded to the longest in this part."""
    from lrclr.text import ClipTokenizer

    # Private: the key by which a batch finds equal texts.
    from lrclr.training._texts import text_key

    images = torch.randn(8, 3, 112, 112, generator=torch.Generator().manual_seed(1))
    part = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
    tokens = ClipTokenizer.default().encode(TEXTS[part])
    return {
        "pixel_values": images[part],
        "input_ids": torch.from_numpy(tokens.input_ids),
        "attention_mask": torch.from_numpy(tokens.mask),
        "text_key": torch.tensor([text_key(text) for text in TEXTS[part]]),
    }


def losses_and_gradients(rank: int, processes: int) -> dict[str, Any]:
    found = {}
    for name, settings in VARIANTS.items():
        model = init_checkpoint("tiny").model
        model.requires_grad_(True)
        model.fusion_head.requires_grad_(settings.local != "none")
        task = ContrastiveTask(model, settings)
        wrapped = torch.nn.parallel.DistributedDataParallel(task) if processes > 1 else task
        output = wrapped(**batch(rank, processes))
        output["loss"].backward()
        gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        found[name] = {key: value.detach() for key, value in output.items()}, gradients
    return found


if __name__ == "__main__":
    rank, processes, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=processes)
    torch.save(losses_and_gradients(rank, processes), folder / f"{rank}.pt")
    distributed.destroy_process_group()
