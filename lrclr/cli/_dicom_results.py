"""Options of commands that write predictions as DICOM objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lrclr.cli._console import complain, note
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from lrclr.dicom_results import Kind, ResultModel
    from lrclr.inference import FileResult

Sr = Annotated[Path | None, typer.Option("--sr", help="Folder for DICOM structured reports, one for each DICOM image.")]
Sc = Annotated[Path | None, typer.Option("--sc", help="Folder for heat maps as DICOM secondary captures.")]
Gsps = Annotated[Path | None, typer.Option("--gsps", help="Folder for boxes of regions as DICOM presentation states.")]
_IN_WORDS: Final[Mapping[Kind, str]] = {
    "sr": "structured reports",
    "sc": "secondary captures",
    "gsps": "presentation states",
}


def chosen(sr: Path | None, sc: Path | None, gsps: Path | None) -> dict[Kind, Path]:
    """The folders that were given, by kind."""
    given: dict[Kind, Path | None] = {"sr": sr, "sc": sc, "gsps": gsps}
    return {kind: folder for kind, folder in given.items() if folder is not None}


class DicomOutput:
    """Writes the DICOM results of a command; does nothing if no folder was given.

    Args:
        folders: the folder for each kind of result.
        model: what answers.

    Raises:
        UsageError: a folder cannot be made.
        MissingExtraError: highdicom is not installed.
    """

    def __init__(self, folders: Mapping[Kind, Path], model: ResultModel) -> None:
        self._results = None
        if folders:
            from lrclr.cli._extras import require
            from lrclr.dicom_results import ResultBuilder, ResultFolders

            require("dicom-results")
            self._results = ResultFolders(ResultBuilder(model), folders)

    def add(self, result: FileResult, frame: int | None) -> None:
        """Write the results of a file that was answered, and print why any are missing."""
        if self._results is not None and result.prediction is not None:
            for error in self._results.write(result.path, result.prediction, frame=frame):
                complain(f"{result.path}: {error}")

    def tell(self) -> None:
        """Print what was left out of the results, and where they are."""
        if self._results is not None:
            tell_remarks(self._results.remarks)
            tell_folders(self._results.folders)

    def check(self, images: int) -> None:
        """Raise if results are missing: the call was wrong if none of their images is a DICOM file."""
        if self._results is not None and (refused := self._results.refused):
            kind = UsageError if all(isinstance(error, UsageError) for error in refused) else LrclrError
            raise kind(f"{len(refused)} DICOM results of {images} images are missing", why="see above")


def tell_remarks(remarks: Counter[str]) -> None:
    """Print what was left out of results, and of how many images."""
    for remark, count in remarks.most_common():
        note(f"results of {count} {'image' if count == 1 else 'images'}: {remark}")


def tell_folders(folders: Mapping[Kind, Path]) -> None:
    """Print where results are."""
    for kind, folder in folders.items():
        note(f"{_IN_WORDS[kind]} are in {folder}")
