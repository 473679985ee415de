"""What describes a family, and what its readers share."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrclr.checkpoints._beside import CONFIG, chosen_tokenizer
from lrclr.checkpoints._checkpoint import Checkpoint, eval_model
from lrclr.checkpoints._cleaning import cleaned_clip
from lrclr.checkpoints._files import read_shards
from lrclr.checkpoints._network import check_consistent, facts_from_options
from lrclr.checkpoints._state import model_from_state
from lrclr.checkpoints._weights import digest_of, index_of, weight_files
from lrclr.errors import CheckpointError, LrclrError, UsageError
from lrclr.model import LrclrConfig
from lrclr.text import FindingSet

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from lrclr.checkpoints._options import ReadOptions
    from lrclr.preprocessing import PreprocessSpec
    from lrclr.text import ClipTokenizer

LARGEST_MAPS = 512 << 20
"""Bytes of an image's attention maps, one for each head, above which the default rollout averages the heads."""


@dataclass(frozen=True)
class Layout:
    """One way in which a family's networks are stored.

    Attributes:
        source: its name in `Checkpoint.source`.
        config: name of the configuration file that describes it.
        weights: names that its files of weights may have.
        accepts: whether a configuration, as JSON holds it, is of this family.
        read: from a folder, its configuration, its files of weights and the caller's options to a checkpoint.
    """

    source: str
    config: str
    weights: tuple[str, ...]
    accepts: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Layout, Path, Mapping[str, Any], list[Path], ReadOptions], Checkpoint]

    def has_weights(self, folder: Path, listed: Container[str] | None = None) -> bool:
        """Whether a folder holds weights of this layout; with `listed`, whether these names of files are such."""
        names = [each for name in self.weights for each in (name, index_of(name))]
        return any((folder / name).is_file() if listed is None else name in listed for name in names)

    def load(
        self, folder: Path, raw: Mapping[str, Any], options: ReadOptions, *, file: Path | None = None
    ) -> Checkpoint:
        """Read a folder whose configuration is `raw`; with `file`, that file of weights in it.

        Raises:
            CheckpointError: it is not whole, or asks for what lrclr cannot do.
            UsageError: an option contradicts it.
        """
        files = [file] if file is not None else weight_files(folder, self.weights)
        try:
            return self.read(self, folder, raw, files, options)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            # Values of other types than a configuration of this kind has.
            why = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{folder / self.config} cannot be used", why=why) from error


@dataclass(frozen=True)
class Family:
    """A family of networks.

    Attributes:
        name: in configurations, manifests and the documentation.
        layouts: in which it is read.
    """

    name: str
    layouts: tuple[Layout, ...]


@dataclass(frozen=True)
class Parts:
    """What a reader makes of a folder, for `assembled`.

    Attributes:
        config: fields of `LrclrConfig`.
        state: tensors under `LrclrModel`'s names.
        tokenizer, preprocess: of the checkpoint.
        cleaning: normalizers that `tokenizer` applies before its own, and any other tokenizer must, too.
    """

    config: dict[str, Any]
    state: dict[str, Tensor]
    tokenizer: ClipTokenizer
    preprocess: PreprocessSpec
    cleaning: Sequence[Any] = ()


def assembled(layout: Layout, folder: Path, files: list[Path], parts: Parts, options: ReadOptions) -> Checkpoint:
    """The checkpoint of what was read, with the tokenizer that the caller chose instead, if there is one.

    Raises:
        CheckpointError: the parts do not fit each other.
        UsageError: an option contradicts them.
    """
    if options.get("key"):
        raise UsageError(
            f"{folder} is read as a whole network", why="only files of a CLIP may hold several", fix="Omit --key."
        )
    config = made_config({**parts.config, "tokenizer_options": parts.tokenizer.options}, folder)
    check_consistent(config, facts_from_options(options.get("heads"), options.get("activation")), folder)
    model = model_from_state(config, parts.state, folder, fusion_expected=False)
    tokenizer = parts.tokenizer
    if choice := options.get("tokenizer"):
        chosen = chosen_tokenizer(choice, tokenizer.context_length, tokenizer.options)
        tokenizer = cleaned_clip(chosen, parts.cleaning) if chosen is not None else tokenizer
    if tokenizer.vocab_size > config.text_config.vocab_size:
        raise CheckpointError(
            f"the tokenizer in {folder} is not that of its network",
            why=f"it has {tokenizer.vocab_size} entries, and the network {config.text_config.vocab_size}",
        )
    return Checkpoint(
        eval_model(model),
        tokenizer,
        parts.preprocess,
        FindingSet.default(),
        source=layout.source,
        sha256=digest_of(files),
    )


def made_config(fields: Mapping[str, Any], folder: Path) -> LrclrConfig:
    """A configuration whose errors name the folder.

    The rollout is that over mean heads where the maps of all heads would take more than `LARGEST_MAPS`.
    """
    try:
        config = LrclrConfig(**fields)
        vision = config.vision_config
        maps = 4 * vision.num_hidden_layers * vision.num_attention_heads * (config.num_patches + 1) ** 2
        if "region_rollout" not in fields and maps > LARGEST_MAPS:
            return LrclrConfig(**fields, region_rollout="mean")
    except LrclrError as error:
        raise CheckpointError(f"{folder} describes a network that cannot be used", why=str(error)) from error
    return config


def tensors_of(folder: Path, files: list[Path]) -> dict[str, Tensor]:
    """All tensors of some files, under their names there, without a wrapper that is around all of them."""
    table = read_shards(folder, files)
    found = table.tensors(set(table.entries))
    for wrapper in ("module.", "model.", "state_dict."):
        if found and all(name.startswith(wrapper) for name in found):
            found = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
    return found


def model_scoring(state: Mapping[str, Tensor], folder: Path) -> dict[str, float]:
    """Scoring by the network's own logits: the scale, and where there is a bias the threshold of a single prompt.

    Raises:
        CheckpointError: one of them is not a single number.
    """
    wrong = [name for name in ("logit_scale", "logit_bias") if name in state and state[name].numel() != 1]
    if wrong:
        raise CheckpointError(f"{folder} holds a {wrong[0]} that is not a single number")
    try:
        scale = math.exp(float(state["logit_scale"]))
    except OverflowError:
        scale = math.inf  # which a configuration refuses
    scoring = {"score_scale": scale}
    if "logit_bias" in state:
        scoring["score_threshold"] = -float(state["logit_bias"]) / scale
    return scoring


def tower_tables(raw: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of the image and of the text tower in a configuration of transformers; empty where there is none.

    Raises:
        CheckpointError: one of them is not a table.
    """
    found = []
    for name in ("vision_config", "text_config"):
        table = raw.get(name) or {}
        if not isinstance(table, dict):
            raise CheckpointError(f"{folder / CONFIG} cannot be used", why=f"its {name} is not a table")
        found.append(dict(table))
    return found[0], found[1]


def require_names(state: Mapping[str, Tensor], names: Iterable[str], folder: Path) -> None:
    """Raise CheckpointError where tensors are missing that a configuration is derived from."""
    missing = [name for name in names if name not in state]
    if missing:
        raise CheckpointError(f"{folder} does not contain a complete network", why=f"missing: {', '.join(missing)}")


def renamed(state: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Tensors under other names.

    Args:
        state: the tensors.
        rules: regular expressions of whole names, and what takes their place; the first that matches counts, and a
            name that none matches stays. An empty replacement leaves the tensor out.
    """
    patterns = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = name
        for pattern, replacement in patterns:
            if (match := pattern.fullmatch(name)) is not None:
                new = match.expand(replacement)
                break
        if new:
            result[new] = tensor
    return result


def split_in_three(state: Mapping[str, Tensor], pattern: str, parts: tuple[str, str, str]) -> dict[str, Tensor]:
    """Tensors in which those of queries, keys and values that lie in one tensor are apart.

    Args:
        state: the tensors.
        pattern: a regular expression of whole names with the groups ``before`` and ``end``.
        parts: what stands between ``before`` and ``end`` in the names of query, key and value.
    """
    compiled = re.compile(pattern)
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = compiled.fullmatch(name)
        if match is None or tensor.ndim == 0 or tensor.shape[0] % 3:
            result[name] = tensor
        else:
            result |= {
                f"{match['before']}{part}{match['end']}": third
                for part, third in zip(parts, tensor.chunk(3), strict=True)
            }
    return result


def number_of_layers(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number that the first group of `pattern` matches at the beginning of names."""
    compiled = re.compile(pattern)
    return 1 + max((int(match[1]) for name in state if (match := compiled.match(name))), default=-1)


def heads_of(width: int, given: int | None, folder: Path, tower: str) -> int:
    """Attention heads: those that the caller gave, or heads of the usual width, 64.

    Raises:
        CheckpointError: the width is not a multiple.
    """
    heads = given or width // 64
    if heads < 1 or width % heads or (given is None and width % 64):
        raise CheckpointError(
            f"the number of attention heads of the {tower} tower in {folder} is not known",
            why=f"its width is {width}",
            fix="Give --heads IMAGE,TEXT, or heads=(IMAGE, TEXT) to load_checkpoint.",
        )
    return heads
