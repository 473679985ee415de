"""Augmentation: small random changes of an image, without mirroring, since reports name sides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lrclr.errors import UsageError

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Limits of the changes. Each amount is drawn uniformly between minus and plus its limit.

    Attributes:
        rotation: degrees.
        scale: share of the size.
        shift: share of the side, in each direction.
        gamma: natural logarithm of the exponent.
        contrast: share of the distance to the mean.
        brightness: share of the full range.
        noise: largest standard deviation of Gaussian noise, as a share of the full range.
    """

    rotation: float = 8.0
    scale: float = 0.1
    shift: float = 0.05
    gamma: float = 0.2
    contrast: float = 0.15
    brightness: float = 0.08
    noise: float = 0.02

    def __post_init__(self) -> None:
        for name, most in (("rotation", 45), ("scale", 0.5), ("shift", 0.5), ("gamma", 1), ("contrast", 0.9)):
            _check(name, getattr(self, name), most)
        for name in ("brightness", "noise"):
            _check(name, getattr(self, name), 0.5)

    @classmethod
    def off(cls) -> Augmentation:
        """No augmentation."""
        return cls(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def augment(canvas: NDArray[np.uint8], limits: Augmentation, generator: Generator) -> NDArray[np.uint8]:
    """A changed copy of a canvas, ``[S, S]`` or ``[S, S, 3]``; the same generator state gives the same copy."""
    if limits == Augmentation.off():
        return canvas
    turn, zoom, right, down, gamma, contrast, brightness = generator.uniform(-1.0, 1.0, 7)
    sigma = generator.uniform(0.0, 1.0) * limits.noise * 255
    if limits.rotation or limits.scale or limits.shift:
        angle, factor = math.radians(turn * limits.rotation), 1.0 + zoom * limits.scale
        canvas = _moved(canvas, angle, factor, (right * limits.shift, down * limits.shift))
    levels = np.arange(256) / 255
    tone = levels ** math.exp(gamma * limits.gamma)
    mean = float(canvas.mean()) / 255
    tone = mean + (tone - mean) * (1.0 + contrast * limits.contrast) + brightness * limits.brightness
    table = np.clip(np.rint(tone * 255), 0, 255).astype(np.uint8)
    # Black stays black: it is also the border that the preprocessing adds.
    table[0] = 0
    result: NDArray[np.uint8] = table[canvas]
    if sigma > 0:
        noise = generator.standard_normal(result.shape, dtype=np.float32) * np.float32(sigma)
        noisy: NDArray[np.uint8] = np.clip(np.rint(result + noise), 0, 255).astype(np.uint8)
        noisy[result == 0] = 0
        return noisy
    return result


def _moved(canvas: NDArray[np.uint8], angle: float, factor: float, shift: tuple[float, float]) -> NDArray[np.uint8]:
    """Rotated and scaled about the centre, then shifted by shares of the side, with a black border."""
    height, width = canvas.shape[:2]
    centre_x, centre_y = width / 2, height / 2
    cos, sin = math.cos(angle) / factor, math.sin(angle) / factor
    x, y = centre_x + shift[0] * width, centre_y + shift[1] * height
    # Pillow needs the inverse: the source position of each pixel of the result.
    back = (cos, sin, centre_x - cos * x - sin * y, -sin, cos, centre_y + sin * x - cos * y)
    image = Image.fromarray(canvas)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR))


def _check(name: str, value: object, most: float) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most
    if not good:
        raise UsageError(f"augmentation cannot use {name} = {value!r}", fix=f"It must be between 0 and {most}.")
