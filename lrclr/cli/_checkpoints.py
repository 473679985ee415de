"""`lrclr init` and `lrclr convert`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import Annotated

import typer

from lrclr.cli._console import note
from lrclr.cli._extras import require_torch

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint folder that is there already.")]


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write the checkpoint folder.")],
    arch: Annotated[str, typer.Option("--arch", help="vit-b-32, vit-b-16, vit-l-14 or tiny.")] = "vit-b-32",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the weights.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a checkpoint with random weights, for benchmarks and tests. Its findings mean nothing."""
    require_torch()
    from lrclr.checkpoints import init_checkpoint

    init_checkpoint(arch, seed=seed).save(folder, overwrite=overwrite)
    note(f"{folder}: {arch} with random weights from seed {seed}; its findings mean nothing")
    note("what a precision loses of random weights says nothing about trained ones: their embeddings nearly coincide")


def convert(
    source: Annotated[Path, typer.Argument(help="A CheXzero or OpenAI .pt file, a TorchScript archive, or a folder.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the LRCLR checkpoint folder.")],
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess",
            help="clip or chexzero. Without it: chexzero for a bare state dict, clip for the others, "
            "the stored one for an LRCLR folder.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write any checkpoint that lrclr reads as an LRCLR folder."""
    require_torch()
    from lrclr.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(source, preprocess=preprocess)
    checkpoint.save(folder, overwrite=overwrite)
    vision = checkpoint.config.vision_config
    note(
        f"{folder}: {checkpoint.source}, patches of {vision.patch_size} in {vision.image_size} pixels, "
        f"{vision.num_hidden_layers} layers, {vision.hidden_act}, {checkpoint.preprocess.kind} preprocessing"
    )
    if not checkpoint.config.fusion_trained:
        note("its fusion head is not trained: scores use alpha = 0, the global score alone")
