"""The one CLIP among a file's tensors, found by how their names end.

Trainers put a state dict below other keys (``state_dict``, ``model``, ``ema``), and modules into wrappers, which add a
part to each name (``module.``, ``_orig_mod.``, ``model.``, ``clip.``). What a name ends with is left unchanged by all
of them, in every file format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from lrclr.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from lrclr.checkpoints._files import TensorFile

# DataParallel, torch.compile, FSDP and activation checkpointing put these anywhere into a name.
_WRAPPERS: Final = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))

# Buffers of older networks of transformers, and of its pickled modules: 0, 1, 2 and so on.
_COUNTED: Final = "_model.embeddings.position_ids"


@dataclass(frozen=True)
class TensorNames:
    """How a library names a CLIP's tensors.

    Attributes:
        vision, text: a tensor that each tower has, from which the tower's place is found.
        parts: what the names of a CLIP begin with.
        apart: tensors that may be kept apart from both towers.
    """

    vision: str
    text: str
    parts: frozenset[str]
    apart: tuple[str, ...]


OPENAI: Final = TensorNames(
    vision="visual.conv1.weight",
    text="token_embedding.weight",
    parts=frozenset(
        ("visual", "transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection")
    ),
    apart=("logit_scale", "text_projection"),
)
TRANSFORMERS: Final = TensorNames(
    vision="vision_model.embeddings.patch_embedding.weight",
    text="text_model.embeddings.token_embedding.weight",
    parts=frozenset(("vision_model", "text_model", "visual_projection", "text_projection", "fusion_head")),
    apart=("logit_scale", "text_projection.weight", "visual_projection.weight"),
)


@dataclass(frozen=True)
class Found:
    """A CLIP in a file.

    Attributes:
        layout: how its tensors are named.
        state: its tensors, under their names in that layout.
        modules: settings that its modules keep, under names of that layout.
        left_out: tensors of the same table that do not belong to it.
    """

    layout: TensorNames
    state: dict[str, Tensor]
    modules: dict[str, object]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Where a CLIP's towers are.

    Attributes:
        layout: how its tensors are named.
        vision, text: what stands before the names of each tower: dotted paths that end in a dot, or ``""``.
        first: full name of the image tower's first layer.
        whole: whether there is a text tower.
    """

    layout: TensorNames
    vision: str
    text: str
    first: str
    whole: bool

    @property
    def shown(self) -> str:
        return self.vision.rstrip(".") or "."


def find_clip(file: TensorFile, key: str | None = None) -> Found:
    """Find the CLIP in a file and read its tensors.

    Args:
        file: what to look in.
        key: where the CLIP is, if there are several: the path of its tensors, or the beginning of it; ``"."`` for the
            file's root.

    Raises:
        CheckpointError: there is none, or several.
    """
    known = places = list(_places(file))
    # A copy of one tower alone, as an average of the image tower's weights is, is not a network.
    places = [place for place in places if place.whole] or places
    if key is not None:
        wanted = key.strip(".")
        exact = [place for place in known if place.vision.rstrip(".") == wanted]
        places = exact or [place for place in known if place.vision.startswith(f"{wanted}.")]
        if not places:
            shown = ", ".join(sorted(place.shown for place in known)) or "none"
            raise CheckpointError(
                f"{file.path} holds no CLIP under {key!r}",
                fix=f"There are: {shown}." if shown != "." else "Its only one is the root: omit --key.",
            )
    if not places:
        raise _nothing_found(file)
    if len(places) > 1:
        raise CheckpointError(
            f"{file.path} holds {len(places)} networks",
            why=f"under {', '.join(sorted(place.shown for place in places))}",
            fix="Choose one: --key NAME, or load_checkpoint(path, key=NAME).",
        )
    return _read(file, places[0])


def _places(file: TensorFile) -> Iterator[_Place]:
    """The place of every CLIP in the file; one for each tensor that is an image tower's first layer."""
    seen: set[tuple[object, object]] = set()
    for layout in (TRANSFORMERS, OPENAI):
        visions, texts = (
            {root: name for name in file.entries if (root := _root(name, end)) is not None}
            for end in (layout.vision, layout.text)
        )
        if layout is OPENAI:
            # In transformers' names the text tower ends in the same words.
            texts = {root: name for root, name in texts.items() if not name.endswith(TRANSFORMERS.text)}
        for root, first in visions.items():
            # A module that its owner knows under two names is one module.
            entry = file.entries[first]
            if (entry.file, entry.view) in seen:
                continue
            seen.add((entry.file, entry.view))
            # A text tower beside the image tower, or below it (open_clip's CustomTextCLIP), or the only one there is.
            near = [place for place in (root, f"{root}text.") if place in texts]
            if not near and len(visions) == len(texts) == 1:
                near = list(texts)
            yield _Place(layout, root, near[0] if near else root, first, bool(near))


def _root(name: str, end: str) -> str | None:
    """What stands before a tensor's own name, if the name ends with `end` once wrappers are left out."""
    if not name.endswith(end.rpartition(".")[2]):
        return None
    parts, place = name.split("."), 0
    for wanted in reversed(end.split(".")):
        while place < len(parts) and place and parts[-1 - place] in _WRAPPERS:
            place += 1
        if place >= len(parts) or parts[-1 - place] != wanted:
            return None
        place += 1
    before = parts[: len(parts) - place]
    return "".join(f"{part}." for part in before)


def _read(file: TensorFile, place: _Place) -> Found:
    container = file.entries[place.first].container
    names = _inner(file, file.entries, place)
    if (other := _other_family(names, file)) is not None:
        raise other
    # The projections and the scale may be kept outside the towers.
    for end in place.layout.apart:
        if end not in names:
            free = [name for name in file.entries if _root(name, end) is not None and name not in names.values()]
            near = [name for name in free if file.entries[name].container == container]
            if len(near) == 1 or len(free) == 1:
                names[end] = (near if len(near) == 1 else free)[0]
    taken = set(names.values())
    left_out = (name for name, e in file.entries.items() if e.container == container and name not in taken)
    tensors = file.tensors(taken)
    return Found(
        place.layout,
        state={name: tensors[source] for name, source in names.items() if not name.endswith(_COUNTED)},
        modules={name: file.modules[source] for name, source in _inner(file, file.modules, place).items()},
        left_out=tuple(left_out),
    )


def _inner(file: TensorFile, names: Iterable[str], place: _Place) -> dict[str, str]:
    """The names below a place, without wrappers, and what they are in the file."""
    container = file.entries[place.first].container
    inner: dict[str, str] = {}
    # The longer one first: a text tower may be below the image tower's place.
    roots = sorted({place.vision, place.text}, key=len, reverse=True)
    for name in names:
        root = next((root for root in roots if name.startswith(root)), None)
        if root is None:
            continue
        short = ".".join(part for part in name.removeprefix(root).split(".") if part not in _WRAPPERS)
        # At the root of a file the optimizer's tensors are below the same place.
        foreign = name in file.entries and file.entries[name].container != container
        if foreign and short.partition(".")[0] not in place.layout.parts:
            continue
        if inner.setdefault(short, name) != name and name in file.entries:
            raise CheckpointError(f"{file.path} holds {short} twice", why=f"as {inner[short]} and as {name}")
    return inner


def _nothing_found(file: TensorFile) -> CheckpointError:
    """The error of a file without a CLIP of this kind."""
    return _other_family(file.entries, file) or CheckpointError(
        f"{file.path} holds no CLIP Vision Transformer",
        why=f"no tensor's name ends with {OPENAI.vision} or {TRANSFORMERS.vision}; "
        f"it has {', '.join(list(file.entries)[:3])}",
    )


_NO_PATCHES: Final = (
    "regions are picked from a Vision Transformer's attention over patches, which a ResNet does not have"
)
_WITH_CONFIG: Final = "its tensors alone do not determine it; read it under its original name, with {} beside it"
_OTHERS: Final = (
    (".visual.layer1.", "a ResNet CLIP", _NO_PATCHES),
    (
        ".visual.trunk.",
        "an open_clip network with an image tower of timm",
        _WITH_CONFIG.format("open_clip_config.json and its tokenizer"),
    ),
    (".vision_model.head.", "a SigLIP", _WITH_CONFIG.format("config.json and its tokenizer")),
    (".vision_model.encoder.layer.", "a dual encoder with a ViT", _WITH_CONFIG.format("config.json and its tokenizer")),
    (".logit_bias", "a network with a sigmoid loss, such as SigLIP", _WITH_CONFIG.format("its configuration")),
    # GLoRIA, BioViL, ConVIRT and others.
    (".layer1.0.conv1.", "a network with an image tower of the ResNet kind", _NO_PATCHES),
)


def _other_family(names: Iterable[str], file: TensorFile) -> CheckpointError | None:
    """The error of a network of another kind, if its names show one."""
    dotted = [f".{name}" for name in names]
    for mark, family, why in _OTHERS:
        if any(mark in name for name in dotted):
            return CheckpointError(f"{file.path} is {family}", why=why)
    return None
