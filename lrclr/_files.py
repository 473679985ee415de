"""Hashes of files, and atomic replacement of files and folders."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from lrclr._signals import stop_signals_raise
from lrclr.errors import LrclrError, UsageError

# Errors of a disk that is full, read-only or broken. Any other error that a block raises is passed on unchanged.
_WRITE_FAILURES = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO}
)
# NumPy's ``ndarray.tofile`` raises an OSError without a number, whose text this is: the second of strided arrays.
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written|problem writing element \d+ to file")
# Suffix of a file beside the new folder of `replace_directory`. It is locked while the process that writes is running.
_LOCK: Final = ".lock"


def os_reason(error: OSError) -> str:
    """Return why an operation of the system failed, for the error that is printed."""
    if error.strerror:
        return error.strerror
    if _SHORT_WRITE.fullmatch(str(error)):
        return "a file could not be written in full: the disk is probably full"
    return type(error).__name__


def sha256_of(path: Path) -> str:
    """Return the SHA-256 hex digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content` in one step.

    Raises:
        LrclrError: the file cannot be written; the previous content is unchanged.
    """
    with replace_file(path) as file, _write_errors(path):
        file.write(content)


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces the one at `path` in one step when the block ends without an error.

    Raises:
        UsageError: the path is a folder, a device, a pipe or a socket.
        LrclrError: the file cannot be written; the previous content is unchanged.
    """
    with _write_errors(path):
        # To replace /dev/null or a pipe would remove it.
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} cannot be written to", why="it exists and is not a file")
    # The name does not contain that of `path`, which may have the greatest allowed length already.
    partial = path.with_name(f".lrclr-{secrets.token_hex(8)}.partial")
    try:
        with _write_errors(path):
            file = partial.open("xb")
        # To close the file is to write what is in its buffer.
        with _write_errors(path, only=_WRITE_FAILURES), file:
            yield file
            with _write_errors(path):
                file.flush()
                os.fsync(file.fileno())
        with _write_errors(path):
            partial.replace(path)
    finally:
        with _write_errors(path):
            partial.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link, or a copy if the file system has no hard links. The folder of `target` is created."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        # The target is on another file system, or the file system has no hard links.
        shutil.copy2(source, target)


def link_tree(source: Path, target: Path) -> None:
    """Call `link_or_copy` for every file below a folder.

    Later changes must replace a file, as `write_whole` does, since both folders share its content.
    """
    for path in sorted(source.rglob("*")):
        if path.is_file():
            link_or_copy(path, target / path.relative_to(source))


@contextlib.contextmanager
def replace_directory(target: Path, *, expected: Collection[str], overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder that replaces `target` when the block ends without an error.

    Until then, `target` is unchanged. After an error, an interrupt or a SIGTERM, the new folder is removed. What
    killed processes left beside `target` is removed first, if the file system has locks.
    If two processes write to the same target, the first to finish succeeds, and the other gets an error.
    All files and folders get the permissions that the umask gives to new ones.

    Args:
        target: final path of the folder.
        expected: names of the entries that an existing `target` may contain. With any other entry it is not replaced.
        overwrite: whether an existing `target` may be replaced.

    Raises:
        UsageError: `target` is not a folder, contains other entries, or exists and may not be replaced.
        LrclrError: the disk is full, not writable or broken; or another process has replaced `target` meanwhile.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would replace what a link points to
    staging = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    with stop_signals_raise(), contextlib.ExitStack() as stack:
        try:
            with _write_errors(target):
                check_replaceable(target, expected, overwrite=overwrite)
                before = _state(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                # Another process must not look for leftovers between the creation of the file and its lock.
                with _exclusive_lock(target.parent):
                    _remove_leftovers(target)
                    stack.enter_context(_locked_file(staging.with_suffix(_LOCK)))
                staging.mkdir()
            with _write_errors(target, only=_WRITE_FAILURES):
                yield staging
            with _write_errors(target):
                _finish(staging)
                with _exclusive_lock(target.parent):
                    # Another process may have written the target while the block ran.
                    check_replaceable(target, expected, overwrite=overwrite)
                    if _state(target) != before:
                        raise LrclrError(
                            f"{target} was changed by another process meanwhile",
                            fix="The other process's result is kept. Run this again to replace it.",
                        )
                    _take_place(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _locked_file(path: Path) -> Iterator[None]:
    """Keep a new file locked in a block. The system releases the lock when the process ends, however it ends."""
    with path.open("xb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            # Without its lock, the file would look like that of a process that has ended.
            path.unlink()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _remove_leftovers(target: Path) -> None:
    """Remove the folders beside `target` that processes left when they were killed: those whose file is not locked."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}{_LOCK}"):
        # An error: the process is running, or the folder belongs to another account.
        with contextlib.suppress(OSError), path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            folder = path.with_suffix(".partial")
            if folder.exists():
                shutil.rmtree(folder)
            path.unlink()


@contextlib.contextmanager
def _write_errors(target: Path, *, only: Collection[int] | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only and not _is_full(error):
            raise
        raise LrclrError(
            f"{target} could not be written",
            why=os_reason(error) + (_free_space(target) if _is_full(error) else ""),
            fix="What was there before is unchanged.",
        ) from error


def _free_space(target: Path) -> str:
    try:
        return f" ({shutil.disk_usage(target.parent).free / 2**20:.1f} MiB are free)"
    except OSError:
        return ""


def _is_full(error: OSError) -> bool:
    return error.errno == errno.ENOSPC or bool(_SHORT_WRITE.fullmatch(str(error)))


def check_replaceable(target: Path, expected: Collection[str], *, overwrite: bool) -> None:
    """Raise the UsageError that `replace_directory` would. Long jobs call this before they start."""
    check_is_folder(target)
    check_place(target)
    entries = own_entries(target, lambda name: name in expected)
    if entries and not overwrite:
        raise UsageError(f"{target} exists already", fix="Choose another folder, or add --overwrite.")


def check_place(target: Path) -> None:
    """Raise UsageError, before a long job, if a folder cannot be made there or cannot be replaced."""
    if target.is_mount():
        raise UsageError(
            f"{target} is a mount point, which cannot be replaced", fix=f"Give a folder below it: {target / 'NAME'}."
        )
    parent = next(each for each in target.absolute().parents if each.exists())
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{parent} cannot be written to", fix="Choose another folder.")


def check_not_input(output: Path, inputs: Iterable[Path]) -> None:
    """Raise UsageError if a file to write is one of the files to read."""
    if output.exists() and any(each.exists() and each.samefile(output) for each in inputs):
        raise UsageError(f"{output} is one of the files to read", fix="Choose another name for the output.")


def check_outside(output: Path, inputs: Iterable[Path]) -> None:
    """Raise UsageError if a path to write is inside a folder to read, which would then hold a foreign file."""
    place = output.resolve()
    for each in inputs:
        if each.is_dir() and each.resolve() in place.parents:
            raise UsageError(f"{output} is inside {each}, which is read", fix="Choose a place outside of it.")


def check_is_folder(folder: Path) -> None:
    """Raise UsageError if a path exists and is not a folder; a link to a folder is not a folder."""
    if folder.is_symlink():
        raise UsageError(
            f"{folder} cannot be written to", why="it is a link", fix="Give the folder to which it leads, or remove it."
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} cannot be written to", why="it exists and is not a folder")


def own_entries(folder: Path, expected: Callable[[str], object]) -> list[str]:
    """List the names in a folder that lrclr may change; an empty list if the folder does not exist.

    Args:
        folder: folder to list.
        expected: function that returns whether lrclr writes an entry of this name.

    Raises:
        UsageError: the folder contains other entries.
    """
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    refuse_other_files(folder, [name for name in names if not expected(name)])
    return names


def refuse_other_files(folder: Path, others: Sequence[str]) -> None:
    """Raise UsageError if `others`, the files that lrclr did not write to a folder, is not empty."""
    if others:
        raise UsageError(
            f"{folder} cannot be written to",
            why=f"lrclr did not write all of it ({', '.join(others[:3])}{', …' if len(others) > 3 else ''})",
            fix="Choose another folder, or move these files away.",
        )


def _state(folder: Path) -> tuple[int, int] | None:
    """Return a value that changes when the folder or one of its entries is replaced."""
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


@contextlib.contextmanager
def _exclusive_lock(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, if its file system has locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _finish(folder: Path) -> None:
    """Give everything in `folder` the permissions of the umask, and sync it to the disk."""
    # The folder was made with mkdir's default mode, so its mode shows the umask without changing it.
    mode = stat.S_IMODE(folder.stat().st_mode)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_symlink():
            continue
        runs = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(mode if runs else mode & 0o666)
        # Renaming first and writing back later could leave a whole-looking folder of empty files after a power cut.
        fsync(path)
    fsync(folder)


def fsync(path: Path) -> None:
    """Write a file or folder back to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync folders and return EINVAL.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def _take_place(staging: Path, target: Path) -> None:
    if target.exists():
        _exchange(staging, target)
    else:
        staging.rename(target)
    # The new folder is in place. If its parent cannot be opened for the sync, that is not an error.
    with contextlib.suppress(OSError):
        fsync(target.parent)


def _exchange(staging: Path, target: Path) -> None:
    """Swap two folders in one step, so that `target` always exists and is complete."""
    if _renameat2_exchange(staging, target):
        return
    # This file system cannot swap. Between the two renames, the old folder exists under another name.
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    try:
        target.rename(aside)
        staging.rename(target)
    except BaseException:
        if aside.exists() and not target.exists():
            aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _renameat2_exchange(one: Path, other: Path) -> bool:
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    at_cwd, exchange = -100, 2
    return rename is not None and rename(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0
