"""`load_checkpoint`: finds out what a path holds, reads it, and refuses what is not whole."""

from __future__ import annotations

import dataclasses
import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lrclr._files import os_reason
from lrclr.budget import release_freed_memory
from lrclr.card import ModelCard
from lrclr.checkpoints import _folders
from lrclr.checkpoints._beside import (
    CONFIG,
    OPEN_CLIP,
    check_padding,
    chosen_tokenizer,
    facts_beside,
    open_clip_towers,
    preprocess_beside,
    read_json,
    tokenizer_beside,
)
from lrclr.checkpoints._checkpoint import Checkpoint, eval_model
from lrclr.checkpoints._cleaning import cleaned_clip, clip_cleaning
from lrclr.checkpoints._files import read_shards
from lrclr.checkpoints._find import OPENAI, find_clip
from lrclr.checkpoints._hub import fetch_checkpoint
from lrclr.checkpoints._init import preprocess_spec
from lrclr.checkpoints._network import HIGHEST_TOKEN, config_of, facts_from_modules, facts_from_options, text_end
from lrclr.checkpoints._openai import renamed
from lrclr.checkpoints._options import check_options
from lrclr.checkpoints._state import model_from_state
from lrclr.checkpoints._weights import OPEN_CLIP_WEIGHTS, TRANSFORMERS_WEIGHTS, digest_of, weight_files
from lrclr.checkpoints._wordpiece import bert_tokenizer
from lrclr.checkpoints.families import FAMILIES, layout_of
from lrclr.errors import CheckpointError
from lrclr.hub import hub_reference
from lrclr.text import ClipTokenizer, FindingSet, no_tokenizer

if TYPE_CHECKING:
    from lrclr.checkpoints._options import ReadOptions

DEFAULT = "default"
_ADAPTER: Final = "adapter_config.json"
_ADAPTER_WEIGHTS: Final = frozenset(("adapter_model.safetensors", "adapter_model.bin"))
_WITHOUT_PATCHES: Final = {
    "siglip2": "it is a SigLIP 2 of variable resolution (NaFlex), and lrclr reads those of a fixed one ('siglip')",
    "resnet": "a ResNet has no attention over patches, from which regions are picked",
}


def default_checkpoint() -> Path:
    """The folder of the checkpoint that the package carries: a small network, tuned on synthetic radiographs.

    Not for patients; its model card lies beside it.
    """
    return Path(str(resources.files("lrclr").joinpath("data", "checkpoint")))


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    preprocess: str | None = None,
    heads: tuple[int, ...] | None = None,
    activation: str | None = None,
    key: str | None = None,
    tokenizer: str | None = None,
) -> Checkpoint:
    """Read a checkpoint of any kind, in float32.

    - an LRCLR folder, as `Checkpoint.save` and ``lrclr convert`` write it;
    - a transformers CLIP folder, or an open_clip folder of a CLIP with its own Vision Transformer;
    - a file with the tensors of such a CLIP, under OpenAI's or transformers' names, in fp16 or fp32: what
      ``torch.save`` wrote, such as CheXzero's ``.pt`` files, safetensors, or a TorchScript archive as OpenAI publishes
      them. The tensors are found by how their names end, so they may be wrapped as trainers wrap them;
    - ``"hf:OWNER/NAME"`` or ``"hf:OWNER/NAME@REVISION"``: a folder of one of these kinds in a repository of the Hugging
      Face Hub, unless there is a file of that name. Only the files that are read are downloaded, with huggingface_hub.
    - `"default"`, unless there is a file of that name: the checkpoint that the package carries.

    No code from a file is ever executed: pickles are read as data, and classes and functions that they name are neither
    imported nor called.

    Tensors do not determine a network. The rest comes from the options below, from an
    ``open_clip_config.json`` or a ``config.json`` of transformers' CLIP in the file's folder, or from the modules in a
    TorchScript archive. What none of them records is assumed to be as in OpenAI's networks; `Checkpoint.assumed` lists
    it.

    Args:
        path: file or folder.
        preprocess: ``"clip"`` or ``"chexzero"``, instead of what the source implies: the stored recipe where there is
            one, CheXzero's for a bare state dict under OpenAI's names, CLIP's for the others.
        heads: attention heads of the image tower, or of both towers.
        activation: ``"quick_gelu"`` or ``"gelu"``.
        key: where the network is in a file that holds several, such as ``"ema"``: the path of its tensors, or the
            beginning of it.
        tokenizer: ``"clip"`` for the tokenizer of OpenAI's CLIP, which lrclr contains, or the path of a
            ``tokenizer.json``, instead of the one beside the weights.

    Raises:
        CheckpointError: it is none of these, is damaged, or keys are missing, unexpected or misshapen; or the number of
            heads is not known, because OpenAI published no network of this size.
        UsageError: an option has a value that is not known, or contradicts a stored configuration; or the folder's
            ``card.toml`` is not TOML. Values in it that cannot be used are left out, see `ModelCard.remarks`.
        FindingsError: the findings of an LRCLR folder cannot be used.
        HubError: the repository cannot be downloaded.
        MissingExtraError: huggingface_hub is not installed.
    """
    reference = hub_reference(path)
    path = Path(path)
    if str(path) == DEFAULT and not path.exists():
        path = default_checkpoint()
    # A wrong option must not cost a load.
    check_options(heads, activation)
    if preprocess is not None:
        preprocess_spec(preprocess, 224)
    options: ReadOptions = {"preprocess": preprocess, "heads": heads, "activation": activation, "key": key}
    if tokenizer is not None:
        options["tokenizer"] = tokenizer
    origin = ""
    if reference is not None:
        repository = fetch_checkpoint(reference)
        path, origin = repository.folder, str(repository.reference)
    try:
        checkpoint = _load(path, options)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", why=os_reason(error)) from error
    names = repository.names if reference is not None else _names_in(path)
    if _ADAPTER in names and not names.isdisjoint(_ADAPTER_WEIGHTS):
        line = f"adapter: not applied, although {_ADAPTER} of PEFT is beside the weights"
        checkpoint.config.assumed = [*checkpoint.assumed, line]
    # The tensors of the file, of which the network is a copy.
    release_freed_memory()
    size = checkpoint.config.vision_config.image_size
    # Beside a bare file there may be the card of any network.
    card = ModelCard.beside(path) if path.is_dir() else ModelCard()
    if preprocess is not None:
        checkpoint = dataclasses.replace(checkpoint, preprocess=preprocess_spec(preprocess, size))
        card = card.without_metrics()
    if checkpoint.preprocess.image_size != size:
        raise CheckpointError(
            f"the preprocessing beside {path} gives images of {checkpoint.preprocess.image_size} pixels, the network "
            f"takes {size}"
        )
    return dataclasses.replace(checkpoint, card=card, origin=origin or checkpoint.origin)


def _names_in(path: Path) -> frozenset[str]:
    return frozenset(os.listdir(path)) if path.is_dir() else frozenset()  # noqa: PTH208 - names alone


def _load(path: Path, options: ReadOptions) -> Checkpoint:
    if path.is_dir():
        return _load_folder(path, options)
    if path.is_file():
        # Weights of another family than CLIP need the configuration beside them.
        found = layout_of(path.parent)
        if found is not None and found[0] not in FAMILIES["clip"].layouts and path.name in found[0].weights:
            return found[0].load(path.parent, found[1], options, file=path)
        return _load_weights(path, [path], path.parent, options)
    if path.exists():
        raise CheckpointError(f"{path} is neither a file nor a folder")
    raise CheckpointError(f"there is no checkpoint at {path}", fix="Give a .pt file or a checkpoint folder.")


def _load_folder(folder: Path, options: ReadOptions) -> Checkpoint:
    has_open_clip = (folder / OPEN_CLIP).is_file()
    if not has_open_clip or (folder / CONFIG).is_file():
        raw = read_json(folder / CONFIG)
        if raw.get("model_type") == "lrclr":
            return _folders.load_lrclr(folder, raw, options)
    found = layout_of(folder)
    if found is not None and (found[0].has_weights(folder) or not has_open_clip):
        return found[0].load(folder, found[1], options)
    if not has_open_clip:
        model_type = raw.get("model_type")
        raise CheckpointError(
            f"{folder} is not a checkpoint that lrclr reads",
            why=_WITHOUT_PATCHES.get(str(model_type), f"its {CONFIG} has model_type {model_type!r}"),
            fix="Expected 'lrclr', 'clip', 'siglip' or 'vision-text-dual-encoder'.",
        )
    files = weight_files(folder, (*OPEN_CLIP_WEIGHTS, *TRANSFORMERS_WEIGHTS))
    return _load_weights(folder, files, folder, options)


def _load_weights(path: Path, files: list[Path], folder: Path, options: ReadOptions) -> Checkpoint:
    """Read tensors that have no configuration of their own; `folder` may hold one beside them."""
    table = read_shards(path, files)
    found = find_clip(table, options.get("key"))
    is_openai = found.layout is OPENAI
    state = renamed(found.state) if is_openai else found.state
    beside = facts_beside(folder)
    caller = facts_from_options(options.get("heads"), options.get("activation"))
    facts = [*caller, *beside, *facts_from_modules(found.modules, found.state, path)]
    config = config_of(state, facts, path)
    assumed: list[str] = list(config.assumed or ())
    vision, text = config.vision_config, config.text_config
    recipe = None if options.get("preprocess") else preprocess_beside(folder)
    if recipe is None:
        name = options.get("preprocess") or ("chexzero" if is_openai and not table.script else "clip")
        recipe = preprocess_spec(name, vision.image_size)
        if not options.get("preprocess"):
            assumed.append(f"preprocessing: {name}")
    context = text.max_position_embeddings
    tokenizer = _tokenizer(folder, context, options, has_config=bool(beside))
    if text.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{path} has a vocabulary of {text.vocab_size}",
            why=f"the tokenizer that it is read with has {tokenizer.vocab_size}",
            fix="Give the network's own with --tokenizer FILE, a tokenizer.json.",
        )
    if found.left_out:
        shown = ", ".join(found.left_out[:3])
        assumed.append(f"tensors beside the network that do not belong to it: {len(found.left_out)} ({shown})")
    # OpenAI's code and open_clip's take the highest token; a network of transformers has the number of its end token.
    ends = {one.end for one in facts if one.end is not None}
    config.text_end = text_end(ends or {HIGHEST_TOKEN if is_openai else tokenizer.eot_id}, tokenizer, path)
    if config.text_end == HIGHEST_TOKEN:
        check_padding(folder, tokenizer)
        assumed += [] if ends else ["end of a prompt: its token with the highest number"]
    text.eos_token_id, text.bos_token_id, config.assumed = tokenizer.eot_id, tokenizer.bos_id, assumed
    model = model_from_state(config, state, path, fusion_expected=False)
    return Checkpoint(
        eval_model(model),
        tokenizer if context == tokenizer.context_length else tokenizer.with_context_length(context),
        recipe,
        FindingSet.default(),
        source=_source(path, table.script, is_openai=is_openai),
        sha256=digest_of(files),
    )


def _tokenizer(folder: Path, context: int, options: ReadOptions, *, has_config: bool) -> ClipTokenizer:
    """The tokenizer that the caller chose, or that in a folder, with the cleaning that open_clip's configuration adds.

    Without a configuration that fits, a tokenizer in the same folder may be any network's, and CLIP's is taken.
    """
    text = open_clip_towers(read_json(folder / OPEN_CLIP))[1] if (folder / OPEN_CLIP).is_file() else {}
    tokenizer = chosen_tokenizer(options.get("tokenizer"), context)
    tokenizer = tokenizer or (tokenizer_beside(folder, context) if has_config else None)
    if tokenizer is None and text.get("hf_tokenizer_name"):
        if not (folder / "vocab.txt").is_file():
            raise no_tokenizer(folder)
        tokenizer = bert_tokenizer(folder, context, 0)
    return cleaned_clip(tokenizer or ClipTokenizer.default(), clip_cleaning(text, folder / OPEN_CLIP))


def _source(path: Path, script: bool, *, is_openai: bool) -> str:
    if path.is_dir():
        return "open_clip"
    names = "openai" if is_openai else "transformers"
    return f"{names} {'torchscript' if script else 'state dict'}"
