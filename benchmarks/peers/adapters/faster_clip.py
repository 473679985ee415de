"""faster-clip: CLIP's image tower in Rust, fed with bytes of pictures; its text tower is another model's."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

from benchmarks.peers.works import Opening, Work, Works

if TYPE_CHECKING:
    from pathlib import Path

_PLACE = "sentence-transformers__clip-ViT-B-32/0_CLIPModel"


def prepare(folder: Path) -> None:
    """It only reads the file that it would download, so the weights are laid where that would lie."""
    place = folder / "faster-clip" / _PLACE
    place.mkdir(parents=True, exist_ok=True)
    file = place / "model.safetensors"
    file.unlink(missing_ok=True)
    os.link(folder / "hf" / "model.safetensors", file)


def open_works(opening: Opening) -> Works:
    """No options. Pictures are uncompressed bitmaps, so that decoding costs next to nothing."""
    os.environ["FASTER_CLIP_CACHE"] = str(opening.folder / "faster-clip")
    from faster_clip import ClipModel
    from PIL import Image

    model = ClipModel()
    pictures = []
    for picture in opening.inputs.pictures:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "BMP")
        pictures.append(file.getvalue())
    batches = {batch: [pictures[number % len(pictures)] for number in range(batch)] for batch in (1, 8, 32)}
    return {"image": Work(lambda batch: model.encode_image(batches[batch]))}
