"""Files beside weights: configurations of open_clip and transformers, recipes for images, and tokenizers."""

from __future__ import annotations

import json
import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE
from transformers import CLIPConfig, CLIPTokenizer

from lrclr.checkpoints._network import HIGHEST_TOKEN, TowerFacts, facts_from_config
from lrclr.errors import CheckpointError, LrclrError, UsageError
from lrclr.model import LEGACY_EOS
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import ClipTokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import RobertaTokenizer

CONFIG, OPEN_CLIP, TOKENIZER = "config.json", "open_clip_config.json", "tokenizer.json"
PROCESSOR, IMAGE_PROCESSOR = "processor_config.json", "preprocessor_config.json"


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: there is none.
    """
    required_file(file.parent, file.name)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable JSON") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} does not contain a JSON object")
    return content


def required_file(folder: Path, name: str) -> Path:
    """A file of a folder.

    Raises:
        CheckpointError: it is not there.
    """
    file = folder / name
    if not os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises on names with null bytes
        # As `lrclr train` writes it.
        inside = folder / "checkpoint"
        fix = f"Give {inside}." if (inside / name).is_file() else "Give a complete checkpoint folder."
        raise CheckpointError(f"{folder} has no {name}", fix=fix)
    return file


def config_from(cls: Any, raw: Mapping[str, Any], folder: Path) -> Any:
    """A configuration of transformers' kind out of its JSON.

    Raises:
        CheckpointError: it cannot be used.
    """
    try:
        return cls.from_dict(raw)
    except Exception as error:
        # transformers' validators raise types of their own.
        raise CheckpointError(f"{folder / CONFIG} cannot be used", why=str(error)) from error


def facts_beside(folder: Path) -> list[TowerFacts]:
    """What the configurations in a folder record about a network whose weights are there.

    Raises:
        CheckpointError: one of them describes a network that lrclr does not have.
    """
    facts: list[TowerFacts] = []
    if (folder / OPEN_CLIP).is_file():
        facts += _facts_from_open_clip(folder / OPEN_CLIP)
    if (folder / CONFIG).is_file():
        raw = read_json(folder / CONFIG)
        # Many programs write a file of this name.
        if raw.get("model_type") == "clip":
            facts += _facts_from_transformers(config_from(CLIPConfig, raw, folder))
    return facts


def preprocess_beside(folder: Path) -> PreprocessSpec | None:
    """The recipe for images in a folder: open_clip's if there is one, else transformers'; None without either.

    Raises:
        CheckpointError: it asks for what lrclr cannot do.
    """
    if (folder / OPEN_CLIP).is_file():
        return _open_clip_recipe(folder / OPEN_CLIP)
    if (folder / PROCESSOR).is_file() or (folder / IMAGE_PROCESSOR).is_file():
        return transformers_recipe(folder)
    return None


# transformers.


def _facts_from_transformers(config: CLIPConfig) -> list[TowerFacts]:
    fields = ("hidden_size", "num_hidden_layers", "intermediate_size")
    facts = []
    for name, own in (("vision", ("image_size", "patch_size")), ("text", ("max_position_embeddings",))):
        tower = getattr(config, f"{name}_config")
        sizes = tuple((field, getattr(tower, field)) for field in (*fields, *own))
        eos = getattr(tower, "eos_token_id", None)
        end = HIGHEST_TOKEN if eos == LEGACY_EOS else eos
        heads = tower.num_attention_heads
        settings = {"activation": tower.hidden_act, "eps": tower.layer_norm_eps, "sizes": sizes, "end": end}
        facts.append(facts_from_config(CONFIG, name, heads=heads, **settings))
    return facts


def transformers_recipe(folder: Path) -> PreprocessSpec:
    """The recipe of an image processor, looked for where transformers looks for it.

    ``CLIPProcessor.save_pretrained`` of transformers 5 writes `processor_config.json` alone, with the recipe under
    ``image_processor``; older versions, and ``CLIPImageProcessor.save_pretrained``, write `preprocessor_config.json`.

    Raises:
        CheckpointError: there is none, or it asks for what lrclr cannot do.
    """
    file = folder / PROCESSOR
    raw = read_json(file).get("image_processor") if file.is_file() else None
    if raw is None:
        file = folder / IMAGE_PROCESSOR
        if not file.is_file():
            raise CheckpointError(
                f"{folder} has no {IMAGE_PROCESSOR}",
                why=f"and no {PROCESSOR} that holds an image_processor",
                fix="Save its CLIPProcessor there, or choose a preprocessing: --preprocess clip.",
            )
        raw = read_json(file)
    try:
        return PreprocessSpec.from_transformers(raw)
    except LrclrError as error:
        raise CheckpointError(f"{file} cannot be used", why=str(error)) from error


# open_clip.


def open_clip_towers(raw: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables of the image and the text tower in an ``open_clip_config.json``; empty where there is none."""
    model = raw.get("model_cfg", raw)
    towers = [model.get(key) if isinstance(model, dict) else None for key in ("vision_cfg", "text_cfg")]
    vision, text = (tower if isinstance(tower, dict) else {} for tower in towers)
    return vision, text


# Settings of open_clip's own two transformers that change what they compute, and the value for which they compute a
# CLIP. Keys that are not here or below must be false or null.
_VISION_FIXED: Final = {"pool_type": "tok", "pos_embed_type": "learnable"}
_TEXT_FIXED: Final = {"pool_type": "argmax", "proj_type": "linear", "text_arch": "clip", "pad_id": 0}
_VISION_READ: Final = frozenset(
    ("layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "act_kwargs", "norm_kwargs")
)
_TEXT_READ: Final = frozenset(
    ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "act_kwargs", "norm_kwargs")
)
# These concern training, tokenizers that are read elsewhere, or outputs that lrclr does not take.
_IGNORED: Final = frozenset(
    (
        *("patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads"),
        *("timm_model_pretrained", "timm_pool", "timm_proj", "timm_drop", "hf_model_pretrained", "hf_proj_type"),
        *("hf_pooler_type", "hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode", "tokenizer_type"),
        *("tiktoken_name", "eos_id", "bos_id", "attention_mode", "pos_embed", "rope_temperature", "mlp_type"),
        *("norm_eps", "norm_placement"),
    )
)


def _facts_from_open_clip(file: Path) -> list[TowerFacts]:
    raw = read_json(file)
    model = raw.get("model_cfg", raw)
    try:
        vision, text = dict(model["vision_cfg"]), dict(model["text_cfg"])
        for tower, config, fixed, read in (
            ("vision_cfg", vision, _VISION_FIXED, _VISION_READ),
            ("text_cfg", text, _TEXT_FIXED, _TEXT_READ),
        ):
            for key, value in config.items():
                if key not in read and key not in _IGNORED and value != fixed.get(key) and value not in (None, False):
                    raise UsageError(f"{tower}.{key} is {value!r}, which lrclr's CLIP network does not support")
        width, head_width = _whole(vision, "width", 768), _whole(vision, "head_width", 64)
        gelu = "quick_gelu" if model.get("quick_gelu", False) else "gelu"
        if model.get("init_logit_bias") is not None:
            raise UsageError("it is trained with a sigmoid loss, whose bias lrclr's CLIP network does not have")
        return [
            facts_from_config(
                OPEN_CLIP,
                "vision",
                heads=width // head_width,
                activation=_activation(gelu, vision),
                eps=_epsilon(vision),
                sizes=(
                    ("hidden_size", width),
                    ("num_hidden_layers", _whole(vision, "layers", 12)),
                    ("image_size", _side(vision.get("image_size", 224))),
                    ("patch_size", _side(vision.get("patch_size", 16))),
                    ("projection_dim", _whole(model, "embed_dim", 0)),
                ),
            ),
            facts_from_config(
                OPEN_CLIP,
                "text",
                heads=_whole(text, "heads", 8),
                activation=_activation(gelu, text),
                eps=_epsilon(text),
                sizes=(
                    ("hidden_size", _whole(text, "width", 512)),
                    ("num_hidden_layers", _whole(text, "layers", 12)),
                    ("max_position_embeddings", _whole(text, "context_length", 77)),
                ),
                end=HIGHEST_TOKEN,
            ),
        ]
    except UsageError as error:
        raise CheckpointError(f"{file} describes a network that lrclr cannot read", why=str(error)) from error
    except Exception as error:
        raise CheckpointError(f"{file} is not an open_clip configuration", why=str(error)) from error


def _whole(config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{key} is {value!r}, and must be a whole number above 0")
    return value


def _activation(name: str, config: Mapping[str, Any]) -> str:
    match config.get("act_kwargs") or {}:
        case {"approximate": "tanh", **rest} if not rest and name == "gelu":
            return "gelu_pytorch_tanh"
        case {"approximate": "none", **rest} if not rest and name == "gelu":
            return name
        case {**rest} if not rest:
            return name
        case other:
            raise UsageError(f"an activation cannot have {other}")


def _epsilon(config: Mapping[str, Any]) -> float:
    match config.get("norm_kwargs") or {}:
        case {"eps": float(eps), **rest} if not rest:
            return eps
        case {**rest} if not rest:
            return 1e-5
        case other:
            raise UsageError(f"a layer norm cannot have {other}")


def _side(value: Any) -> int:
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) != 1:
        raise UsageError(f"images and patches must be square, not {value}")
    return int(sides.pop())


def _open_clip_recipe(file: Path) -> PreprocessSpec:
    raw = read_json(file)
    recipe, model = raw.get("preprocess_cfg") or {}, raw.get("model_cfg", raw)
    try:
        size = _side(recipe.get("size", model["vision_cfg"].get("image_size", 224)))
        squash = recipe.get("resize_mode") == "squash"
        fixed = {"interpolation": ("bicubic", "bilinear") if squash else ("bicubic",), "mode": ("RGB",)}
        for key, known in {**fixed, "resize_mode": ("shortest", "squash")}.items():
            if recipe.get(key, known[0]) not in known:
                raise UsageError(
                    f"preprocess_cfg.{key} is {recipe[key]!r}", fix=f"lrclr supports {' and '.join(known)}."
                )
        default = PreprocessSpec.clip(size)
        mean, std = (tuple(recipe.get(key) or getattr(default, key)) for key in ("mean", "std"))
        if squash:
            return PreprocessSpec("squash", size, mean, std, resample=recipe.get("interpolation"))
        return PreprocessSpec("clip", size, mean, std, resize=size)
    except Exception as error:
        why = str(error) or type(error).__name__
        raise CheckpointError(f"{file} has a preprocessing that cannot be used", why=why) from error


# Tokenizers.


def chosen_tokenizer(
    choice: str | None, context: int, options: Mapping[str, Any] = MappingProxyType({})
) -> ClipTokenizer | None:
    """Return the tokenizer that the caller chose, or None.

    Args:
        choice: ``"clip"`` for OpenAI CLIP's, or the path of a ``tokenizer.json``.
        context: the most tokens that the text encoder reads.
        options: options of `ClipTokenizer`.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if choice is None:
        return None
    if choice == "clip":
        return ClipTokenizer.default().with_context_length(context)
    return ClipTokenizer.from_file(choice, context_length=context, **options)


def tokenizer_beside(
    folder: Path, context: int, options: Mapping[str, Any] = MappingProxyType({})
) -> ClipTokenizer | None:
    """The tokenizer in a folder, with these options of `ClipTokenizer`, or None without one.

    Raises:
        CheckpointError: it cannot be read.
    """
    if (folder / TOKENIZER).is_file():
        return ClipTokenizer.from_file(folder / TOKENIZER, context_length=context, **options)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        data = byte_pairs(folder, CLIPTokenizer).to_str().encode()
        return ClipTokenizer(data, source=str(folder), context_length=context)
    return None


def check_padding(folder: Path, tokenizer: ClipTokenizer) -> None:
    """Refuse padding with a higher number than the end, of a network that reads a prompt at its highest token.

    The original code may read such a prompt at its padding.

    Raises:
        CheckpointError: the ``tokenizer_config.json`` of the folder names such padding.
    """
    file = folder / "tokenizer_config.json"
    padding = read_json(file).get("pad_token") if file.is_file() else None
    name = padding.get("content") if isinstance(padding, dict) else padding
    number = Tokenizer.from_buffer(tokenizer.data).token_to_id(name) if isinstance(name, str) else None
    if number is not None and number > tokenizer.eot_id:
        raise CheckpointError(
            f"{file} describes a tokenizer that lrclr cannot read",
            why=f"the network reads a prompt at its highest token, and padding ({name}) is token {number}, above the "
            f"end, {tokenizer.eot_id}",
        )


def byte_pairs(folder: Path, kind: type[CLIPTokenizer | RobertaTokenizer], **settings: Any) -> Tokenizer:
    """The tokenizer of a folder that has ``vocab.json`` and ``merges.txt``, from before there was a ``tokenizer.json``.

    Args:
        folder: with the files.
        kind: the class of transformers that knows what belongs around a text.
        settings: of that class; None for its default.

    Raises:
        CheckpointError: the files cannot be read.
    """
    try:
        vocabulary, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
        given = {name: value for name, value in settings.items() if value is not None}
        backend: Tokenizer = kind(vocab=vocabulary, merges=merges, **given).backend_tokenizer
        added = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
        for token, number in sorted(added.items(), key=lambda item: item[1]):
            backend.add_tokens([AddedToken(token, normalized=False)])
            if backend.token_to_id(token) != number:
                raise ValueError(f"the added token {number} does not follow the vocabulary")
        return backend
    except Exception as error:
        raise CheckpointError(f"{folder} has a tokenizer that cannot be read", why=str(error)) from error
