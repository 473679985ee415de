"""`load_checkpoint`: tells what a path holds, reads it, and refuses what is not whole."""

from __future__ import annotations

import dataclasses
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from lrclr._files import sha256_of
from lrclr.checkpoints import _folders, _openai, _torchscript
from lrclr.checkpoints._checkpoint import Checkpoint, eval_model
from lrclr.checkpoints._init import preprocess_spec
from lrclr.checkpoints._state import model_from_state
from lrclr.errors import CheckpointError
from lrclr.findings import FindingSet
from lrclr.tokenizer import ClipTokenizer

if TYPE_CHECKING:
    import os


DEFAULT = "default"


def default_checkpoint() -> Path:
    """The folder of the checkpoint that the package carries: a small network, tuned on synthetic radiographs.

    Not for patients; its model card lies beside it.
    """
    return Path(str(resources.files("lrclr").joinpath("data", "checkpoint")))


def load_checkpoint(path: str | os.PathLike[str], *, preprocess: str | None = None) -> Checkpoint:
    """Read a checkpoint of any kind, in float32.

    - an LRCLR folder, as `Checkpoint.save` and ``lrclr convert`` write it;
    - a transformers CLIP folder;
    - a state dict of OpenAI's CLIP, such as CheXzero's ``.pt`` files, of any ViT size, in fp16 or fp32;
    - a TorchScript archive as OpenAI publishes them;
    - `"default"`, unless there is a file of that name: the checkpoint that the package carries.

    No code from a file is ever run: state dicts are read with torch's weights-only unpickler, TorchScript archives
    by a reader of our own that knows tensors only.

    Args:
        path: file or folder.
        preprocess: ``"clip"`` or ``"chexzero"``, instead of what the source implies: CheXzero's recipe for a bare
            state dict, CLIP's for the others, the stored one for an LRCLR folder.

    Raises:
        CheckpointError: it is none of these, is damaged, or keys are missing, unexpected or misshapen.
        UsageError: there is no preprocessing of that name.
        FindingsError: the findings of an LRCLR folder cannot be used.
    """
    path = Path(path)
    if str(path) == DEFAULT and not path.exists():
        path = default_checkpoint()
    if preprocess is not None:
        preprocess_spec(preprocess, 224)  # a name that is wrong shall not cost a load
    try:
        checkpoint = _load(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read", why=error.strerror or type(error).__name__) from error
    if preprocess is None:
        return checkpoint
    spec = preprocess_spec(preprocess, checkpoint.config.vision_config.image_size)
    return dataclasses.replace(checkpoint, preprocess=spec)


def _load(path: Path) -> Checkpoint:
    if path.is_dir():
        return _folders.load(path)
    if path.is_file():
        return _load_file(path)
    if path.exists():
        raise CheckpointError(f"{path} is neither a file nor a folder")
    raise CheckpointError(f"there is no checkpoint at {path}", fix="Give a .pt file or a checkpoint folder.")


def _load_file(path: Path) -> Checkpoint:
    is_script = _torchscript.is_torchscript(path)
    state = _torchscript.read(path) if is_script else _openai.read(path)
    digest = sha256_of(path)
    config, renamed = _openai.convert(state, path)
    tokenizer = ClipTokenizer.default()
    if config.text_config.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{path} has a vocabulary of {config.text_config.vocab_size}",
            why=f"a bare state dict is read with CLIP's tokenizer, which has {tokenizer.vocab_size}",
            fix="Convert it to a transformers CLIP folder with its own tokenizer.json.",
        )
    context = config.text_config.max_position_embeddings
    model = model_from_state(config, renamed, path, fusion_expected=False)
    return Checkpoint(
        eval_model(model),
        tokenizer if context == tokenizer.context_length else tokenizer.with_context_length(context),
        preprocess_spec("clip" if is_script else "chexzero", config.vision_config.image_size),
        FindingSet.default(),
        source="openai torchscript" if is_script else "openai state dict",
        sha256=digest,
    )
