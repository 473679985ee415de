"""Blanks the GPU code of other architectures in a shared library, so that it compresses to a fraction of its size.

The section ``.nv_fatbin`` of a library is a sequence of containers. A container is a header of 16 bytes and a sequence
of entries. An entry is a header, which names the architecture, and a payload. Only payloads are overwritten with zeros;
headers, offsets and sizes do not change. The driver selects an entry by its header and does not read other payloads.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Entry", "blank_other_architectures", "entries"]

_SECTION: Final = b".nv_fatbin"
_MAGIC: Final = 0xBA55ED50
_CONTAINER: Final = struct.Struct("<IHHQ")  # magic, version, header size, size of all entries
_ENTRY: Final = struct.Struct("<HHIQ8xHHI")  # kind, version, header size, payload size, minor and major, architecture
_PTX, _ELF = 1, 2


@dataclass(frozen=True)
class Entry:
    """One program in a container.

    Attributes:
        container: number of its container in the section.
        is_ptx: whether it is PTX text, which the driver compiles for newer architectures.
        architecture: compute capability times ten, such as 90.
        start: offset of the payload in the file.
        size: bytes of the payload.
    """

    container: int
    is_ptx: bool
    architecture: int
    start: int
    size: int


@dataclass
class Blanked:
    """Result of `blank_other_architectures`.

    Attributes:
        kept: bytes of payload by architecture.
        blanked: bytes of payload by architecture.
        containers: number of containers.
        without: number of containers without code for the kept architecture.
    """

    kept: dict[int, int] = field(default_factory=dict)
    blanked: dict[int, int] = field(default_factory=dict)
    containers: int = 0
    without: int = 0


def entries(library: bytes | bytearray) -> Iterator[Entry]:
    """Every entry of every container, in the order of the file.

    Raises:
        ValueError: the file is not a 64-bit ELF library with GPU code, or its containers are not as described.
    """
    position, end = _section(library)
    number = 0
    while position < end:
        magic, version, header, size = _CONTAINER.unpack_from(library, position)
        if magic != _MAGIC or version != 1 or header != _CONTAINER.size or position + header + size > end:
            raise ValueError(f"found no container of GPU code at offset {position:#x}")
        entry, stop = position + header, position + header + size
        while entry < stop:
            kind, _, entry_header, payload, _, _, architecture = _ENTRY.unpack_from(library, entry)
            start = entry + entry_header
            if kind not in {_PTX, _ELF} or start + payload > stop:
                raise ValueError(f"found no entry of a container at offset {entry:#x}")
            yield Entry(number, kind == _PTX, architecture, start, payload)
            entry = start + payload
        position, number = stop, number + 1


def blank_other_architectures(library: bytearray, architecture: int) -> Blanked:
    """Write zeros over the payloads of `library` that a GPU of `architecture` cannot use. PTX is kept.

    Args:
        library: a 64-bit ELF shared library; changed in place.
        architecture: compute capability times ten, such as 90.

    Raises:
        ValueError: the library has no GPU code that can be read, or none for `architecture`.
    """
    found = list(entries(library))
    containers = {entry.container for entry in found}
    served = {entry.container for entry in found if entry.is_ptx or entry.architecture == architecture}
    if not served:
        raise ValueError(f"the library has no GPU code for architecture {architecture}")
    done = Blanked(containers=len(containers), without=len(containers - served))
    for entry in found:
        keep = entry.is_ptx or entry.architecture == architecture
        total = done.kept if keep else done.blanked
        total[entry.architecture] = total.get(entry.architecture, 0) + entry.size
        if not keep:
            library[entry.start : entry.start + entry.size] = bytes(entry.size)
    return done


def _section(library: bytes | bytearray) -> tuple[int, int]:
    """Where the section of GPU code begins and ends in the file."""
    if library[:6] != b"\x7fELF\x02\x01":
        raise ValueError("the file is not a 64-bit little-endian ELF library")
    (table,) = struct.unpack_from("<Q", library, 40)
    size, count, names = struct.unpack_from("<HHH", library, 58)
    headers = [struct.unpack_from("<IIQQQQ", library, table + number * size) for number in range(count)]
    names_start = headers[names][4]
    for name, _, _, _, offset, length in headers:
        if library[names_start + name : names_start + name + len(_SECTION) + 1] == _SECTION + b"\0":
            return offset, offset + length
    raise ValueError("the library has no section of GPU code")
