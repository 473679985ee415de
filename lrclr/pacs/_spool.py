"""The receiver's spool: what was accepted, what is to be sent, and what was answered, on the disk.

An instance passes through these places, each step one rename or one transaction, so that a process may be killed
between any two of them:

1. ``received/UID.dcm``: accepted. The file is complete and flushed before the sender gets the success status.
2. ``results/UID/``: its results, whole. The instance itself is deleted afterwards.
3. The ledger says that the results were taken. They are deleted afterwards.

``failed/`` holds instances that have no results, each with a text file that says why. When the spool is full, the
oldest instances in it make room for new ones, and then the oldest text files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sqlite3
import threading
from typing import TYPE_CHECKING, Any, Final

from lrclr._files import fsync
from lrclr.errors import LrclrError, UsageError
from lrclr.pacs._web import is_uid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lrclr.dicom_results import Kind

_PARTIAL: Final = ".partial"
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_OWN: Final = frozenset({"received", "results", "failed", "ledger.sqlite", "ledger.sqlite-journal", "lock"})


class SpoolError(LrclrError):
    """The spool cannot be read or written now."""


class SpoolFullError(SpoolError):
    """The spool has no room now."""


@contextlib.contextmanager
def _spool_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = SpoolFullError if error.errno in _FULL else SpoolError
        raise kind("the spool cannot be used", why=error.strerror) from None
    except sqlite3.Error as error:
        raise SpoolError("the spool cannot be used", why=f"its ledger gives {type(error).__name__}") from None


class Spool:
    """A folder of its own for one receiver. Safe to call from several threads.

    Every method raises `SpoolError` if the disk is full or broken, and may then be called again.

    Args:
        folder: is made if it does not exist.
        most_bytes: that instances and results in it may have together.
        model: what answers; an instance that it has answered before is not answered again.

    Raises:
        UsageError: the folder holds something else, or other accounts can read or write it and that cannot be changed.
        LrclrError: another receiver uses it, or it cannot be written to.
    """

    def __init__(self, folder: Path, most_bytes: int, model: str) -> None:
        self._most, self._model = most_bytes, model
        self._received, self._results, self._failed = (folder / name for name in ("received", "results", "failed"))
        self._mutex = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if other := [entry.name for entry in folder.iterdir() if entry.name not in _OWN]:
                raise UsageError(
                    f"{folder} cannot be a spool",
                    why=f"it holds {len(other)} other files",
                    fix="Give a folder of its own.",
                )
            _make_private(folder)
            for name in ("lock", "ledger.sqlite"):
                (folder / name).touch(mode=0o600)
            self._lock = (folder / "lock").open("wb")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._lock.close()
                raise LrclrError(f"another receiver uses the spool {folder}") from None
            for each in (self._received, self._results, self._failed):
                each.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise LrclrError(f"the spool {folder} cannot be written to", why=error.strerror) from error
        self._ledger = sqlite3.connect(folder / "ledger.sqlite", check_same_thread=False, isolation_level=None)
        self._ledger.execute("PRAGMA synchronous = FULL")
        self._ledger.execute("CREATE TABLE IF NOT EXISTS answered (uid TEXT, model TEXT, PRIMARY KEY (uid, model))")
        self._tidy()
        self._bytes = self._measured()

    def close(self) -> None:
        """Let another receiver have the folder."""
        self._ledger.close()
        self._lock.close()

    @_spool_errors()
    def receive(self, uid: str, content: bytes) -> bool:
        """Accept an instance. When this returns, it is on the disk.

        Args:
            uid: its SOP instance UID.
            content: the DICOM file.

        Returns:
            Whether the instance is new.

        Raises:
            SpoolFullError: there is no room.
            SpoolError: it cannot be written.
            UsageError: the UID is not one.
        """
        if not is_uid(uid):
            raise UsageError("an instance cannot be accepted", why="its UID is not a UID")
        target = self._received / f"{uid}.dcm"
        with self._mutex:
            if target.exists() or (self._results / uid).exists() or self.is_answered(uid):
                return False
            if self._bytes + len(content) > self._most:
                # People may have removed files in the folder `failed`.
                self._bytes = self._measured()
                self._remove_failed(self._bytes + len(content) - self._most)
            if self._bytes + len(content) > self._most:
                raise SpoolFullError("the spool is full", why=f"it holds {self._bytes} of {self._most} bytes")
            _write_durably(target, content)
            self._bytes += len(content)
            return True

    @_spool_errors()
    def waiting(self, most: int) -> list[tuple[str, Path]]:
        """UIDs and files of instances without results, the oldest first."""
        with os.scandir(self._received) as entries:
            files = [(entry.stat().st_mtime_ns, entry.name) for entry in entries if entry.name.endswith(".dcm")]
        return [(name.removesuffix(".dcm"), self._received / name) for _, name in sorted(files)[:most]]

    @_spool_errors()
    def content(self, uid: str) -> bytes:
        """The file of an instance without results."""
        return (self._received / f"{uid}.dcm").read_bytes()

    @_spool_errors()
    def add_results(self, uid: str, results: Mapping[Kind, tuple[str, bytes]]) -> None:
        """Put the results of an instance in the place of the instance."""
        target = self._results / uid
        if not target.exists():
            staging = self._results / f"{uid}{_PARTIAL}"
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
            for kind, (result_uid, content) in results.items():
                _write_durably(staging / f"{kind}-{result_uid}", content)
            fsync(staging)
            staging.rename(target)
            fsync(self._results)
            self._grow(_size(target))
        self._drop(self._received / f"{uid}.dcm")

    @_spool_errors()
    def outgoing(self) -> list[str]:
        """UIDs of instances whose results are to be sent."""
        with os.scandir(self._results) as entries:
            return sorted(entry.name for entry in entries if not entry.name.endswith(_PARTIAL))

    @_spool_errors()
    def results(self, uid: str) -> dict[Kind, tuple[str, bytes]]:
        """The results of an instance."""
        found: dict[Any, tuple[str, bytes]] = {}
        for file in sorted((self._results / uid).iterdir()):
            kind, _, result_uid = file.name.partition("-")
            found[kind] = (result_uid, file.read_bytes())
        return found

    @_spool_errors()
    def answered(self, uid: str) -> None:
        """Note that the results of an instance were taken, and delete them."""
        with self._mutex:
            self._ledger.execute("INSERT OR IGNORE INTO answered VALUES (?, ?)", (uid, self._model))
        freed = _size(self._results / uid)
        shutil.rmtree(self._results / uid, ignore_errors=True)
        self._grow(-freed)

    def is_answered(self, uid: str) -> bool:
        """Whether the results of an instance were taken."""
        found = self._ledger.execute("SELECT 1 FROM answered WHERE uid = ? AND model = ?", (uid, self._model))
        return found.fetchone() is not None

    @_spool_errors()
    def dismiss(self, uid: str) -> None:
        """Delete an instance that gets no results, such as a heat map of lrclr."""
        with self._mutex:
            self._ledger.execute("INSERT OR IGNORE INTO answered VALUES (?, ?)", (uid, self._model))
        self._drop(self._received / f"{uid}.dcm")

    @_spool_errors()
    def fail(self, uid: str, reason: str, answer: Mapping[str, Any] | None) -> None:
        """Put an instance aside that has no results, with the reason and with its prediction if there is one."""
        content = json.dumps({"reason": reason, "prediction": answer}, indent=2)
        _write_durably(self._failed / f"{uid}.json", content.encode())
        old = self._failed / f"{uid}.dcm"
        if old.exists():
            self._grow(-old.stat().st_size)
        with contextlib.suppress(FileNotFoundError):
            (self._received / old.name).replace(old)

    def counts(self) -> dict[str, int]:
        """How many instances wait, are to be sent, and failed."""
        failed = len(list(self._failed.glob("*.json")))
        return {"waiting": len(self.waiting(1 << 30)), "outgoing": len(self.outgoing()), "failed": failed}

    def _tidy(self) -> None:
        """Remove what a process that was killed left half done."""
        for each in (self._received, self._failed):
            for file in each.glob(f"*{_PARTIAL}"):
                file.unlink()
        for folder in self._results.glob(f"*{_PARTIAL}"):
            shutil.rmtree(folder)
        for folder in list(self._results.iterdir()):
            if self.is_answered(folder.name):
                shutil.rmtree(folder)
            (self._received / f"{folder.name}.dcm").unlink(missing_ok=True)

    def _measured(self) -> int:
        """Bytes of all files below the folder."""
        size = 0
        for folder in (self._received, self._results, self._failed):
            for file in folder.rglob("*"):
                # Another thread may delete it.
                with contextlib.suppress(FileNotFoundError):
                    size += file.stat().st_size if file.is_file() else 0
        return size

    def _remove_failed(self, size: int) -> None:
        """Delete the oldest instances without results, then the oldest texts, until they have freed so many bytes.

        Nothing is deleted if all of them are too few.
        """
        found = [file for file in self._failed.iterdir() if file.suffix in {".dcm", ".json"}]
        stats = [(file.suffix == ".json", file.stat(), file) for file in found]
        if size > sum(stat.st_size for _, stat, _ in stats):
            return
        for _, stat, file in sorted(stats, key=lambda each: (each[0], each[1].st_mtime_ns)):
            if size <= 0:
                return
            file.unlink()
            size -= stat.st_size
            self._bytes -= stat.st_size

    def _drop(self, file: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            freed = file.stat().st_size
            file.unlink()
            self._grow(-freed)

    def _grow(self, size: int) -> None:
        with self._mutex:
            self._bytes += size


def _make_private(folder: Path) -> None:
    """Take the rights of other accounts away: names in the folder are UIDs, and who opens the lock can hold it."""
    with contextlib.suppress(PermissionError):  # another account owns it
        folder.chmod(0o700)
    if folder.stat().st_mode & 0o007:
        raise UsageError(
            f"{folder} cannot be a spool",
            why="every account of this machine has rights on it, and this account cannot change them",
            fix=f"Run 'chmod o-rwx {folder}' as its owner, or give another folder.",
        )


def _write_durably(target: Path, content: bytes) -> None:
    """Write a file, flush it, and give it its name: whole or not there, also after a power failure."""
    partial = target.with_name(f"{target.name}{_PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    except OSError:
        # On a full disk, what was written takes the room for others.
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    fsync(target.parent)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
