"""The largest requests that a server accepts. Each reaches one of the limits of `lrclr.budget`."""

from __future__ import annotations

import io
import zlib
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from lrclr import Finding, FindingSet, budget
from tests.raster_files import png_chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

_NUMBERS = count()


def transparent_png(share: float) -> bytes:
    """A small RGBA file whose decoding takes this share of a process's memory budget."""
    width, constant = 6000, 24 * 2**20
    height = int((share * budget.SERVER_DECODE_BYTES - constant) / (8 * width))
    # Written row by row, so that this process needs little memory.
    picture = zlib.compressobj(1)
    row = b"\0" + bytes(np.tile(np.array([200, 200, 200, 128], np.uint8), width))
    content = b"".join([picture.compress(row) for _ in range(height)] + [picture.flush()])
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x06\0\0\0"
    chunks = [(b"IHDR", header), (b"IDAT", content), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in chunks)


def dicom(size: int, *, syntax: str, photometric: str) -> bytes:
    """A DICOM file with this number of bytes of pixel data."""
    samples = 1 if photometric == "MONOCHROME2" else 3
    side = int((size / samples) ** 0.5) // 2 * 2
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.826.0.1.3680043.8.498.1"
    dataset.Rows = dataset.Columns = side
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = samples, photometric
    if samples == 3:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = bytes(range(256)) * (side * side * samples // 256) + bytes(side * side * samples % 256)
    dataset["PixelData"].VR = "OB"
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, dataset, enforce_file_format=True)
    return stream.getvalue()


def noise_png(size: int) -> bytes:
    """An incompressible picture of this number of bytes."""
    pixels = np.random.default_rng(0).integers(0, 256, (size // 2048, 2048), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def new_findings(prompts: int) -> FindingSet:
    """Findings that no other request contains, with this number of prompts of more than 60 tokens."""
    words = [f"finding {next(_NUMBERS)} " + "seen " * 60 for _ in range(prompts)]
    half = prompts // 2
    return FindingSet(tuple(Finding(f"F{k}", (words[k],), (words[half + k],)) for k in range(half)))


def worst_requests() -> Iterator[dict[str, Any]]:
    """Arguments of `lrclr.triton.client.Client.ask`."""
    whole, parts = transparent_png(1.0), transparent_png(0.24)
    coloured = dicom(6 * 2**20, syntax="1.2.840.10008.1.2.1", photometric="YBR_FULL")
    deflated = dicom(50 * 2**20, syntax="1.2.840.10008.1.2.1.99", photometric="MONOCHROME2")
    noise = noise_png(budget.REQUEST_BYTES // budget.REQUEST_IMAGES - 2**14)
    heatmaps = noise_png(budget.REQUEST_BYTES // budget.REQUEST_HEATMAPS - 2**15)
    yield {"images": [whole], "exact": True}
    yield {"images": [parts] * 16, "exact": True}
    yield {"images": [coloured] * 8, "exact": True}
    yield {"images": [deflated]}
    yield {"images": [noise] * budget.REQUEST_IMAGES, "findings": new_findings(256)}
    yield {"images": [heatmaps] * budget.REQUEST_HEATMAPS, "heatmap": True, "findings": new_findings(256)}
    for _ in range(4):
        yield {"images": [noise], "findings": new_findings(256)}
