"""The images and texts that ranges are taken from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr.errors import ImageError, UsageError
from lrclr.images import find_images, read_for_model
from lrclr.preprocessing import preprocess
from lrclr.text import TokenBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.checkpoints import Checkpoint
    from lrclr.preprocessing import PreprocessSpec

FEWEST, MOST = 16, 256
_DATASETS = frozenset({".csv", ".jsonl", ".ndjson"})
_DRAWN_TEXTS, _DRAWN_TOKENS = 24, 14


@dataclass(frozen=True)
class Calibration:
    """Attributes: kind, of the source; sha256, of the images' files; pixel values ``[N, 3, S, S]``."""

    kind: str
    sha256: str
    pixel_values: NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """For the manifest: what they were, but neither names nor pixels."""
        return {"kind": self.kind, "images": len(self.pixel_values), "sha256": self.sha256}


def carried_calibration(spec: PreprocessSpec) -> Calibration:
    """The synthetic radiographs that lrclr carries for this."""
    return _read("carried", sorted(_carried().glob("*.png")), spec)


def read_calibration(source: Path, spec: PreprocessSpec) -> Calibration:
    """A user's own images: a folder, or a dataset as `lrclr.datasets.read_dataset` reads it; labels are not needed.

    Of more than 256 images, 256 evenly spaced ones are taken.

    Raises:
        UsageError: there are too few images, or one of them cannot be read.
    """
    if source.suffix.lower() in _DATASETS:
        from lrclr.datasets import read_dataset

        rows = read_dataset(source, strict=True).rows
        return _read("manifest", [row.image for row in rows], spec, [row.frame for row in rows])
    if not source.is_dir():
        raise UsageError(f"there is no folder of images at {source}", fix="Give a folder, or a .csv or .jsonl dataset.")
    return _read("folder", find_images([source]).files, spec)


def calibration_tokens(checkpoint: Checkpoint) -> TokenBatch:
    """Prompts of the findings, phrases of reports, and tokens drawn from the whole vocabulary.

    The last ones are for users who ask in another language or script.
    """
    tokenizer = checkpoint.tokenizer
    reserved = sorted(tokenizer.reserved)
    phrases = (_carried() / "phrases.txt").read_text(encoding="utf-8").splitlines()
    written = tokenizer.encode([*dict.fromkeys([*checkpoint.findings.prompts, *phrases])], truncate=True)
    ids = written.input_ids
    length = min(_DRAWN_TOKENS, tokenizer.context_length)
    drawn = np.random.default_rng(0).integers(0, tokenizer.vocab_size, (_DRAWN_TEXTS, length))
    drawn[np.isin(drawn, reserved)] = ids[0, 1 if tokenizer.has_bos else 0]
    if tokenizer.bos_id is not None:
        drawn[:, 0] = tokenizer.bos_id
    drawn[:, -1] = tokenizer.eot_id
    columns = max(length, ids.shape[1])

    def together(parts: Sequence[NDArray[np.int64]], padding: int) -> NDArray[np.int64]:
        widths = [((0, 0), (0, columns - part.shape[1])) for part in parts]
        return np.concatenate(
            [np.pad(part, width, constant_values=padding) for part, width in zip(parts, widths, strict=True)]
        )

    return TokenBatch(together((ids, drawn), tokenizer.pad_id), together((written.mask, np.ones_like(drawn)), 0))


def _carried() -> Path:
    return Path(str(resources.files("lrclr") / "data" / "calibration"))


def _read(
    kind: str, paths: Sequence[Path], spec: PreprocessSpec, frames: Sequence[int | None] | None = None
) -> Calibration:
    if len(paths) < FEWEST:
        raise UsageError(
            f"{len(paths)} images are too few to calibrate on",
            why="the ranges of so few images are not reliable",
            fix=f"Give at least {FEWEST}, or omit --calibration to use the images that lrclr contains.",
        )
    step = max(1.0, len(paths) / MOST)
    chosen = [int(number * step) for number in range(min(len(paths), MOST))]
    digest, pixels = hashlib.sha256(), []
    for number in chosen:
        try:
            data = paths[number].read_bytes()
            pixels.append(preprocess(read_for_model(data, spec, frame=frames[number] if frames else None), spec))
        except (ImageError, OSError) as error:
            why = error.what if isinstance(error, ImageError) else error.strerror
            raise UsageError(
                f"calibration image {number + 1} of {len(paths)} cannot be read", why=why, fix="Remove it."
            ) from error
        digest.update(hashlib.sha256(data).digest())
    return Calibration(kind, digest.hexdigest(), np.stack(pixels))
