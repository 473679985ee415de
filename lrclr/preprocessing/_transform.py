"""From 8-bit pixels to what the image encoder reads, and the way back from a patch to the radiograph.

Three recipes are known:

- ``clip``: shortest edge to ``resize`` (bicubic, antialiased), centre crop, [0, 255] to [0, 1], mean and standard
  deviation per channel. Equal, float for float, to the Pillow backend of transformers' ``CLIPImageProcessor``.
- ``squash``: to a square of ``image_size`` (``resample``, antialiased) whatever the shape of the image is, [0, 255] to
  [0, 1], mean and standard deviation per channel. Equal, float for float, to the Pillow backend of transformers'
  ``SiglipImageProcessor`` and ``ViTImageProcessor``.
- ``chexzero``: longest edge to ``canvas`` (Lanczos), centred on a black 8-bit canvas, mean and standard deviation on
  the 0-255 scale, then bicubic *without* antialias to ``image_size``. Source: ``data_process.py`` and ``zero_shot.py``
  of rajpurkarlab/CheXzero.

Only NumPy and Pillow are needed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from lrclr.budget import decoding
from lrclr.errors import ImageError, UsageError
from lrclr.images import ReducedImage
from lrclr.images._resize import resized_size
from lrclr.preprocessing._spec import PreprocessSpec, corner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.preprocessing._spec import Triple


def preprocess(image: NDArray[np.uint8] | ReducedImage, spec: PreprocessSpec) -> NDArray[np.float32]:
    """What the image encoder reads, made from one image.

    Args:
        image: uint8 ``[H, W]`` (grey) or ``[H, W, 3]`` (RGB), or what `read_reduced` read with the same recipe.
        spec: the recipe.

    Returns:
        float32 ``[3, S, S]``, S being ``spec.image_size``.

    Raises:
        ImageError: wrong type or shape, no pixels, or too narrow for the recipe.
        ImageLimitError: so long and narrow that resizing it would take gigabytes.
    """
    return from_canvas(to_canvas(image, spec), spec)


def to_canvas(image: NDArray[np.uint8] | ReducedImage, spec: PreprocessSpec) -> NDArray[np.uint8]:
    """The first half of :func:`preprocess`, all of it in 8 bits: what is worth keeping between epochs.

    Returns:
        uint8 ``[S', S']``, or ``[S', S', 3]`` for a coloured image except under ``chexzero``; S' is ``spec.canvas``
        under ``chexzero`` and ``spec.image_size`` elsewhere.

    Raises:
        ImageError, ImageLimitError: as in :func:`preprocess`.
    """
    if not isinstance(image, ReducedImage):
        _check_image(image)
        image = ReducedImage.whole(image)
    rows, columns = resized_size(spec, image.height, image.width)
    with decoding.job():
        # The pixels, and Pillow's copy of RGB in four bytes. It resizes along the rows first, which takes another
        # picture, of the new width and the old height.
        decoding.reserve(image.pixels.nbytes * 7 // 3 + 4 * columns * (image.pixels.shape[0] + rows))
        return _canvas(image, spec, rows, columns)


def _canvas(image: ReducedImage, spec: PreprocessSpec, rows: int, columns: int) -> NDArray[np.uint8]:
    picture = Image.fromarray(image.pixels)
    if spec.squash:
        return np.asarray(_resized(picture, columns, rows, Image.Resampling[str(spec.resample).upper()]))
    if spec.canvas is None:
        size = spec.image_size
        left, top = -corner(spec, size, columns), -corner(spec, size, rows)
        # Grey stays grey until the table: Pillow filters each channel alone, so three equal ones are needless work.
        resized = _resized(picture, columns, rows, Image.Resampling.BICUBIC)
        return np.asarray(resized.crop((left, top, left + size, top + size)))
    resized = _resized(picture, columns, rows, Image.Resampling.LANCZOS)
    canvas = Image.new("L", (spec.canvas, spec.canvas))
    # Pasting turns RGB into grey after the resize, as CheXzero does; grey = (g, g, g) gives g back exactly.
    canvas.paste(resized, (corner(spec, spec.canvas, columns), corner(spec, spec.canvas, rows)))
    return np.asarray(canvas)


def _resized(picture: Image.Image, columns: int, rows: int, resample: Image.Resampling) -> Image.Image:
    """Resize a picture of mode L, RGB or F to one of 8 bits."""
    if picture.mode != "F":
        return picture.resize((columns, rows), resample)
    # As Pillow does with 8 bits: first along the rows, and what overshoots there is cut off before it goes on.
    across = np.clip(np.asarray(picture.resize((columns, picture.height), resample)), 0, 255)
    upright = np.asarray(Image.fromarray(across).resize((columns, rows), resample))
    return Image.fromarray(np.rint(np.clip(upright, 0, 255)).astype(np.uint8))


def _check_image(image: object) -> None:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = getattr(image, "dtype", type(image).__name__)
        raise ImageError(f"an image must be an array of uint8, not {found}", fix="Window it to 8 bits first.")
    if image.ndim not in {2, 3} or image.shape[2:] not in {(), (3,)}:
        raise ImageError(f"an image must have the shape [H, W] or [H, W, 3], not {list(image.shape)}")


def from_canvas(canvas: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    """The second half of :func:`preprocess`: normalised values of the size that the encoder reads.

    Args:
        canvas: what :func:`to_canvas` made with the same recipe; not checked.
        spec: the recipe.

    Returns:
        float32 ``[3, S, S]``.
    """
    table = _table(spec.kind, spec.mean, spec.std)
    if spec.canvas is None:
        if canvas.ndim == 2:
            return np.take(table, canvas, axis=1)
        return np.stack([table[channel][canvas[..., channel]] for channel in range(3)])
    # Four taps a value, and no matrix product: BLAS would wake threads whose waiting takes the cores from the engine
    # that runs next (measured: `lrclr predict` on ViT-B/32 took 1.7 times as long).
    taps = _bicubic_taps(spec.canvas, spec.image_size)
    levels = table[0][canvas]
    rows = sum(weight[:, None] * levels[place] for place, weight in taps)
    plane = sum(rows[:, place] * weight for place, weight in taps)
    return np.repeat(plane[None], 3, axis=0)


def preprocess_batch(images: Sequence[NDArray[np.uint8] | ReducedImage], spec: PreprocessSpec) -> NDArray[np.float32]:
    """:func:`preprocess` for several images, which may differ in size.

    Returns:
        float32 ``[B, 3, S, S]``.

    Raises:
        UsageError: there are no images.
        ImageError: as in :func:`preprocess`; the message gives the image's position.
    """
    if len(images) == 0:
        raise UsageError("there are no images to preprocess")
    batch = np.empty((len(images), 3, spec.image_size, spec.image_size), np.float32)
    for position, image in enumerate(images):
        try:
            batch[position] = preprocess(image, spec)
        except ImageError as error:
            what = f"image {position + 1} of {len(images)}: {error.what}"
            raise type(error)(what, why=error.why, fix=error.fix) from None
    return batch


@lru_cache(maxsize=8)
def _table(kind: str, mean: Triple, std: Triple) -> NDArray[np.float32]:
    """``[3, 256]``: what each 8-bit level becomes in each channel.

    With 256 possible levels a table is exact, and it keeps float arithmetic off the image.
    """
    levels = np.arange(256, dtype=np.float64)
    # transformers scales in float64 and rounds to float32 before it normalises; the rounding shows in the last bit.
    scaled = (levels if kind == "chexzero" else levels * (1 / 255)).astype(np.float32)
    table = (scaled - np.array(mean, np.float32)[:, None]) / np.array(std, np.float32)[:, None]
    table.setflags(write=False)
    return table


@lru_cache(maxsize=8)
def _bicubic_taps(source: int, target: int) -> tuple[tuple[NDArray[np.int64], NDArray[np.float32]], ...]:
    """One-dimensional bicubic resampling without antialias: four times where each value comes from, and its weight.

    Both are ``[target]``.

    Keys' kernel with a = -0.75, half-pixel centres, borders repeated: what torch's
    ``interpolate(mode="bicubic", align_corners=False, antialias=False)`` computes.
    """
    a = -0.75
    # torch has the scale in float32 and rounds the position to float32 once, after a fused multiply-add. Positions that
    # are exact instead move steep edges by up to 1e-4.
    scale = np.float64(np.float32(source) / np.float32(target))
    position = (scale * (np.arange(target) + 0.5) - 0.5).astype(np.float32).astype(np.float64)
    first = np.floor(position).astype(np.int64)
    taps = []
    for tap in range(-1, 3):
        x = np.abs(position - (first + tap))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        taps.append((np.clip(first + tap, 0, source - 1), np.where(x <= 1, near, far).astype(np.float32)))
    return tuple(taps)
