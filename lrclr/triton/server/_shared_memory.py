"""What Triton's Python backend keeps in /dev/shm: whole requests, and so images and what DICOM says of a patient."""

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
from typing import TYPE_CHECKING

from lrclr.errors import ServerError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Claim", "remove_leftovers", "restrict_regions"]

_FOLDER = "lrclr-serve-"
_PLACE = Path("/dev/shm")  # noqa: S108 - where Triton puts them
_PREFIX = r"lrclr_\d+_[0-9a-f]{8}"
_OWNER = ".owner"


@dataclass(frozen=True)
class Claim:
    """What one server leaves if everything that belongs to it is killed: regions in /dev/shm, and a folder.

    A file beside the regions names the folder. It is locked as long as a process has it open: the one that made it, and
    those that inherit its descriptor.

    Attributes:
        prefix: of the names of the regions.
        folder: of the server.
        descriptor: of the file, for processes that shall inherit it.
    """

    prefix: str
    folder: Path
    descriptor: int

    @classmethod
    def make(cls) -> Self:
        """A new folder, and a prefix that no other server has.

        Raises:
            ServerError: nothing can be written to /dev/shm or to the folder for temporary files.
        """
        prefix = f"lrclr_{os.getpid()}_{secrets.token_hex(4)}"
        path = _PLACE / f"{prefix}{_OWNER}"
        fresh = path.with_name(f".{path.name}")
        try:
            # Renamed after it is locked: `remove_leftovers` of another process must not find it unlocked.
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
        """The claim of a server that is gone; None where something of it lives, or the file is not one of ours."""
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        found = os.fstat(descriptor)
        with contextlib.suppress(OSError):
            # Nothing that another account put there, and nothing that was removed meanwhile.
            if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and found.st_nlink == 1:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return cls(file.stem, Path(os.fsdecode(os.read(descriptor, 4096))), descriptor)
        os.close(descriptor)
        return None

    def release(self) -> None:
        """Remove all that it covers."""
        if self.folder.name.startswith(_FOLDER):
            shutil.rmtree(self.folder, ignore_errors=True)
        for region in _PLACE.glob(f"{self.prefix}*"):
            with contextlib.suppress(OSError):
                region.unlink()
        with contextlib.suppress(OSError):
            os.close(self.descriptor)


def restrict_regions(prefix: str) -> None:
    """Let nobody but this account open the regions of that name; the backend lets every account read them."""
    for region in _PLACE.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):
            region.chmod(0o600)


def remove_leftovers() -> None:
    """Remove what servers of this account left that were killed together with all that looks after them."""
    for file in _PLACE.glob(f"lrclr_*{_OWNER}"):
        claim = Claim.take_over(file) if re.fullmatch(_PREFIX, file.stem) else None
        if claim is not None:
            claim.release()
