"""Reads the bytes of an image from a path, a file object or bytes, up to the limits."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lrclr.budget import files
from lrclr.errors import ImageError, UsageError

if TYPE_CHECKING:
    from lrclr.images._limits import ReadLimits

_CHUNK = 2**20

_OS_REASONS = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "there is no such file",
    errno.EACCES: "its permissions do not allow reading",
    errno.EPERM: "its permissions do not allow reading",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "symbolic links form a loop",
}


def read_bytes(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO,
    limits: ReadLimits,
    *,
    allow_empty: bool = False,
) -> bytes:
    """Return all bytes of `source`.

    A path must name a regular file, since a device or a pipe could be endless. A binary file object is read from its
    present position, and stays open.

    Raises:
        ImageError: the file cannot be read; or it is empty, and `allow_empty` is False.
        ImageLimitError: the source has more than `limits.max_bytes` bytes.
        UsageError: the type of `source` is not supported, or it is a text file object.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        limits.check_bytes(source.nbytes if isinstance(source, memoryview) else len(source))
        data = bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        data = _read_file(source, limits)
    elif hasattr(source, "read"):
        data = _drain(source, limits)
    else:
        raise UsageError(
            f"an image cannot be read from an object of type {type(source).__name__}",
            fix="Pass a path, bytes, a binary file, a NumPy array or a Pillow image",
        )
    if not data and not allow_empty:
        raise ImageError("the image is empty", why="its length is 0 bytes, or its file object is at its end")
    return data


def _read_file(path: str | os.PathLike[str], limits: ReadLimits) -> bytes:
    try:
        file = Path(path)
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise ImageError(f"cannot read {os.fspath(path)!r}", why=f"it is {kind}")
        limits.check_bytes(status.st_size, "the file")
        with files.job(), file.open("rb") as stream:
            # Twice the size: the parts are joined into a copy, and later pydicom copies the pixel data.
            files.reserve(2 * status.st_size)
            return _drain(stream, limits)
    except OSError as error:
        reason = _OS_REASONS.get(error.errno or 0, os.strerror(error.errno) if error.errno else "the system failed")
        raise ImageError(f"cannot read {os.fspath(path)!r}", why=reason) from error
    except ValueError as error:
        raise ImageError(f"cannot read {os.fspath(path)!r}", why="the file name is not valid") from error


def _drain(stream: BinaryIO, limits: ReadLimits) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        while chunk := stream.read(_CHUNK):
            if not isinstance(chunk, (bytes, bytearray, memoryview)):
                raise UsageError("the file object gives text", fix="Open the file in binary mode: open(path, 'rb')")
            chunks.append(bytes(chunk))
            size += len(chunks[-1])
            limits.check_bytes(size)
    except (OSError, ValueError) as error:
        raise ImageError("the file object cannot be read", why="it is closed, is write-only, or failed") from error
    return b"".join(chunks)
