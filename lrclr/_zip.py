"""Checks untrusted zip archives before anything in them is read."""

from __future__ import annotations

import struct
import zipfile
from typing import IO, Final

MAGIC: Final = b"PK\x03\x04"
_LOCAL: Final = struct.Struct("<4s5H3L2H")  # APPNOTE 6.3.10, section 4.3.7
_END: Final = struct.Struct("<4s4H2LH")  # 4.3.16
_END64: Final = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR: Final = struct.Struct("<4sLQL")  # 4.3.15
_UNKNOWN: Final = 0xFFFFFFFF  # the number is in the ZIP64 field
_HAS_DESCRIPTOR: Final = 0x8  # the sizes follow the data, and may be zero before it
_ENCRYPTED: Final = 0x1
_IS_UTF8: Final = 0x800
_MAX_DIRECTORY: Final = 16 << 20


class ArchiveError(ValueError):
    """A zip archive is damaged or malicious. The text of the error is a clause that says why."""


def checked_entries(file: IO[bytes], *, most_bytes: int | None = None) -> dict[str, zipfile.ZipInfo]:
    """Return the entries of a zip archive by name, after checks that limit the memory for reading them.

    Every entry must occupy bytes of its own, and its local header must agree with the central directory. Otherwise a
    small file could unpack to gigabytes without compression, with entries that share bytes.

    Args:
        file: the archive, open for reading; its position changes.
        most_bytes: greatest size of all entries together when they are unpacked. Without this limit, the caller must
            read stored entries only.

    Raises:
        ArchiveError: a check fails, or the archive is damaged.
    """
    try:
        size = file.seek(0, 2)
        _check_directory(file, size)
        with zipfile.ZipFile(file) as archive:
            entries, directory = archive.infolist(), archive.start_dir
        taken = sorted(_range(file, entry) for entry in entries)
    except (ArchiveError, OSError):
        raise
    except Exception as error:
        # zipfile raises nearly any exception on damaged bytes.
        raise ArchiveError("it is truncated or damaged") from error
    end = 0
    for first, last in taken:
        if first < end:
            raise ArchiveError("its entries overlap")
        end = last
    if end > directory:
        raise ArchiveError("its entries are larger than the file")
    named = {entry.filename: entry for entry in entries}
    if len(named) < len(entries):
        raise ArchiveError("two of its entries have the same name")
    if most_bytes is not None and sum(entry.file_size for entry in entries) > most_bytes:
        raise ArchiveError(f"it unpacks to more than {most_bytes >> 20} MiB")
    return named


def _check_directory(file: IO[bytes], size: int) -> None:
    """Check the size of the central directory before zipfile creates an object for each entry."""
    file.seek(max(size - _END.size, 0))
    signature, *_, length, _, comment = _END.unpack(file.read(_END.size))
    if signature != b"PK\x05\x06" or comment:
        raise ArchiveError("it is truncated, or bytes follow its directory")
    if length == _UNKNOWN:
        file.seek(size - _END.size - _LOCATOR.size)
        _, _, place, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
        file.seek(place)
        length = _END64.unpack(file.read(_END64.size))[8]
    if length > _MAX_DIRECTORY:
        raise ArchiveError(f"its directory is larger than {_MAX_DIRECTORY >> 20} MiB")


def _range(file: IO[bytes], entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Return the position of an entry's local header, and the position after its data."""
    file.seek(entry.header_offset)
    header = _LOCAL.unpack(file.read(_LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, unpacked, name_length, extra_length = header
    name, extra = file.read(name_length), file.read(extra_length)
    if flags & _HAS_DESCRIPTOR and not (crc or packed or unpacked):
        sizes = (entry.CRC, entry.compress_size, entry.file_size)
    else:
        sizes = (crc, *_sizes(packed, unpacked, extra))
    local = (signature, flags, method, name, *sizes)
    encoding = "utf-8" if entry.flag_bits & _IS_UTF8 else "cp437"
    listed = (MAGIC, entry.flag_bits, entry.compress_type, entry.orig_filename.encode(encoding))
    if local != (*listed, entry.CRC, entry.compress_size, entry.file_size):
        raise ArchiveError("an entry's header and the directory disagree")
    if flags & _ENCRYPTED:
        raise ArchiveError("it is encrypted")
    if method == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
        raise ArchiveError("an entry is stored and has two sizes")
    first = entry.header_offset
    return first, first + _LOCAL.size + name_length + extra_length + entry.compress_size


def _sizes(packed: int, unpacked: int, extra: bytes) -> tuple[int, int]:
    """Return the two sizes of a local header, from its ZIP64 field if they do not fit (section 4.5.3)."""
    if _UNKNOWN not in (packed, unpacked):
        return packed, unpacked
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, 4))
            unpacked = next(wide) if unpacked == _UNKNOWN else unpacked
            return next(wide) if packed == _UNKNOWN else packed, unpacked
        extra = extra[4 + length :]
    return packed, unpacked
