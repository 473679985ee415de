"""Folders of DICOM results, one for each kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from lrclr._files import check_is_folder, write_whole
from lrclr.dicom_results._source import DicomSource, ResultRefusedError
from lrclr.errors import UsageError
from lrclr.images import ReadLimits, read_image
from lrclr.images._find import DICOM_HEATMAP_SUFFIX
from lrclr.images._source import read_bytes

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from lrclr.dicom_results._build import Kind, ResultBuilder
    from lrclr.inference import Prediction

RESULT_SUFFIXES: Final[Mapping[Kind, str]] = {"sr": ".sr.dcm", "sc": DICOM_HEATMAP_SUFFIX, "gsps": ".gsps.dcm"}


@dataclass
class ResultFolders:
    """Writes results into folders.

    A file is named after the UID of its object: a result that is made again replaces the file.

    Attributes:
        builder: makes the objects.
        folders: the folder for each kind of result.
        written: objects.
        refused: images that did not get all of their objects, and why.
        remarks: what was left out of objects, and of how many images; see `DicomSource.remarks`.
    """

    builder: ResultBuilder
    folders: Mapping[Kind, Path]
    written: int = 0
    refused: list[ResultRefusedError] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.make(self.folders)

    @staticmethod
    def make(folders: Mapping[Kind, Path]) -> None:
        """Make folders that do not exist.

        Raises:
            UsageError: one cannot be made.
        """
        for folder in folders.values():
            check_is_folder(folder)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(f"{folder} cannot be made", why=error.strerror) from error

    def path(self, kind: Kind, source: DicomSource, alpha: float) -> Path:
        """Where a result is."""
        return self.folders[kind] / f"{self.builder.uid(kind, source, alpha)}{RESULT_SUFFIXES[kind]}"

    def write(
        self, image: str | os.PathLike[str] | bytes, prediction: Prediction, *, frame: int | None = None
    ) -> list[ResultRefusedError]:
        """Write the results of one image.

        Args:
            image: the file that was predicted, or its content.
            prediction: the answer for it.
            frame: which frame of it.

        Returns:
            Why results are missing; empty if all were written.

        Raises:
            LrclrError: a file cannot be read or written.
            MissingExtraError: highdicom is not installed.
        """
        refused: list[ResultRefusedError] = []
        data = read_bytes(image, ReadLimits())
        try:
            source = DicomSource.read(data, frame=frame)
        except ResultRefusedError as error:
            refused.append(error)
        else:
            self.remarks.update(source.remarks)
            picture = read_image(data, frame=frame) if "sc" in self.folders else None
            for kind in self.folders:
                try:
                    content = self.builder.build(kind, source, prediction, picture)
                except ResultRefusedError as error:
                    refused.append(error)
                else:
                    write_whole(self.path(kind, source, prediction.alpha), content)
                    self.written += 1
        self.refused += refused
        return refused
