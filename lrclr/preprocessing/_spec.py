"""Configuration of preprocessing: the recipe's numbers, and where an image lies in the model's input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from PIL import Image

from lrclr.errors import UsageError
from lrclr.images._resize import resized_size

Triple = tuple[float, float, float]

CLIP_MEAN: Final[Triple] = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final[Triple] = (0.26862954, 0.26130258, 0.27577711)
HALF: Final[Triple] = (0.5, 0.5, 0.5)
CHEXZERO_MEAN: Final = 101.48761
CHEXZERO_STD: Final = 83.43944
MAX_SIDE: Final = 4096
# The field that each recipe has of its own.
_OWN: Final = {"clip": "resize", "chexzero": "canvas", "squash": "resample"}


@dataclass(frozen=True)
class Geometry:
    """Where an image lies in the model's square input.

    Coordinates are continuous: pixel ``i`` covers ``[i, i + 1)``, x runs right and y runs down.

    Attributes:
        input_size: side of the model's input, in pixels.
        height, width: size of the original image, in pixels.
        scale_x, scale_y: input pixels per image pixel.
        offset_x, offset_y: the image's upper left corner in the input, in input pixels; negative where it is cropped.
    """

    input_size: int
    height: int
    width: int
    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """Image coordinates of a point of the input; outside the image for a point in its padding."""
        return (x - self.offset_x) / self.scale_x, (y - self.offset_y) / self.scale_y

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Input coordinates of a point of the image; outside the input for a point that is cropped away."""
        return x * self.scale_x + self.offset_x, y * self.scale_y + self.offset_y

    def box(self, patch_index: int, patch_size: int) -> tuple[float, float, float, float]:
        """The part of the image that a patch sees.

        Args:
            patch_index: row-major number of the patch, as in ``region_index``.
            patch_size: side of a patch, in input pixels.

        Returns:
            ``(left, top, right, bottom)`` in image pixels, clipped to the image. A patch that lies wholly in the
            padding has no area.

        Raises:
            UsageError: there is no such patch.
        """
        columns = self.input_size // patch_size if patch_size > 0 else 0
        if not 0 <= patch_index < columns * columns:
            raise UsageError(
                f"there is no patch {patch_index}",
                why=f"an input of {self.input_size} pixels has {columns * columns} patches of {patch_size} pixels",
            )
        row, column = divmod(patch_index, columns)
        left, top = self.to_image(column * patch_size, row * patch_size)
        right, bottom = self.to_image((column + 1) * patch_size, (row + 1) * patch_size)
        width, height = float(self.width), float(self.height)
        return (
            min(max(left, 0.0), width),
            min(max(top, 0.0), height),
            min(max(right, 0.0), width),
            min(max(bottom, 0.0), height),
        )


@dataclass(frozen=True)
class PreprocessSpec:
    """A recipe and its numbers; checked when made.

    Attributes:
        kind: which recipe.
        image_size: side of the model's square input, in pixels; for ``clip`` also the side of the crop.
        mean, std: one per channel; on the scale [0, 255] for ``chexzero``, on [0, 1] for the others.
        resize: ``clip`` only: shortest edge before the crop, in pixels; ``image_size`` unless given.
        canvas: ``chexzero`` only: side of the black canvas, in pixels; 320 unless given.
        resample: ``squash`` only: ``"bicubic"``, which is the default, or ``"bilinear"``.

    Raises:
        UsageError: a value that the recipe cannot use.
    """

    kind: Literal["clip", "chexzero", "squash"]
    image_size: int
    mean: Triple
    std: Triple
    resize: int | None = None
    canvas: int | None = None
    resample: Literal["bicubic", "bilinear"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in _OWN:
            raise _bad("kind", self.kind, "one of 'clip', 'chexzero' and 'squash'")
        _check_side("image_size", self.image_size)
        for name, triple in (("mean", self.mean), ("std", self.std)):
            if not isinstance(triple, tuple) or len(triple) != 3 or not all(_is_number(value) for value in triple):
                raise _bad(name, triple, "a tuple of three finite numbers, one per channel")
        if min(self.std) < 1e-6:
            raise _bad("std", self.std, "three numbers above zero")
        own = _OWN[self.kind]
        for other in _OWN.values():
            if other != own and getattr(self, other) is not None:
                raise _bad(other, getattr(self, other), f"nothing, because {self.kind!r} has none")
        if getattr(self, own) is None:
            default = {"resize": self.image_size, "canvas": 320, "resample": "bicubic"}[own]
            object.__setattr__(self, own, default)
        if own != "resample":
            _check_side(own, getattr(self, own))
        elif self.resample not in ("bicubic", "bilinear"):
            raise _bad("resample", self.resample, "'bicubic' or 'bilinear'")
        if self.kind == "chexzero" and (len(set(self.mean)) > 1 or len(set(self.std)) > 1):
            raise UsageError("the channels of 'chexzero' cannot differ in mean or std", why="its canvas is grey")

    @classmethod
    def clip(cls, image_size: int = 224) -> PreprocessSpec:
        """OpenAI CLIP's recipe and numbers."""
        return cls("clip", image_size, CLIP_MEAN, CLIP_STD)

    @classmethod
    def chexzero(cls, image_size: int = 224) -> PreprocessSpec:
        """CheXzero's recipe and numbers."""
        return cls("chexzero", image_size, (CHEXZERO_MEAN,) * 3, (CHEXZERO_STD,) * 3)

    @classmethod
    def siglip(cls, image_size: int = 224) -> PreprocessSpec:
        """SigLIP's recipe and numbers."""
        return cls("squash", image_size, HALF, HALF)

    @property
    def name(self) -> str:
        """Name of the recipe for users, as they give it with ``--preprocess``."""
        return "siglip" if self.squash else self.kind

    @property
    def squash(self) -> bool:
        """Whether the image is resized to a square, whatever its shape is."""
        return self.kind == "squash"

    def to_dict(self) -> dict[str, Any]:
        """The recipe in JSON's types, for a manifest."""
        own = _OWN[self.kind]
        return {
            "kind": self.kind,
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            own: getattr(self, own),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PreprocessSpec:
        """The recipe that :meth:`to_dict` wrote.

        Raises:
            UsageError: a key is missing or unknown, or a value has the wrong type.
        """
        _check_mapping(values)
        kind = values.get("kind")
        expected = {"kind", "image_size", "mean", "std", _OWN.get(str(kind), "resize")}
        for word, keys in (("lacks", expected - values.keys()), ("has unknown", values.keys() - expected)):
            if keys:
                names = ", ".join(repr(key) for key in sorted(keys, key=str))
                raise UsageError(
                    f"a preprocessing configuration {word} {names}",
                    fix=f"It holds exactly {', '.join(sorted(expected))}.",
                )
        triples = {key: tuple(v) if isinstance(v := values[key], list) else v for key in ("mean", "std")}
        return cls(**{**values, **triples})

    @classmethod
    def from_transformers(cls, values: Mapping[str, Any]) -> PreprocessSpec:
        """The recipe of a transformers ``preprocessor_config.json``.

        A ``CLIPImageProcessor`` becomes ``clip``; a ``SiglipImageProcessor`` or ``ViTImageProcessor`` becomes
        ``squash``. Keys that are left out have that class's defaults.

        Raises:
            UsageError: a key asks for what the recipe cannot do; the message names the key.
        """
        _check_mapping(values)
        name = str(values.get("image_processor_type") or values.get("feature_extractor_type") or "CLIP")
        resample = next((value for kind, value in _SQUASHING.items() if name.startswith(kind)), None)
        if resample is None and not name.startswith("CLIP"):
            key = "image_processor_type" if "image_processor_type" in values else "feature_extractor_type"
            raise _refused(key, name, "CLIPImageProcessor, SiglipImageProcessor and ViTImageProcessor")
        squash = resample is not None
        fixed = {**_TRANSFORMERS_FIXED, **({"do_center_crop": False} if squash else {})}
        if squash:
            resample = _RESAMPLING.get(values.get("resample", resample))
            if resample is None:
                raise _refused("resample", values["resample"], "2 (bilinear) and 3 (bicubic)")
            del fixed["resample"]
        for key, only in fixed.items():
            found = values.get(key, only)
            if found != only and not (squash and not found and not only):
                raise _refused(key, values[key], repr(only))
        factor = values.get("rescale_factor", 1 / 255)
        if not _is_number(factor) or not math.isclose(factor, 1 / 255, rel_tol=1e-6):
            raise _refused("rescale_factor", factor, "1/255")
        read = _TRANSFORMERS_READ | ({"resample"} if squash else set())
        for key in values.keys() - read - fixed.keys():
            # A flag that is off, or a setting that is null, changes nothing whatever it is called.
            if values[key] is not None and values[key] is not False:
                raise _refused(key, values[key], "no such key")
        own = (HALF, HALF) if squash else (CLIP_MEAN, CLIP_STD)
        mean, std = values.get("image_mean", own[0]), values.get("image_std", own[1])
        if not values.get("do_normalize", True):
            mean, std = (0.0,) * 3, (1.0,) * 3
        for key, triple in (("image_mean", mean), ("image_std", std)):
            if not isinstance(triple, list | tuple) or len(triple) != 3:
                raise _refused(key, triple, "three numbers")
        if squash:
            side = _one_side(values, "size", {"height", "width"})
            return cls("squash", side, tuple(mean), tuple(std), resample=resample)
        resize = _one_side(values, "size", {"shortest_edge"})
        image_size = _one_side(values, "crop_size", {"height", "width"})
        return cls("clip", image_size, tuple(mean), tuple(std), resize=resize)

    def geometry(self, height: int, width: int) -> Geometry:
        """Where an image of this size lies in the model's input.

        Args:
            height, width: size of the original image, in pixels.

        Raises:
            ImageError: the image has no pixels, or is too narrow for the recipe.
        """
        rows, columns = resized_size(self, height, width)
        window = self.canvas or self.image_size
        zoom = self.image_size / window
        return Geometry(
            input_size=self.image_size,
            height=height,
            width=width,
            scale_x=columns / width * zoom,
            scale_y=rows / height * zoom,
            offset_x=corner(self, window, columns) * zoom,
            offset_y=corner(self, window, rows) * zoom,
        )


def corner(spec: PreprocessSpec, window: int, resized: int) -> int:
    """Where a resized edge begins in its window. The two sources round an odd remainder to different sides."""
    return (window - resized) // 2 if spec.canvas is not None else -((resized - window) // 2)


_TRANSFORMERS_FIXED: Final[dict[str, Any]] = {
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "resample": int(Image.Resampling.BICUBIC),
    "data_format": "channels_first",
}
# By the beginning of a class's name: its own way of resizing to a square.
_SQUASHING: Final[dict[str, Any]] = {
    "Siglip": int(Image.Resampling.BICUBIC),
    "ViT": int(Image.Resampling.BILINEAR),
}
_RESAMPLING: Final[dict[Any, Any]] = {
    int(Image.Resampling.BICUBIC): "bicubic",
    int(Image.Resampling.BILINEAR): "bilinear",
}
_TRANSFORMERS_READ: Final = {
    *("image_processor_type", "feature_extractor_type", "processor_class", "_processor_class", "_valid_processor_keys"),
    *("size", "crop_size", "image_mean", "image_std", "rescale_factor", "do_normalize", "do_convert_rgb"),
}


def _one_side(values: Mapping[str, Any], key: str, names: set[str]) -> int:
    """The one number in transformers' ``224`` or ``{"height": 224, "width": 224}``."""
    size = values.get(key, 224)
    sides = {name: side for name, side in size.items() if side is not None} if isinstance(size, dict) else None
    if sides is not None and sides.keys() == names and len(set(sides.values())) == 1:
        size = next(iter(sides.values()))
    if not isinstance(size, int) or isinstance(size, bool):
        raise _refused(key, size, f"a number, or one number for {' and '.join(sorted(names))}")
    return size


def _refused(key: str, value: object, expected: str) -> UsageError:
    return UsageError(
        f"an image processor configuration has {key} = {value!r}, which lrclr does not support",
        fix=f"It supports {expected}.",
    )


def _bad(name: str, value: object, expected: str) -> UsageError:
    return UsageError(f"preprocessing cannot use {name} = {value!r}", fix=f"It must be {expected}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 < value < 1e9


def _check_mapping(values: object) -> None:
    if not isinstance(values, Mapping):
        raise UsageError(f"a preprocessing configuration must be a table of keys, not {type(values).__name__}")


def _check_side(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_SIDE:
        raise _bad(name, value, f"a whole number of pixels from 1 to {MAX_SIDE}")
