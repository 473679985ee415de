"""The inputs of the gates made by other code than lrclr's: what lrclr's preprocessing and tokenizer are held to.

Pixel values come from transformers' image processor, or for CheXzero's recipe from Pillow and torch as in
``data_process.py`` and ``zero_shot.py`` of rajpurkarlab/CheXzero; token numbers from transformers' tokenizer.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image

from lrclr.verification import GateResult

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.bundle import Golden
    from lrclr.preprocessing import PreprocessSpec
    from lrclr.text import ClipTokenizer

# torch built without fused multiply-add rounds the positions of CheXzero's bicubic resize once more (seen: 4e-5). One
# grey level is more than 1e-2. transformers' processor is met exactly.
_LIMITS: Final = {"clip": 0.0, "squash": 0.0, "chexzero": 6e-5}


def reference_gates(
    golden: Golden, images: Sequence[NDArray[np.uint8]], spec: PreprocessSpec, tokenizer: ClipTokenizer
) -> list[GateResult]:
    """Compare the inputs that lrclr made with those of the reference implementations.

    Args:
        golden: its `pixel_values`, `input_ids` and `text_mask` are checked.
        images: what `pixel_values` were made from.
        spec: the checkpoint's preprocessing.
        tokenizer: the checkpoint's.
    """
    pixels = np.abs(golden["pixel_values"] - reference_pixel_values(images, spec)).max()
    ids, mask = reference_tokens(golden.prompts, tokenizer, golden["input_ids"].shape[1])
    wrong = int(((golden["input_ids"] != ids) | (golden["text_mask"] != mask)).sum())
    of = "Pillow and torch" if spec.kind == "chexzero" else "transformers"
    return [
        GateResult("difference from the reference", "pixel values", float(pixels), _LIMITS[spec.kind], "max", of),
        GateResult("tokens unlike the reference", "token numbers", wrong, 0, "max", "transformers"),
    ]


def reference_pixel_values(images: Sequence[NDArray[np.uint8]], spec: PreprocessSpec) -> NDArray[np.float32]:
    """``[B, 3, S, S]`` as the image encoder reads them."""
    make = {"clip": _clip, "squash": _squash, "chexzero": _chexzero}[spec.kind]
    return np.stack([make(Image.fromarray(image), spec) for image in images])


def _clip(picture: Image.Image, spec: PreprocessSpec) -> NDArray[np.float32]:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": spec.resize},
        crop_size=spec.image_size,
        image_mean=list(spec.mean),
        image_std=list(spec.std),
    )
    pixels: NDArray[np.float32] = processor(picture)["pixel_values"][0]
    return pixels


def _squash(picture: Image.Image, spec: PreprocessSpec) -> NDArray[np.float32]:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    processor = SiglipImageProcessorPil(
        size={"height": spec.image_size, "width": spec.image_size},
        resample=Image.Resampling[str(spec.resample).upper()],
        image_mean=list(spec.mean),
        image_std=list(spec.std),
    )
    pixels: NDArray[np.float32] = processor(picture)["pixel_values"][0]
    return pixels


def _chexzero(picture: Image.Image, spec: PreprocessSpec) -> NDArray[np.float32]:
    side = spec.canvas
    assert side is not None  # noqa: S101 - for the type checker; this recipe has one
    picture = picture.convert("RGB")
    ratio = float(side) / max(picture.size)
    width, height = (int(edge * ratio) for edge in picture.size)
    canvas = Image.new("L", (side, side))
    resized = picture.resize((width, height), Image.Resampling.LANCZOS).convert("L")
    canvas.paste(resized, ((side - width) // 2, (side - height) // 2))
    pixels = torch.from_numpy(np.array(canvas, dtype=np.float32)).expand(1, 3, -1, -1)
    pixels = (pixels - spec.mean[0]) / spec.std[0]
    size = (spec.image_size, spec.image_size)
    pixels = torch.nn.functional.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=False)
    array: NDArray[np.float32] = pixels[0].numpy()
    return array


def reference_tokens(
    prompts: Sequence[str], tokenizer: ClipTokenizer, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token numbers and mask, both ``[P, T]``: beginning, if there is one, words, end, then padding."""
    words = _transformers(tokenizer)
    around = words("")["input_ids"]
    # Some tokenizer files have the two markers in their vocabulary and do not add them.
    if len(around) == 1 + tokenizer.has_bos:
        *start, eot = around
    else:
        start, eot = ([tokenizer.bos_id] if tokenizer.has_bos else []), tokenizer.eot_id
    ids, mask = np.full((len(prompts), length), tokenizer.pad_id), np.zeros((len(prompts), length), np.int64)
    room = tokenizer.context_length - len(start) - 1
    for row, prompt in enumerate(prompts):
        found = words(prompt, add_special_tokens=False, truncation=True, max_length=room)
        whole = [*start, *found["input_ids"], eot]
        ids[row, : len(whole)], mask[row, : len(whole)] = whole, 1
    return ids, mask


def _transformers(tokenizer: ClipTokenizer) -> Any:
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        tokenizer.save(file)
        return PreTrainedTokenizerFast(tokenizer_file=str(file))
