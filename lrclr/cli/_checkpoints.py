"""`lrclr init` and `lrclr convert`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads annotations
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr.cli._console import note
from lrclr.cli._extras import require_torch
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrclr.checkpoints import ReadOptions

# The options of every command that reads a checkpoint; `read_options` takes their values.
Heads = Annotated[
    str | None,
    typer.Option("--heads", help="IMAGE[,TEXT]: attention heads of the towers, which bare weights do not record."),
]
Activation = Annotated[
    str | None, typer.Option("--activation", help="quick_gelu or gelu, which bare weights do not record.")
]
Key = Annotated[
    str | None, typer.Option("--key", help="Which network of a file that holds several, such as model or ema.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint folder that is there already.")]


def read_options(
    heads: str | None, activation: str | None, key: str | None, preprocess: str | None = None
) -> ReadOptions:
    """The values of `Heads`, `Activation`, `Key` and --preprocess that were given, for `load_checkpoint`.

    Raises:
        UsageError: the heads are not one or two numbers.
    """
    options: ReadOptions = {}
    if heads is not None:
        try:
            options["heads"] = tuple(int(part) for part in heads.split(","))
        except ValueError:
            raise UsageError(
                f"--heads {heads[:40]!r} are not numbers", fix="Write IMAGE,TEXT, such as 16,16."
            ) from None
    if activation is not None:
        options["activation"] = activation
    if key is not None:
        options["key"] = key
    if preprocess is not None:
        options["preprocess"] = preprocess
    return options


def require_checkpoint(options: ReadOptions, *, any_checkpoint: bool) -> None:
    """Raise UsageError for options of reading where no checkpoint is read."""
    if options and not any_checkpoint:
        raise UsageError(
            f"--{' and --'.join(options)} cannot be used here",
            why="they apply to checkpoints only; a bundle holds its network's configuration",
        )


def note_assumed(assumed: Iterable[str]) -> None:
    """Print what was assumed about a checkpoint."""
    for line in assumed:
        note(f"assumed: {line}")


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
    source: Annotated[
        Path, typer.Argument(help="A .pt, .safetensors or TorchScript file of a CLIP, or a checkpoint folder.")
    ],
    folder: Annotated[Path, typer.Argument(help="Where to write the LRCLR checkpoint folder.")],
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess",
            help="clip, chexzero or siglip. Without it: the recipe that is stored; else chexzero for OpenAI's "
            "names in a bare state dict, clip for the others.",
        ),
    ] = None,
    heads: Heads = None,
    activation: Activation = None,
    key: Key = None,
    overwrite: Overwrite = False,
) -> None:
    """Write any checkpoint that lrclr reads as an LRCLR folder."""
    options = read_options(heads, activation, key, preprocess)
    require_torch()
    from lrclr.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(source, **options)
    checkpoint.save(folder, overwrite=overwrite)
    vision = checkpoint.config.vision_config
    note(
        f"{folder}: {checkpoint.source}, patches of {vision.patch_size} in {vision.image_size} pixels, "
        f"{vision.num_hidden_layers} layers, {vision.hidden_act}, {checkpoint.preprocess.kind} preprocessing"
    )
    note_assumed(checkpoint.assumed)
    if not checkpoint.config.fusion_trained:
        note("its fusion head is not trained: scores use alpha = 0, the global score alone")
