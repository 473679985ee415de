"""The configuration of a network from its tensors, and from facts beside them.

Shapes give widths, layers, patches and lengths. They do not give the number of attention heads, the activation and the
epsilon of layer normalisation: networks that differ in these have the same tensors. They come from the caller, from
files beside the weights, or from the modules in the file; failing that, from what OpenAI published, and then the
configuration records what was assumed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lrclr.errors import CheckpointError, UsageError
from lrclr.model import LEGACY_EOS, LrclrConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from lrclr.text import ClipTokenizer

_LAYER: Final = re.compile(r"^(vision|text)_model\.encoder\.layers\.(\d+)\.")
TOWERS: Final = ("vision", "text")
_SHOWN: Final = {"vision": "image", "text": "text"}
# By tower, width and layers: ViT-B/32, ViT-B/16, ViT-L/14 and ViT-L/14@336px.
_PUBLISHED: Final = {("vision", 768, 12): 12, ("vision", 1024, 24): 16, ("text", 512, 12): 8, ("text", 768, 12): 12}
# Networks of open_clip whose heads are not 64 wide, to say it in an error. By width of the image tower.
_OPEN_CLIP: Final = {
    1280: "ViT-H-14 has 16,16",
    1408: "ViT-g-14 has 16,16",
    1664: "ViT-bigG-14 has 16,20",
    1792: "ViT-e-14 has 16,20",
}
_SIZES: Final = (
    "vision_model.embeddings.patch_embedding.weight",
    "vision_model.embeddings.position_embedding.weight",
    "visual_projection.weight",
    "text_model.embeddings.position_embedding.weight",
    "text_model.embeddings.token_embedding.weight",
    "text_projection.weight",
)
_EPS: Final = 1e-5
# What a CLIP of lrclr computes and no tensor shows. open_clip's networks may have another pooling or no mask.
_COMPUTED: Final[Mapping[str, Mapping[str, str]]] = {
    "vision": {"pooling": "CLS"},
    "text": {"pooling": "the prompt's end", "mask": "causal"},
}
HIGHEST_TOKEN: Final = "highest_token"  # noqa: S105 - not a password


@dataclass(frozen=True)
class TowerFacts:
    """What one source records about one tower; None for what it does not record.

    Attributes:
        source: its name, for errors.
        tower: ``"vision"`` or ``"text"``.
        heads: number of attention heads.
        activation: transformers' name of the activation.
        eps: epsilon of layer normalisation.
        sizes: configuration fields that the shapes must agree with.
        end: where a prompt ends: the number of a token, or ``"highest_token"``.
        pooling, mask: what the tower is pooled at, and which attention it has: those of `_COMPUTED`, the only ones that
            lrclr computes.
    """

    source: str
    tower: str
    heads: int | None = None
    activation: str | None = None
    eps: float | None = None
    sizes: tuple[tuple[str, int], ...] = ()
    end: int | str | None = None
    pooling: str | None = None
    mask: str | None = None


def facts_from_options(heads: tuple[int, ...] | None, activation: str | None) -> list[TowerFacts]:
    """The options of `load_checkpoint`."""
    given = dict(zip(TOWERS, heads or (), strict=False))
    return [TowerFacts("the caller", tower, given.get(tower), activation) for tower in TOWERS]


def facts_from_config(source: str, tower: str, **fields: Any) -> TowerFacts:
    """The facts of a configuration, which also names pooling and mask; its reader refuses others than lrclr's."""
    return TowerFacts(source, tower, **{**_COMPUTED[tower], **fields})


_MODULES: Final = "a module in the file"
_ACTIVATIONS: Final = {
    "quickgelu": "quick_gelu",
    "quickgeluactivation": "quick_gelu",
    "gelu": "gelu",
    "geluactivation": "gelu",
    "gelutanh": "gelu_pytorch_tanh",
    "pytorchgelutanh": "gelu_pytorch_tanh",
}
# The first part of a module's name, in OpenAI's layout and in transformers'.
_TOWER_OF: Final = {
    **dict.fromkeys(("visual", "vision_model"), "vision"),
    **dict.fromkeys(("transformer", "ln_final", "text_model", "text_pool_type", "pool_type", "attn_mask"), "text"),
}


def facts_from_modules(modules: Mapping[str, object], state: Mapping[str, Tensor], path: Path) -> list[TowerFacts]:
    """The settings that modules in a file keep: TorchScript archives and pickled modules have them.

    Args:
        modules: settings by name.
        state: tensors under the names of the same layout, among which there may be the mask of the text tower.
        path: path of the file, for errors.

    Raises:
        CheckpointError: they compute what lrclr does not.
    """
    facts = []
    for name, value in modules.items():
        tower, setting = _TOWER_OF.get(name.partition(".")[0]), name.rpartition(".")[2]
        if tower is None:
            continue
        match setting, value:
            case "num_heads", int() if name.endswith("attn.num_heads"):
                facts.append(TowerFacts(_MODULES, tower, heads=value))
            case "eps", float():
                facts.append(TowerFacts(_MODULES, tower, eps=value))
            case "gelu" | "act" | "activation_fn", str() if name.endswith(f"mlp.{setting}"):
                activation = _module_activation(value, modules.get(f"{name}.approximate"), path)
                facts.append(TowerFacts(_MODULES, tower, activation=activation))
            case "pool_type" | "text_pool_type", str():
                if value != ("tok" if tower == "vision" else "argmax"):
                    raise _not_computed(path, f"the pooling of its {_SHOWN[tower]} tower is {value!r}")
                end = HIGHEST_TOKEN if tower == "text" else None
                facts.append(TowerFacts(_MODULES, tower, end=end, pooling=_COMPUTED[tower]["pooling"]))
            case "eos_token_id", int() if name == "text_model.eos_token_id":
                last = HIGHEST_TOKEN if value == LEGACY_EOS else value
                facts.append(TowerFacts(_MODULES, tower, end=last, pooling=_COMPUTED[tower]["pooling"]))
            case "attn_mask", None if tower == "text":
                raise _not_computed(path, "the attention of its text tower is not causal")
    for name, tensor in state.items():
        if name.endswith("attn_mask") and _TOWER_OF.get(name.partition(".")[0]) == "text":
            if not _is_causal(tensor):
                raise _not_computed(path, "the attention of its text tower is not causal")
            facts.append(TowerFacts(_MODULES, "text", mask=_COMPUTED["text"]["mask"]))
    return facts


def _module_activation(kind: str, approximate: object, path: Path) -> str:
    """transformers' name of the activation that a class is."""
    name = kind.rpartition(".")[2]
    known = _ACTIVATIONS.get(name.lower())
    if known is None or approximate not in (None, "none", "tanh"):
        raise _not_computed(path, f"it has the activation {name}")
    return "gelu_pytorch_tanh" if approximate == "tanh" else known


def _is_causal(mask: Tensor) -> bool:
    """Whether a mask that is added to attention, or that is true where it is zero, hides later tokens alone."""
    hidden = mask < -1000 if mask.is_floating_point() else mask.bool()
    wanted = hidden.new_ones(hidden.shape).triu(1) if hidden.ndim == 2 else None
    return wanted is not None and hidden.equal(wanted) and bool((mask[~hidden] == 0).all())


def _not_computed(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} holds a network that lrclr cannot read",
        why=why,
        fix="lrclr reads a CLIP with CLS pooling, GELU or QuickGELU, and a causal text tower pooled at its end.",
    )


def text_end(ends: Iterable[int | str], tokenizer: ClipTokenizer, path: Path) -> str:
    """`LrclrConfig.text_end` of a network with this tokenizer.

    Args:
        ends: where a prompt ends, by each source: see `TowerFacts.end`.
        tokenizer: of the network.
        path: path of the weights, for errors.

    Raises:
        CheckpointError: the tokenizer ends a prompt otherwise, or the sources contradict each other.
    """
    # Where no token was added behind the end, the highest token is the end.
    is_highest = tokenizer.vocab_size == tokenizer.eot_id + 1
    found = {tokenizer.eot_id if end == HIGHEST_TOKEN and is_highest else end for end in ends}
    if found not in ({tokenizer.eot_id}, {HIGHEST_TOKEN}):
        shown = " and ".join("its highest token" if end == HIGHEST_TOKEN else f"token {end}" for end in found)
        raise CheckpointError(
            f"the tokenizer does not fit the network in {path}",
            why=f"it ends a prompt with token {tokenizer.eot_id}; the network reads a prompt at {shown}",
            fix="Give the network's own with --tokenizer FILE, a tokenizer.json.",
        )
    return HIGHEST_TOKEN if HIGHEST_TOKEN in found else "eos_token"


def check_consistent(config: LrclrConfig, facts: Iterable[TowerFacts], path: Path) -> None:
    """Refuse what contradicts a configuration.

    Raises:
        UsageError: it does.
    """
    for one in facts:
        tower = getattr(config, f"{one.tower}_config")
        for field, value in _fields(one).items():
            if value is not None and value != getattr(tower, field):
                raise UsageError(
                    f"the configuration of {path} has {getattr(tower, field)} as {one.tower}_config.{field}",
                    why=f"{one.source} gave {value}",
                    fix="Leave the option out; of another checkpoint, give it to `lrclr convert` first.",
                )


def config_of(state: Mapping[str, Tensor], facts: Sequence[TowerFacts], path: Path) -> LrclrConfig:
    """Infer the configuration of a network.

    Args:
        state: its tensors, under transformers' names.
        facts: what is known beside them.
        path: path of the file, for errors.

    Raises:
        CheckpointError: the shapes are not those of a CLIP Vision Transformer, two sources contradict each other, or
            the number of heads is not known.
    """
    absent = [key for key in _SIZES if key not in state]
    if absent:
        raise CheckpointError(f"{path} does not contain a complete CLIP", why=f"missing: {', '.join(absent)}")
    try:
        sizes = _sizes(state)
        known = {tower: _known(tower, sizes[tower], facts, path) for tower in TOWERS}
        assumed = {tower: _assumed(tower, sizes[tower], known[tower], path) for tower in TOWERS}
        towers = {
            f"{tower}_config": {
                field: value
                for field, value in (sizes[tower] | known[tower] | assumed[tower]).items()
                if field not in _COMPUTED[tower]
            }
            for tower in TOWERS
        }
        return LrclrConfig(
            projection_dim=sizes["vision"]["projection_dim"], **towers, assumed=list(_sentences(assumed))
        )
    except (ValueError, UsageError) as error:
        raise CheckpointError(f"{path} has shapes that no CLIP Vision Transformer has", why=str(error)) from error


def _sizes(state: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    layers = dict.fromkeys(TOWERS, 0)
    for key in state:
        if match := _LAYER.match(key):
            layers[match[1]] = max(layers[match[1]], int(match[2]) + 1)
    width, _, patch, _ = state["vision_model.embeddings.patch_embedding.weight"].shape
    positions, _ = state["vision_model.embeddings.position_embedding.weight"].shape
    context, text_width = state["text_model.embeddings.position_embedding.weight"].shape
    vocabulary, _ = state["text_model.embeddings.token_embedding.weight"].shape
    dimension, _ = state["text_projection.weight"].shape
    if positions < 2:
        raise ValueError("its image tower has no patches")

    def tower(name: str, width: int) -> dict[str, Any]:
        first = state.get(f"{name}_model.encoder.layers.0.mlp.fc1.weight")
        return {
            "hidden_size": width,
            "intermediate_size": 4 * width if first is None or first.ndim != 2 else first.shape[0],
            "num_hidden_layers": layers[name],
            "projection_dim": dimension,
        }

    return {
        "vision": tower("vision", width) | {"image_size": math.isqrt(positions - 1) * patch, "patch_size": patch},
        "text": tower("text", text_width)
        | {
            "max_position_embeddings": context,
            "vocab_size": vocabulary,
            "eos_token_id": vocabulary - 1,
            "bos_token_id": vocabulary - 2,
        },
    }


def _known(tower: str, sizes: Mapping[str, Any], facts: Sequence[TowerFacts], path: Path) -> dict[str, Any]:
    """The fields of a tower's configuration that a source records."""
    known: dict[str, tuple[Any, str]] = {}
    for one in facts:
        if one.tower != tower:
            continue
        for field, value in one.sizes:
            patch = sizes.get("patch_size", 1)
            if field == "image_size" and value // patch == sizes[field] // patch:
                # Where a side is not a multiple of a patch, the pixels at the edge are not read.
                known.setdefault(field, (value, one.source))
            elif value != sizes[field]:
                raise CheckpointError(
                    f"{path} does not fit {one.source} beside it",
                    why=f"{field} of the {_SHOWN[tower]} tower is {sizes[field]} in the weights and {value} there",
                    fix=f"Move the weights away from {one.source}, or put the right one there.",
                )
        for field, value in _fields(one).items():
            first, source = known.setdefault(field, (value, one.source)) if value is not None else (value, "")
            if first != value:
                raise CheckpointError(
                    f"the sources of the configuration of {path} contradict each other",
                    why=f"{field} of the {_SHOWN[tower]} tower is {first} by {source}, and {value} by {one.source}",
                )
    heads = known.get("num_attention_heads")
    if heads is not None and sizes["hidden_size"] % heads[0]:
        raise CheckpointError(
            f"the {_SHOWN[tower]} tower of {path} cannot have {heads[0]} attention heads",
            why=f"its width {sizes['hidden_size']} is not a multiple, and {heads[1]} gave it",
        )
    return {field: value for field, (value, _) in known.items()}


def _assumed(tower: str, sizes: Mapping[str, Any], known: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The fields that no source records, as OpenAI's networks have them."""
    fields: dict[str, Any] = {"hidden_act": "quick_gelu", "layer_norm_eps": _EPS, **_COMPUTED[tower]}
    if "num_attention_heads" not in known:
        fields["num_attention_heads"] = _published_heads(tower, sizes, path)
    return {field: value for field, value in fields.items() if field not in known}


def _sentences(assumed: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    words = {
        "num_attention_heads": "attention heads: {}, as OpenAI published of these sizes",
        "hidden_act": "activation: {}, as in OpenAI's networks (open_clip's own have gelu)",
        "layer_norm_eps": "layer norm epsilon: {}",
        "pooling": "pooling: {}",
        "mask": "attention: {}",
    }
    for field, text in words.items():
        values = [f"{fields[field]} ({_SHOWN[tower]})" for tower, fields in assumed.items() if field in fields]
        if values:
            yield text.format(" and ".join(values))


def _fields(facts: TowerFacts) -> dict[str, Any]:
    return {
        "num_attention_heads": facts.heads,
        "hidden_act": facts.activation,
        "layer_norm_eps": facts.eps,
        "pooling": facts.pooling,
        "mask": facts.mask,
    }


def _published_heads(tower: str, sizes: Mapping[str, Any], path: Path) -> int:
    width, layers = sizes["hidden_size"], sizes["num_hidden_layers"]
    heads = _PUBLISHED.get((tower, width, layers))
    if heads is None:
        example = f" (open_clip's {_OPEN_CLIP[width]})" if width in _OPEN_CLIP else ""
        raise CheckpointError(
            f"the number of attention heads of {path} is not known",
            why=f"its tensors do not determine it, and OpenAI published no {_SHOWN[tower]} tower of {layers} layers of "
            f"width {width}",
            fix="Give --heads IMAGE,TEXT, or heads=(IMAGE, TEXT) to load_checkpoint"
            f"{example}; or put its open_clip_config.json or config.json beside it.",
        )
    return heads
