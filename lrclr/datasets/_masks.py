"""Masks and boxes of rows as pixels of the image, and as shares of the model's patches."""

from __future__ import annotations

import contextlib
import math
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from lrclr.datasets._rows import ABSENT
from lrclr.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from lrclr.datasets._rows import Box, Row
    from lrclr.preprocessing import Geometry

_GREY: Final = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L"})
_OVERHANG: Final = 0.01


def check_places(row: Row, shape: tuple[int, int]) -> None:
    """Raise what `row_mask` raises for any finding of a row. Masks of findings without the label 0 are not decoded.

    Args:
        row: the row.
        shape: height and width of the original image.

    Raises:
        ImageError: a mask cannot be read, is not grey, has another size than the image, or is not empty and its finding
            has the label 0; or a box lies outside.
    """
    pixels: dict[Path, NDArray[Any]] = {}
    for mask in dict.fromkeys(row.masks.values()):
        absent = [name for name, each in row.masks.items() if each == mask and row.labels.get(name) == ABSENT]
        file, bit = mask
        with _opened(file, bit, shape) as image:
            if absent and file not in pixels:
                pixels[file] = np.asarray(image)
        if absent and _of_bit(pixels[file], bit).any():
            raise ImageError(f"mask and label {absent[0]!r} contradict each other")
    for box in (box for boxes in row.boxes.values() for box in boxes):
        _slices(box, *shape)


def row_mask(row: Row, finding: str, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """The pixels of a finding in a row's image, from its mask or, without one, from its boxes.

    A box covers the pixels whose centres lie in it, and at least one.

    Args:
        row: the row.
        finding: name of the finding.
        shape: height and width of the original image, as it was decoded.

    Returns:
        bool ``[H, W]``; ``None`` if the row has neither a mask nor a box of the finding.

    Raises:
        ImageError: the mask cannot be read, is not grey, or has another size than the image; or a box reaches beyond
            the image by more than 1 % of its side and more than a pixel.
    """
    mask = row.masks.get(finding)
    if mask is not None:
        return _read_mask(*mask, shape)
    boxes = row.boxes.get(finding)
    if not boxes:
        return None
    covered = np.zeros(shape, np.bool_)
    for box in boxes:
        covered[_slices(box, *shape)] = True
    return covered


def patch_coverage(mask: NDArray[np.bool_], geometry: Geometry, patch_size: int) -> NDArray[np.float32]:
    """The share of each patch of the model's input that a mask covers, by exact areas.

    Args:
        mask: bool ``[H, W]`` in the original image's pixels.
        geometry: position of the image in the input: resize, crop and padding of the image itself.
        patch_size: side of a patch, in input pixels.

    Returns:
        float32 ``[G, G]``, row-major like ``region_index``; padding counts as not covered.

    Raises:
        UsageError: the mask has another size than the image of `geometry`, or a patch does not fit the input.
    """
    if mask.shape != (geometry.height, geometry.width):
        raise UsageError(
            f"a mask of {list(mask.shape)} does not belong to an image of {geometry.height} x {geometry.width}"
        )
    count = geometry.input_size // patch_size if patch_size > 0 else 0
    if count < 1:
        raise UsageError(f"an input of {geometry.input_size} pixels holds no patch of {patch_size}")
    down = _overlap(geometry.height, geometry.scale_y, geometry.offset_y, count, patch_size)
    across = _overlap(geometry.width, geometry.scale_x, geometry.offset_x, count, patch_size)
    # Only the bounding box of the mask, which is mostly small.
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return np.zeros((count, count), np.float32)
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    shares = down[:, part[0]] @ mask[part].astype(np.float64) @ across[:, part[1]].T
    return np.clip(shares, 0.0, 1.0).astype(np.float32)


def _overlap(pixels: int, scale: float, offset: float, count: int, patch_size: int) -> NDArray[np.float64]:
    """``[count, pixels]``: the share of each patch's side that each pixel of the image covers."""
    edges = offset + scale * np.arange(pixels + 1)
    starts = patch_size * np.arange(count)[:, None]
    within = np.clip(edges[None], starts, starts + patch_size)
    return np.asarray(np.diff(within, axis=1) / patch_size, np.float64)


def _slices(box: Box, height: int, width: int) -> tuple[slice, slice]:
    beyond = max(-box.left, box.right - width) / width, max(-box.top, box.bottom - height) / height
    # Annotation tools round to whole pixels.
    if any(share > max(_OVERHANG, 1 / side) for share, side in zip(beyond, (width, height), strict=True)):
        raise ImageError(
            f"a box reaches beyond its image of {height} x {width}",
            fix="Boxes are [left, top, right, bottom] in pixels of the original image.",
        )
    return _centres(box.top, box.bottom, height), _centres(box.left, box.right, width)


def _centres(low: float, high: float, size: int) -> slice:
    first, last = max(math.ceil(low - 0.5), 0), min(math.ceil(high - 0.5), size)
    if first < last:
        return slice(first, last)
    middle = min(max(int((low + high) / 2), 0), size - 1)
    return slice(middle, middle + 1)


@contextlib.contextmanager
def _opened(path: Path, bit: int | None, shape: tuple[int, int]) -> Iterator[Image.Image]:
    """A mask whose header fits its image; its pixels are not decoded yet, so that it cannot allocate more."""
    with _explained(), Image.open(path, formats=("PNG", "TIFF")) as image:
        if (image.height, image.width) != tuple(shape):
            raise ImageError(
                f"a mask is {image.height} x {image.width} and its image {shape[0]} x {shape[1]}",
                fix="Masks are in pixels of the original image.",
            )
        if image.mode not in _GREY or (bit is not None and image.mode != "L"):
            kind = "of 8 bits" if bit is not None else "grey"
            raise ImageError(f"a mask is not {kind}", why=f"its mode is {image.mode!r}", fix="Save it in mode L.")
        yield image


def _read_mask(path: Path, bit: int | None, shape: tuple[int, int]) -> NDArray[np.bool_]:
    with _opened(path, bit, shape) as image:
        pixels = np.asarray(image)
    return _of_bit(pixels, bit)


def _of_bit(pixels: NDArray[Any], bit: int | None) -> NDArray[np.bool_]:
    if bit is None:
        return pixels > 0
    return (pixels >> np.uint8(bit)) & np.uint8(1) > 0


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures and unusual metadata. The size is checked, the rest is harmless.
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, MemoryError) as error:
        raise ImageError("a mask cannot be read", why="it is missing, damaged, or neither PNG nor TIFF") from error
