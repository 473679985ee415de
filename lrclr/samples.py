"""The sample radiographs in this package. They are synthetic, for tests and demonstrations, never for diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

__all__ = ["SAMPLES", "Sample", "sample_paths"]

Kind = Literal["png", "dicom"]

_SUFFIXES: dict[Kind, str] = {"png": ".png", "dicom": ".dcm"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample radiograph.

    Attributes:
        name: name of the files, without suffix.
        finding: CheXpert's name of the finding that was added to the body before rendering; None for a normal body.
        where: part of the body with the finding; empty if there is no finding.
        size: (height, width) in pixels.
    """

    name: str
    finding: str | None
    where: str
    size: tuple[int, int]

    def path(self, kind: Kind = "png") -> Path:
        """Return the path of the PNG or DICOM file of this sample. Both show the same picture.

        Raises:
            ValueError: ``kind`` is neither "png" nor "dicom".
        """
        if kind not in _SUFFIXES:
            raise ValueError(f"kind must be 'png' or 'dicom', not {kind!r}")
        return Path(str(files("lrclr") / "data" / "samples" / (self.name + _SUFFIXES[kind])))


SAMPLES: tuple[Sample, ...] = (
    Sample("normal", None, "", (1024, 1024)),
    Sample("effusion", "Pleural Effusion", "right", (960, 840)),
    Sample("cardiomegaly", "Cardiomegaly", "heart", (720, 880)),
    Sample("consolidation", "Consolidation", "right upper lobe", (512, 512)),
)
"""All samples, in the order of `sample_paths`."""


def sample_paths(kind: Kind = "png") -> tuple[Path, ...]:
    """Return the files of `SAMPLES`, in the same order.

    Raises:
        ValueError: ``kind`` is neither "png" nor "dicom".
    """
    return tuple(sample.path(kind) for sample in SAMPLES)
