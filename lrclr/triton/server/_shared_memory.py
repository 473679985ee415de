"""Shared memory of Triton's Python backend in /dev/shm, with requests, and so with images and patient data of DICOM."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lrclr.errors import ServerError

_FOLDER = "lrclr-serve-"
_PLACE = Path("/dev/shm")  # noqa: S108 - where Triton puts them
_PREFIX = r"lrclr_\d+_[0-9a-f]{8}"
_OWNER = ".owner"


@dataclass(frozen=True)
class Claim:
    """The regions in /dev/shm and the folder of one server, which remain if all of its processes are killed.

    A file beside the regions contains the path of the folder. It is locked as long as a process has it open: the one
    that made it, or one that inherited the descriptor.

    Attributes:
        prefix: prefix of the names of the regions.
        folder: folder of the server.
        descriptor: descriptor of the file, for child processes to inherit.
    """

    prefix: str
    folder: Path
    descriptor: int

    @classmethod
    def make(cls) -> Self:
        """Make a folder, and a prefix that no other server uses.

        Raises:
            ServerError: nothing can be written to /dev/shm or to the folder for temporary files.
        """
        prefix = f"lrclr_{os.getpid()}_{secrets.token_hex(4)}"
        path = _PLACE / f"{prefix}{_OWNER}"
        fresh = path.with_name(f".{path.name}")
        try:
            # It is renamed after it is locked, so that `remove_leftovers` of another process never finds it unlocked.
            descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            folder = Path(tempfile.mkdtemp(prefix=_FOLDER))
            os.write(descriptor, os.fsencode(folder))
            fresh.rename(path)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise ServerError(
                f"{error.filename or _PLACE} cannot be written",
                why=error.strerror,
                fix="Triton needs /dev/shm and a folder for temporary files, which TMPDIR names.",
            ) from error
        return cls(prefix, folder, descriptor)

    @classmethod
    def take_over(cls, file: Path) -> Self | None:
        """The claim of a server that has ended; None if one of its processes lives, or lrclr did not write the file."""
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        found = os.fstat(descriptor)
        with contextlib.suppress(OSError):
            # Only a file of this account that was not removed since.
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(file.stem, Path(os.fsdecode(os.read(descriptor, 4096))), descriptor)
        os.close(descriptor)
        return None

    def release(self) -> None:
        """Remove the regions and the folder."""
        if self.folder.name.startswith(_FOLDER):
            shutil.rmtree(self.folder, ignore_errors=True)
        for region in _PLACE.glob(f"{self.prefix}*"):
            with contextlib.suppress(OSError):
                region.unlink()
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


def restrict_regions(prefix: str) -> None:
    """Allow only this account to open the regions with a prefix. The backend allows every account to read them."""
    for region in _PLACE.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):
            region.chmod(0o600)


def remove_leftovers() -> None:
    """Remove regions and folders of this account's servers that were killed together with their guard."""
    for file in _PLACE.glob(f"lrclr_*{_OWNER}"):
        claim = Claim.take_over(file) if re.fullmatch(_PREFIX, file.stem) else None
        if claim is not None:
            claim.release()
