"""`lrclr init` and `lrclr convert`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr._files import check_outside
from lrclr.cli._console import note
from lrclr.cli._extras import require
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lrclr.card import ModelCard
    from lrclr.checkpoints import Checkpoint, ReadOptions
    from lrclr.preprocessing import Triple

# The options of every command that reads a checkpoint; `read_options` takes their values.
Heads = Annotated[
    str | None,
    typer.Option("--heads", help="Attention heads of the towers, IMAGE[,TEXT]. Bare weights do not record them."),
]
Activation = Annotated[
    str | None, typer.Option("--activation", help="quick_gelu or gelu. Bare weights do not record it.")
]
Key = Annotated[
    str | None, typer.Option("--key", help="Which network of a file with several networks, such as model or ema.")
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="clip|FILE",
        help="clip for the tokenizer of OpenAI's CLIP, which lrclr contains, or a tokenizer.json; instead of the one "
        "beside the weights.",
    ),
]
Card = Annotated[
    Path | None,
    typer.Option("--card", help="What the model card states (TOML), instead of the checkpoint's card.toml."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing checkpoint folder.")]


def read_options(
    heads: str | None,
    activation: str | None,
    key: str | None,
    preprocess: str | None = None,
    tokenizer: str | None = None,
) -> ReadOptions:
    """Return the options that were given, for `load_checkpoint`.

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
    if tokenizer is not None:
        options["tokenizer"] = tokenizer
    return options


def check_folder(path: Path, options: ReadOptions) -> None:
    """Refuse a transformers folder without a tokenizer at once, before torch is imported.

    Raises:
        CheckpointError: the folder has none, and --tokenizer is not given.
    """
    from lrclr.text import has_tokenizer, no_tokenizer

    is_transformers = (path / "config.json").is_file() and not (path / "open_clip_config.json").is_file()
    if is_transformers and "tokenizer" not in options and not has_tokenizer(path):
        raise no_tokenizer(path)


def require_checkpoint(options: ReadOptions, *, any_checkpoint: bool) -> None:
    """Raise UsageError if options for checkpoints are given, and no checkpoint is read."""
    if options and not any_checkpoint:
        raise UsageError(
            f"--{' and --'.join(options)} cannot be used here",
            why="they apply to checkpoints only; a bundle holds its network's configuration",
        )


def note_assumed(assumed: Iterable[str]) -> None:
    """Print the assumptions about a checkpoint."""
    for line in assumed:
        note(f"assumed: {line}")


def load_card(path: Path | None) -> ModelCard | None:
    """Return the card of --card, if it is given."""
    from lrclr.card import ModelCard

    return None if path is None else ModelCard.load(path)


def note_card(card: ModelCard) -> None:
    """Print what was left out of a card."""
    for remark in card.remarks:
        note(f"model card: {remark}")


def init(
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
    arch: Annotated[str, typer.Option("--arch", help="vit-b-32, vit-b-16, vit-l-14 or tiny.")] = "vit-b-32",
    seed: Annotated[int, typer.Option("--seed", help="Seed of the weights.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a checkpoint with random weights.

    It is for benchmarks and tests. Its predictions have no meaning.
    """
    require("torch")
    from lrclr.checkpoints import init_checkpoint

    init_checkpoint(arch, seed=seed).save(folder, overwrite=overwrite)
    note(f"{folder}: {arch} with random weights from seed {seed}; its predictions have no meaning")
    note("do not compare precisions with it: embeddings of random weights are nearly equal for all images")


def convert(  # noqa: PLR0913, PLR0917 - one parameter an option
    source: Annotated[
        Path,
        typer.Argument(
            help="A .pt, .safetensors or TorchScript file of a CLIP, a checkpoint folder, hf:OWNER/NAME[@REVISION], or "
            "default."
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="LRCLR checkpoint folder to write.")],
    preprocess: Annotated[
        str | None,
        typer.Option(
            "--preprocess",
            help="clip, chexzero or siglip.  [default: as stored; else chexzero for a bare state dict "
            "with OpenAI's names, else clip]",
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean", metavar="R,G,B", help="Mean of each channel: of 0 to 1 for clip, 0 to 255 for chexzero."
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option("--std", metavar="R,G,B", help="Standard deviation of each channel, on the same scale."),
    ] = None,
    region_top_k: Annotated[
        int | None,
        typer.Option(
            "--region-top-k",
            help="Patches to select in each attention head; in all heads together with the rollout mean.",
        ),
    ] = None,
    findings: Annotated[
        Path | None, typer.Option("--findings", help="Findings file (TOML) to put into the checkpoint.")
    ] = None,
    card: Card = None,
    heads: Heads = None,
    activation: Activation = None,
    key: Key = None,
    tokenizer: Tokenizer = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert a checkpoint to an LRCLR folder, and change its settings.

    SOURCE is any checkpoint that lrclr reads. The weights stay as they are. `lrclr export FOLDER` then checks the
    result with the gates.
    """
    options = read_options(heads, activation, key, preprocess, tokenizer)
    means, stds = _triple("--mean", mean), _triple("--std", std)
    stated = load_card(card)
    check_folder(source, options)
    check_outside(folder, [source])
    require("torch")
    from lrclr.checkpoints import load_checkpoint

    original = load_checkpoint(source, **options)
    wanted = None
    if findings is not None:
        from lrclr.cli._findings import load_findings

        wanted = load_findings(findings, original.findings, original.tokenizer)
    checkpoint = original.changed(mean=means, std=stds, region_top_k=region_top_k, findings=wanted, card=stated)
    checkpoint.save(folder, overwrite=overwrite)
    vision = checkpoint.config.vision_config
    note(
        f"{folder}: {checkpoint.source}, patches of {vision.patch_size} in {vision.image_size} pixels, "
        f"{vision.num_hidden_layers} layers, {vision.hidden_act}, {checkpoint.preprocess.name} preprocessing"
    )
    note_assumed(checkpoint.assumed)
    note_card(checkpoint.card)
    _note_changes(original, checkpoint)
    if not checkpoint.config.fusion_trained:
        note("the fusion head is not trained: scores use alpha = 0, the global score alone")


def _triple(option: str, text: str | None) -> Triple | None:
    """Return three numbers; one number counts for all channels.

    Raises:
        UsageError: the text is not one or three numbers.
    """
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        red, green, blue = numbers * 3 if len(numbers) == 1 else numbers
    except ValueError:
        raise UsageError(
            f"{option} {text[:40]!r} is not one number for each channel", fix="Write R,G,B, such as 0.48,0.46,0.41."
        ) from None
    return red, green, blue


def _note_changes(before: Checkpoint, after: Checkpoint) -> None:
    """Print what was changed, and what a change makes uncertain."""
    for name in ("mean", "std"):
        old, new = getattr(before.preprocess, name), getattr(after.preprocess, name)
        if old != new:
            note(
                f"{name}: {', '.join(f'{value:g}' for value in new)}, before {', '.join(f'{value:g}' for value in old)}"
            )
    regions = before.config.num_regions, after.config.num_regions
    if regions[0] != regions[1]:
        note(f"selected regions: {regions[1]}, before {regions[0]}")
        if after.config.fusion_trained:
            note("the fusion head was trained with the other number of regions: evaluate before use")
    if before.findings != after.findings:
        note(f"findings: {', '.join(after.findings.names)}")
    changed = before.preprocess != after.preprocess or regions[0] != regions[1] or before.findings != after.findings
    if changed and (after.config.score_scale != 1.0 or after.config.score_bias or before.config.finding_calibration):
        note("probabilities were calibrated with the old settings: calibrate again with `lrclr evaluate --store`")
