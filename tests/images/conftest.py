"""DICOM files built from attributes, and the files that pydicom brings."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pydicom.data
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from lrclr.images import read_for_model
from lrclr.preprocessing import PreprocessSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from lrclr.images import ReducedImage


def read_whole(source: str | Path | bytes) -> ReducedImage:
    """All pixels of a file at full resolution, and the remarks about it."""
    return read_for_model(source, PreprocessSpec.clip(224), exact=True)


class MakeDicom(Protocol):
    """Builds a DICOM file with `pixels`. An attribute whose value is None is left out."""

    def __call__(
        self, pixels: NDArray[Any], *, syntax: str = ..., preamble: bool = ..., **attributes: Any
    ) -> bytes: ...


def _make(
    pixels: NDArray[Any], *, syntax: str = ExplicitVRLittleEndian, preamble: bool = True, **attributes: Any
) -> bytes:
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    bits = pixels.dtype.itemsize * 8
    size = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    order: Literal["<", ">"] = ">" if syntax == ExplicitVRBigEndian else "<"
    described: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
        "SOPInstanceUID": "1.2.826.0.1.3680043.8.498.1",
        "PatientName": "Doe^Jane",
        "PatientID": "MRN-4711",
        "Rows": size[0],
        "Columns": size[1],
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "PlanarConfiguration": 0 if colour else None,
        "BitsAllocated": bits,
        "BitsStored": bits,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.astype(pixels.dtype.newbyteorder(order)).tobytes(),
        **attributes,
    }
    if "HighBit" not in described:
        described["HighBit"] = described["BitsStored"] - 1
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    for keyword, value in described.items():
        if value is not None:
            setattr(dataset, keyword, value)
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    stream = io.BytesIO()
    if preamble:
        dataset.save_as(stream, enforce_file_format=True)
    else:
        del dataset.file_meta
        dataset.save_as(stream, implicit_vr=syntax == "1.2.840.10008.1.2", little_endian=order == "<")
    return stream.getvalue()


@pytest.fixture(scope="session")
def make_dicom() -> MakeDicom:
    return _make


@pytest.fixture(scope="session")
def bundled() -> Callable[[str], Path]:
    """A function that returns the path of a file in pydicom's wheel."""

    def find(name: str) -> Path:
        path = pydicom.data.get_testdata_file(name, download=False)
        assert path is not None, f"pydicom does not bring {name}"
        return Path(path)

    return find


@pytest.fixture(scope="session")
def chest() -> NDArray[np.uint16]:
    """A smooth 12-bit picture, `[48, 40]`, that contains 0 and 4095 and has no symmetry."""
    rows, columns = np.mgrid[:48, :40]
    picture = np.sin(rows / 7) + np.cos(columns / 11 + rows / 31) + columns / 50
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    levels: NDArray[np.uint16] = np.rint(picture * 4095).astype(np.uint16)
    return levels
