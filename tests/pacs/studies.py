"""Studies of synthetic radiographs, each with its own UIDs and patient."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.phantom.dicom import Storage, dataset_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

PATIENT = "Zzyzx^Quentin"


@cache
def _picture(number: int) -> NDArray[np.uint16]:
    """A phantom radiograph from the packaged calibration images, as 12-bit values."""
    from importlib.resources import files

    name = f"{'near' if number % 2 else 'far'}_{number // 2 % 32:02d}.png"
    with Image.open(str(files("lrclr") / "data" / "calibration" / name)) as image:
        return np.asarray(np.asarray(image.convert("L"), np.uint16) << 4, np.uint16)


def study(number: int, *, storage: Storage | None = None, **attributes: Any) -> bytes:
    """A DICOM file: study `number`, with one image.

    Args:
        number: determines picture, UIDs, patient and date.
        storage: how the pixels are stored.
        attributes: additional attributes.
    """
    dataset = dataset_of(_picture(number), storage or Storage(), name=f"study {number}", projection="PA", pixel_mm=2.0)
    dataset.PatientName, dataset.PatientID = PATIENT, f"SECRET{number:04d}"
    dataset.StudyDate = f"202601{number % 28 + 1:02d}"
    dataset.AccessionNumber = f"A{number}"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()
