"""Writes radiographs of 2048 by 2500 pixels in every format, made from the synthetic samples.

A sample is enlarged, and fine noise of 18 of 4096 levels is added, as a detector has it. Files then compress about as
well as real ones: a lossless one to half its size.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from lrclr.samples import sample_paths

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FORMATS", "make_files", "picture"]

SIZE = (2500, 2048)
_NOISE, _WHITE = 18, 4095

FORMATS = (
    *("png", "png 16 bit", "jpeg", "jpeg colour"),
    *("dicom raw", "dicom rle", "dicom jpeg 2000", "dicom jpeg lossless"),
)


def picture(sample: int, size: tuple[int, int] = SIZE) -> NDArray[np.uint16]:
    """A 12-bit radiograph, ``[rows, columns]``; larger values are brighter."""
    paths = sample_paths()
    with Image.open(paths[sample % len(paths)]) as image:
        small = np.asarray(image.convert("L"), np.float32) * (_WHITE / 255)
    large = np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))
    noisy = large + np.random.default_rng(sample).normal(0, _NOISE, size)
    return np.asarray(np.rint(np.clip(noisy, 0, _WHITE)), np.uint16)


def make_files(folder: Path, samples: int, size: tuple[int, int] = SIZE) -> dict[str, list[Path]]:
    """Write `samples` pictures in every format, unless they exist; the files of each format."""
    files: dict[str, list[Path]] = {name: [] for name in FORMATS}
    folder.mkdir(parents=True, exist_ok=True)
    for sample in range(samples):
        paths = {name: folder / f"{sample}-{name.replace(' ', '-')}{_suffix(name)}" for name in FORMATS}
        if not all(path.exists() for path in paths.values()):
            for name, data in _every_format(picture(sample, size)).items():
                paths[name].write_bytes(data)
        for name, path in paths.items():
            files[name].append(path)
    return files


def _suffix(name: str) -> str:
    return ".dcm" if name.startswith("dicom") else f".{name.split(maxsplit=1)[0]}"


def _every_format(pixels: NDArray[np.uint16]) -> dict[str, bytes]:
    grey = Image.fromarray(np.asarray(np.rint(pixels * (255 / _WHITE)), np.uint8))
    deep = Image.fromarray(np.asarray(np.rint(pixels * (65535 / _WHITE)), np.uint16))
    return {
        "png": _encoded(grey, "PNG"),
        "png 16 bit": _encoded(deep, "PNG"),
        "jpeg": _encoded(grey, "JPEG", quality=92),
        "jpeg colour": _encoded(grey.convert("RGB"), "JPEG", quality=92),
        "dicom raw": _dicom(pixels, ExplicitVRLittleEndian),
        "dicom rle": _dicom(pixels, RLELossless),
        "dicom jpeg 2000": _dicom(pixels, JPEG2000Lossless),
        "dicom jpeg lossless": _lossless_jpeg(_dicom(pixels, ExplicitVRLittleEndian)),
    }


def _encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def _dicom(pixels: NDArray[np.uint16], syntax: str) -> bytes:
    dataset = pydicom.dcmread(sample_paths("dicom")[0])
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTSequence", "PresentationLUTShape"):
        if keyword in dataset:
            del dataset[keyword]
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = False
    if syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax, encoding_plugin="pylibjpeg", generate_instance_uid=False)
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _lossless_jpeg(data: bytes) -> bytes:
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        plain, lossless = Path(folder) / "plain.dcm", Path(folder) / "lossless.dcm"
        plain.write_bytes(data)
        reader = gdcm.ImageReader()
        reader.SetFileName(str(plain))
        change, writer = gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        if not reader.Read():
            raise RuntimeError("GDCM cannot read what pydicom wrote")
        change.SetInput(reader.GetImage())
        if not change.Change():
            raise RuntimeError("GDCM cannot write lossless JPEG")
        writer.SetFileName(str(lossless))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        if not writer.Write():
            raise RuntimeError("GDCM cannot write lossless JPEG")
        return lossless.read_bytes()
