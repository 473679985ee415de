"""Kinds of pictures: chest radiographs in frames in which they are still good, and what a check should warn of."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]
    Change = Callable[[Picture], Picture]

__all__ = ["FAULTS", "FRAMES", "noise_pictures", "pages"]


def _padded(image: Picture, top: float, right: float, bottom: float, left: float, level: int = 0) -> Picture:
    """Add bars, as shares of the edges."""
    height, width = image.shape[:2]
    rows, columns = (round(top * height), round(bottom * height)), (round(left * width), round(right * width))
    return np.pad(image, (rows, columns, *[(0, 0)] * (image.ndim - 2)), constant_values=level)


def _shifted(image: Picture, down: float, right: float) -> Picture:
    """Move the content; what it leaves is black."""
    height, width = image.shape[:2]
    rows, columns = round(down * height), round(right * width)
    moved = np.zeros_like(image)
    moved[max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)] = image[
        max(-rows, 0) : height - max(rows, 0), max(-columns, 0) : width - max(columns, 0)
    ]
    return moved


def _cropped(image: Picture, share: float) -> Picture:
    rows, columns = round(share * image.shape[0]), round(share * image.shape[1])
    return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]


def _gamma(image: Picture, exponent: float) -> Picture:
    return np.rint(255 * (image / 255) ** exponent).astype(np.uint8)


def _compressed(image: Picture) -> Picture:
    with io.BytesIO() as stream:
        Image.fromarray(image).save(stream, "JPEG", quality=20)
        return np.asarray(Image.open(stream).convert("L" if image.ndim == 2 else "RGB"))


def _rotated(image: Picture, degrees: float) -> Picture:
    return np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))


FRAMES: Final[Mapping[str, Change]] = {
    "as it is": lambda image: image,
    "sides padded by 25 %": lambda image: _padded(image, 0, 0.25, 0, 0.25),
    "top and bottom padded by 25 %": lambda image: _padded(image, 0.25, 0, 0.25, 0),
    "padded with white by 10 %": lambda image: _padded(image, 0.1, 0.1, 0.1, 0.1, 255),
    "shifted right by 15 %": lambda image: _shifted(image, 0, 0.15),
    "shifted left by 15 %": lambda image: _shifted(image, 0, -0.15),
    "shifted down by 15 %": lambda image: _shifted(image, 0.15, 0),
    "shifted up by 15 %": lambda image: _shifted(image, -0.15, 0),
    "cropped by 10 % at each edge": lambda image: _cropped(image, 0.1),
    "rotated by 10°": lambda image: _rotated(image, 10),
    "gamma 0.6": lambda image: _gamma(image, 0.6),
    "gamma 1.6": lambda image: _gamma(image, 1.6),
    "half the contrast": lambda image: image // 2 + np.uint8(64),
    "JPEG, quality 20": _compressed,
}
"""Good radiographs: each warning is a false alarm."""

FAULTS: Final[Mapping[str, Change]] = {
    "inverted": lambda image: 255 - image,
    "inverted, with black bars": lambda image: _padded(255 - image, 0, 0.25, 0, 0.25),
    "turned left": np.rot90,
    "turned right": lambda image: np.rot90(image, 3),
    "turned by 180°": lambda image: np.rot90(image, 2),
    "flipped top to bottom": lambda image: image[::-1],
    "flipped left to right": lambda image: image[:, ::-1],
    "rotated by 30°": lambda image: _rotated(image, 30),
    "left half": lambda image: image[:, : image.shape[1] // 2],
    "upper half": lambda image: image[: image.shape[0] // 2],
    "lower 40 %": lambda image: image[image.shape[0] * 3 // 5 :],
    "middle third": lambda image: _cropped(image, 1 / 3),
    "64 pixels": lambda image: np.asarray(Image.fromarray(image).resize((64, 64))),
    "tinted": lambda image: (np.atleast_3d(image)[..., :1] * np.array([1.0, 0.85, 0.7])).astype(np.uint8),
    "a twelfth of the contrast": lambda image: image // 12 + np.uint8(100),
}
"""Radiographs that a check should warn of, unless the page says that it does not."""


def pages(count: int) -> list[Picture]:
    """Pages of text, black on white or white on black, of other sizes and densities."""
    made = []
    for number in range(count):
        page = Image.new("L", (400 + 20 * number, 560), 255)
        for line in range(5 + number):
            text = "The lungs are clear. No pleural effusion. " * (1 + number % 3)
            ImageDraw.Draw(page).text((20, 20 + 16 * line), text, fill=0)
        pixels = np.array(page)
        made.append(255 - pixels if number % 4 == 3 else pixels)
    return made


def noise_pictures(count: int) -> list[Picture]:
    """Independent pixels, of uniform or normal levels."""
    random = np.random.default_rng(0)
    return [
        random.integers(0, 256, (300, 260), dtype=np.uint8)
        if number % 2
        else np.clip(random.normal(128, 20 + number, (300, 260)), 0, 255).astype(np.uint8)
        for number in range(count)
    ]
