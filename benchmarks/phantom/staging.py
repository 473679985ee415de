"""A folder that takes long to make: what is finished survives a kill or a full disk, and the same call goes on from it.

::

    .NAME.partial/stamp.json    what the work depends on; with another stamp it is not taken up again
    .NAME.partial/place.txt     the empty folder that a killed run may have left beside it
    .NAME.partial/work/         the content; each file is renamed into place when it is whole
    NAME                        appears when everything is there, made of links to that content
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

# What a file system says that has no hard links, or not so many of one file.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


def kept_folder(target: Path) -> Path:
    """Where unfinished work for `target` is kept: beside it, so that finishing it needs no copy."""
    target = Path(os.path.abspath(target))  # noqa: PTH100 - as in replace_directory, a link is not followed
    return target.with_name(f".{target.name}.partial")


@contextlib.contextmanager
def resumed_directory(
    target: Path, stamp: Mapping[str, object], *, expected: Collection[str], overwrite: bool
) -> Iterator[Path]:
    """Hand out a folder that becomes `target` when the block ends without an error, and is kept when it does not.

    The folder holds what an earlier call with the same stamp finished. Write to it with `write_whole`; entries whose
    names begin with a dot are left behind.

    Args:
        target: where the folder shall be.
        stamp: all that decides the content, as JSON; unfinished work of another stamp is never mixed in.
        expected: names of the entries that `target` may already hold.
        overwrite: whether a `target` that exists, or unfinished work of another stamp, may be replaced.

    Raises:
        UsageError: `target` may not be replaced, unfinished work has another stamp, or another process is at it.
        LrclrError: the disk is full, not writable or broken.
    """
    kept = kept_folder(target)
    with contextlib.ExitStack() as until_the_end:
        with replace_directory(target, expected=expected, overwrite=overwrite) as place:
            kept.mkdir(exist_ok=True)
            until_the_end.enter_context(_alone(kept))
            _check_stamp(kept, stamp, overwrite=overwrite)
            _clear_up_after_a_kill(kept, place)
            work = kept / "work"
            work.mkdir(exist_ok=True)
            yield work
            _link(work, place)
        shutil.rmtree(kept, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is never seen half written, whatever ends the process."""
    # The process's number keeps two that write the same file apart.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


@contextlib.contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """Keep a second process out; the lock goes with this one, however it ends."""
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
                f"{kept} holds unfinished work of another kind",
                why=f"{', '.join(other)} not as they were",
                fix="Repeat the call it was begun with, or delete it, or add --overwrite to begin anew.",
            )
        # First, so that a kill amid the next line leaves nothing that could be taken for whole.
        file.unlink()
    shutil.rmtree(kept / "work", ignore_errors=True)
    write_whole(file, (json.dumps(wanted, indent=2) + "\n").encode())


def _clear_up_after_a_kill(kept: Path, place: Path) -> None:
    """Remove the folder that a killed run would have renamed, and write down which one this run will."""
    record = kept / "place.txt"
    if record.is_file():
        shutil.rmtree(kept.with_name(record.read_text(encoding="utf-8")), ignore_errors=True)
    write_whole(record, place.name.encode())


def _link(work: Path, place: Path) -> None:
    """Give every file a second name, so that the work is still there if finishing fails."""
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
