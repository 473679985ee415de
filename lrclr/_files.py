"""Hashes, and folders that are written whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType

from lrclr.errors import LrclrError, UsageError


def sha256_of(path: Path) -> str:
    """Hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def replace_directory(target: Path, *, expected: Collection[str], overwrite: bool) -> Iterator[Path]:
    """Hand out an empty folder that takes the place of `target` when the block ends without an error.

    Until then `target` is untouched; after an error, an interrupt or a SIGTERM nothing is left of the new folder.

    Args:
        target: where the folder shall be.
        expected: names of the entries that `target` may already hold; with any other it is not ours to replace.
        overwrite: whether a `target` that exists may be replaced.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would replace what a link points to
    _check_replaceable(target, expected, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise _write_error(target, error) from error
    try:
        with _sigterm_raises():
            staging.chmod(0o755)
            yield staging
            _sync(staging)
            _take_place(staging, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO):
            raise _write_error(target, error) from error
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_replaceable(target: Path, expected: Collection[str], *, overwrite: bool) -> None:
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UsageError(f"{target} cannot be written", why="it exists and is not a folder")
    if not target.is_dir():
        return
    strangers = sorted(entry.name for entry in target.iterdir() if entry.name not in expected)
    if strangers:
        raise UsageError(
            f"{target} cannot be replaced",
            why=f"it holds files that are not ours ({', '.join(strangers[:3])}{', …' if len(strangers) > 3 else ''})",
            fix="Choose another folder, or move them away.",
        )
    if not overwrite and any(target.iterdir()):
        raise UsageError(f"{target} exists already", fix="Choose another folder, or add --overwrite.")


def _sync(folder: Path) -> None:
    # Renaming first and writing back later could leave a whole-looking folder with empty files after a power cut.
    for path in sorted(folder.rglob("*"), reverse=True):
        _fsync(path)
    _fsync(folder)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_place(staging: Path, target: Path) -> None:
    if target.exists():
        _exchange(staging, target)
    else:
        staging.rename(target)
    _fsync(target.parent)


def _exchange(staging: Path, target: Path) -> None:
    """Swap two folders in one step, so that at no moment `target` is missing or half new."""
    libc = ctypes.CDLL(None, use_errno=True)
    at_cwd, exchange = -100, 2
    if libc.renameat2(at_cwd, os.fsencode(staging), at_cwd, os.fsencode(target), exchange) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(target))
    # This file system cannot swap: between the two renames the old folder stands beside its place, whole.
    aside = target.with_name(f".{target.name}.old-{os.getpid()}")
    target.rename(aside)
    try:
        staging.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that `finally` blocks run."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _write_error(target: Path, error: OSError) -> LrclrError:
    return LrclrError(
        f"{target} could not be written",
        why=os.strerror(error.errno) if error.errno else type(error).__name__,
        fix="What was there before is unchanged.",
    )
