"""Makes a folder over a long time: finished files survive a kill or a full disk, and the same call continues.

::

    .NAME.partial/stamp.json    what the work depends on; with another stamp it is not continued
    .NAME.partial/place.txt     name of the empty folder that a killed run may have left
    .NAME.partial/work/         the content; each file gets its name when it is complete
    NAME                        appears when everything is complete, as links to that content
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lrclr._files import replace_directory
from lrclr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

__all__ = ["kept_folder", "resumed_directory", "write_whole"]

# Errors of file systems without hard links, or with too few for one file.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


def kept_folder(target: Path) -> Path:
    """Folder of the unfinished work for `target`: beside it, so that links between them are possible."""
    target = Path(os.path.abspath(target))  # noqa: PTH100 - as in replace_directory, a link is not followed
    return target.with_name(f".{target.name}.partial")


@contextlib.contextmanager
def resumed_directory(
    target: Path, stamp: Mapping[str, object], *, expected: Collection[str], overwrite: bool
) -> Iterator[Path]:
    """A folder that becomes `target` when the block ends without an error, and is kept otherwise.

    The folder has what an earlier call with the same stamp finished. Write to it with `write_whole`. Entries whose
    names begin with a dot do not become part of `target`.

    Args:
        target: path of the finished folder.
        stamp: everything that determines the content, as JSON; unfinished work with another stamp is not reused.
        expected: names of the entries that an existing `target` may have.
        overwrite: whether an existing `target`, or unfinished work with another stamp, may be replaced.

    Raises:
        UsageError: `target` may not be replaced, unfinished work has another stamp, or another process uses it.
        LrclrError: the disk is full, read-only or damaged.
    """
    kept = kept_folder(target)
    with contextlib.ExitStack() as until_the_end:
        with replace_directory(target, expected=expected, overwrite=overwrite) as place:
            kept.mkdir(exist_ok=True)
            until_the_end.enter_context(_exclusive_lock(kept))
            _check_stamp(kept, stamp, overwrite=overwrite)
            _remove_leftovers(kept, place)
            work = kept / "work"
            work.mkdir(exist_ok=True)
            yield work
            _link(work, place)
        shutil.rmtree(kept, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it never appears incomplete.

    Other than `lrclr._files.write_whole`, it does not wait for the disk, which would take long for 58,000 files.
    """
    # The process number keeps two processes apart that write the same file.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


@contextlib.contextmanager
def _exclusive_lock(kept: Path) -> Iterator[None]:
    """Exclude a second process; the lock ends with this process."""
    descriptor = os.open(kept, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UsageError(f"{kept} is in use", why="another process is making the same folder") from error
    finally:
        os.close(descriptor)


def _check_stamp(kept: Path, stamp: Mapping[str, object], *, overwrite: bool) -> None:
    file = kept / "stamp.json"
    wanted = json.loads(json.dumps(stamp))
    there = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    if there == wanted:
        return
    if there is not None:
        if not overwrite:
            other = sorted(key for key in {*there, *wanted} if there.get(key) != wanted.get(key))
            raise UsageError(
                f"{kept} has unfinished work with other settings",
                why=f"these settings differ: {', '.join(other)}",
                fix="Repeat the command that began it, or delete it, or add --overwrite to start again.",
            )
        # The stamp first, so that a kill during the next line leaves nothing that looks complete.
        file.unlink()
    shutil.rmtree(kept / "work", ignore_errors=True)
    write_whole(file, (json.dumps(wanted, indent=2) + "\n").encode())


def _remove_leftovers(kept: Path, place: Path) -> None:
    """Remove the folder that a killed run left, and record the one of this run."""
    record = kept / "place.txt"
    if record.is_file():
        shutil.rmtree(kept.with_name(record.read_text(encoding="utf-8")), ignore_errors=True)
    write_whole(record, place.name.encode())


def _link(work: Path, place: Path) -> None:
    """Give every file a second name, so that the work remains if a later step fails."""
    for path in sorted(work.rglob("[!.]*")):
        beside = place / path.relative_to(work)
        if path.is_dir():
            beside.mkdir()
            continue
        try:
            os.link(path, beside)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(path, beside)
