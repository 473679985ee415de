"""faster-clip: CLIP's image tower in Rust, which takes encoded pictures. Its text tower belongs to another model."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from benchmarks.peers.works import Opening, Work, Works, picture_batches

if TYPE_CHECKING:
    from pathlib import Path

_PLACE = "sentence-transformers__clip-ViT-B-32/0_CLIPModel"


def prepare(folder: Path) -> None:
    """Put the weights where its download would be, since it has no option for another file."""
    place = folder / "faster-clip" / _PLACE
    place.mkdir(parents=True, exist_ok=True)
    file = place / "model.safetensors"
    file.unlink(missing_ok=True)
    os.link(folder / "hf" / "model.safetensors", file)


def open_works(opening: Opening) -> Works:
    """No options. The pictures are uncompressed bitmaps, so decoding takes little time."""
    os.environ["FASTER_CLIP_CACHE"] = str(opening.folder / "faster-clip")
    from faster_clip import ClipModel
    from PIL import Image

    model = ClipModel()
    pictures = []
    for picture in opening.inputs.pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "BMP")
        pictures.append(file.getvalue())
    batches = picture_batches(pictures)
    return {"image": Work(lambda batch: model.encode_image(batches[batch]))}
