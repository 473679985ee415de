"""Finds the images in folders. Every command that takes a folder uses this scan."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lrclr._files import os_reason
from lrclr.errors import LrclrError, UsageError
from lrclr.images._kind import HEAD_BYTES, IMAGE, PASSED_OVER, kind_of

HEATMAP_SUFFIX: Final = ".heatmap.png"
DICOM_HEATMAP_SUFFIX: Final = ".heatmap.dcm"
_RASTER_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
_DICOM_SUFFIXES: Final = frozenset({".dcm", ".dicom", ".ima"})
_NOTHING_THERE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


@dataclass(frozen=True)
class FoundImages:
    """The images among some files and folders.

    Attributes:
        files: the images.
        passed_over: number of other entries in the folders by kind, with the keys of `PASSED_OVER`.
    """

    files: list[Path]
    passed_over: Counter[str]


def find_images(paths: Iterable[Path]) -> FoundImages:
    """List the given files in their order, and the images below each given folder in sorted order.

    A file that the caller names is always an image. In a folder, images are:

    - PNG, JPEG, TIFF and DICOM files, found by their content, with any name. DICOM objects without pixel data
      (structured reports, presentation states, DICOMDIR) are not images.
    - files with the suffix of an image (.png, .jpg, .jpeg, .tif, .tiff, .dcm, .dicom, .ima), with any content: so a
      damaged image gives an error when it is read, and is not skipped.

    Hidden files and folders, archives, and heat maps of `lrclr predict` are skipped and counted. Links are followed. A
    file that is found twice counts once; its own name below the folder is preferred to the name of a link.

    Raises:
        UsageError: a path does not exist, or a folder contains no image.
        LrclrError: a folder cannot be read.
    """
    given = list(paths)
    scan = FolderScan(given=frozenset(os.path.realpath(path) for path in given if not path.is_dir()))
    found: list[Path] = []
    for path in given:
        if not path.exists() and not path.is_symlink():
            raise UsageError(f"{path} does not exist")
        if not path.is_dir():
            found.append(path)
            continue
        before = scan.passed_over.copy()
        inside = sorted(Path(file) for file in scan.images_below(os.fspath(path)))
        passed = scan.passed_over - before
        if not inside and not passed["repeated"]:
            raise UsageError(f"{path} contains no image", why=describe_passed_over(passed) or "the folder is empty")
        found += inside
    return FoundImages(found, scan.passed_over)


def describe_passed_over(passed_over: Mapping[str, int]) -> str:
    """Describe in one line how many entries of each kind were skipped; "" if none were."""
    kinds = [f"{passed_over[kind]} × {words}" for kind, words in PASSED_OVER.items() if passed_over.get(kind)]
    return f"passed over: {'; '.join(kinds)}" if kinds else ""


def entries_of(folder: str) -> list[os.DirEntry[str]]:
    """List the entries of a folder.

    Raises:
        LrclrError: the folder cannot be read. Skipping it would lose its images without an error.
    """
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise _unreadable(folder, error) from error


@dataclass
class FolderScan:
    """Lists the images below folders, each once; see `find_images`.

    Attributes:
        given: real paths of files that the caller has listed already.
        passed_over: number of skipped entries by kind.
    """

    given: frozenset[str] = frozenset()
    passed_over: Counter[str] = field(default_factory=Counter)
    _folders: set[tuple[int, int]] = field(default_factory=set)
    _linked: set[str] = field(default_factory=set)

    def images_below(self, root: str) -> Iterator[str]:
        """Yield the paths of the images; each path begins with `root`.

        Raises:
            LrclrError: a folder cannot be read.
        """
        links: list[str] = []
        file_links: list[str] = []
        yield from self._walk(root, links)
        # Links come last, so that a file below the folder is listed under its own name. Links to folders come before
        # links to files.
        while links:
            batch = sorted(links)
            links.clear()
            for link in batch:
                mode = self._mode(link)
                if mode is None:
                    if _is_named_as_image(link):
                        # Reading it later gives an error that says what is missing.
                        yield link
                    else:
                        self.passed_over["broken_link"] += 1
                elif stat.S_ISDIR(mode):
                    yield from self._walk(link, links)
                elif stat.S_ISREG(mode):
                    file_links.append(link)
                else:
                    self.passed_over["special"] += 1
        for link in file_links:
            if self._is_known(os.path.realpath(link)):
                self.passed_over["repeated"] += 1
            else:
                self._linked.add(os.path.realpath(link))
                yield from self._judged(link)

    def _walk(self, root: str, links: list[str]) -> Iterator[str]:
        """Yield the images below a folder. Links are not followed here, but appended to `links`."""
        pending = [root]
        while pending:
            folder = pending.pop()
            status = os.stat(folder)  # noqa: PTH116 - a Path for each of millions costs too much
            if (status.st_dev, status.st_ino) in self._folders:
                self.passed_over["repeated"] += 1
                continue
            self._folders.add((status.st_dev, status.st_ino))
            for entry in entries_of(folder):
                if entry.name.startswith("."):
                    self.passed_over["hidden"] += 1
                elif entry.is_symlink():
                    links.append(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    self.passed_over["special"] += 1
                elif self.given and os.path.realpath(entry.path) in self.given:
                    self.passed_over["repeated"] += 1
                else:
                    yield from self._judged(entry.path)

    def _judged(self, path: str) -> Iterator[str]:
        """Yield the path if it is an image, else count it."""
        kind = "heatmap" if path.endswith((HEATMAP_SUFFIX, DICOM_HEATMAP_SUFFIX)) else _kind_of_file(path)
        if kind == IMAGE:
            yield path
        else:
            self.passed_over[kind] += 1

    def _mode(self, link: str) -> int | None:
        try:
            return os.stat(link).st_mode  # noqa: PTH116
        except OSError as error:
            if error.errno in _NOTHING_THERE:
                return None
            raise _unreadable(link, error) from error

    def _is_known(self, real: str) -> bool:
        """Return whether the target of a link was found already."""
        if real in self._linked or real in self.given:
            return True
        folder, name = os.path.split(real)
        status = os.stat(folder)  # noqa: PTH116
        return (status.st_dev, status.st_ino) in self._folders and not name.startswith(".")


def _is_named_as_image(path: str) -> bool:
    return _suffix(path) in _RASTER_SUFFIXES | _DICOM_SUFFIXES


def _kind_of_file(path: str) -> str:
    suffix = _suffix(path)
    if suffix in _RASTER_SUFFIXES:
        return IMAGE
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            kind = kind_of(file.read(HEAD_BYTES))
    except OSError:
        # Reading it as an image gives the same error, with the reason.
        return IMAGE
    return IMAGE if suffix in _DICOM_SUFFIXES and kind != "dicom_without_image" else kind


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122


def _unreadable(path: str, error: OSError) -> LrclrError:
    return LrclrError(
        f"the folder {path} cannot be read",
        why=os_reason(error),
        fix="Change its permissions, or name the other folders one by one.",
    )
