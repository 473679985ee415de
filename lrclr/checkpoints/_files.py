"""Files that hold tensors, of every format: a table of names, and the numbers when they are asked for.

The content decides the format: ``torch.save`` archives (since PyTorch 1.6), TorchScript archives, the files of
``torch.save`` from before, and safetensors. None of them is read by executing anything (see `_pickle`).
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections import deque
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import NoneType
from typing import IO, TYPE_CHECKING, Final

import torch
from safetensors import safe_open

from lrclr._zip import MAGIC, ArchiveError, checked_entries
from lrclr.checkpoints._pickle import Inert, OtherTensor, PickleError, Storage, TensorView, read_pickle
from lrclr.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

    Reader = Callable[[Mapping[str, "Entry"]], dict[str, Tensor]]

_MAX_PICKLE: Final = 64 << 20
_MAX_DEPTH, _MAX_TENSORS, _LONGEST_NAME = 100, 200_000, 1000
_LFS_POINTER: Final = b"version h"  # https://git-lfs.github.com/spec/v1
_LEGACY_MAGIC, _LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # torch.serialization
# Where an instance of torch.nn.Module keeps what its names leave out.
_MODULE_TABLES: Final = frozenset(("_parameters", "_buffers", "_modules"))
# Settings of modules that decide what a network computes, and their types; and names of an activation's module.
_SETTINGS: Final[Mapping[str, type]] = {
    "num_heads": int,
    "eps": float,
    "approximate": str,
    "pool_type": str,
    "text_pool_type": str,
    "eos_token_id": int,
    "attn_mask": NoneType,
}
_ACTIVATIONS: Final = frozenset(("gelu", "act", "activation_fn"))


@dataclass(frozen=True)
class Entry:
    """A tensor in a file.

    Attributes:
        file: the file that holds it.
        container: dotted path of the table that holds it, with a final dot; ``""`` for the file's root.
        view: what it is: equal for two names of one tensor of a file.
        nbytes: size of its numbers.
    """

    file: Path
    container: str
    view: object
    nbytes: int


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file, or of the shards that make up one checkpoint.

    Attributes:
        path: what to call it in an error.
        script: whether it is a TorchScript archive.
        entries: every tensor by its dotted path from the file's root.
        modules: settings that modules in the file keep, by the same kind of path: those of `_SETTINGS`, and the class
            of an activation.
        numbers: where the numbers are: for each file the names that it holds, its reader, and its size.
    """

    path: Path
    script: bool
    entries: Mapping[str, Entry]
    modules: Mapping[str, object]
    numbers: tuple[tuple[frozenset[str], Reader, int], ...]

    def tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Read some tensors.

        Raises:
            CheckpointError: one is of another kind than dense numbers, the file is damaged, or they would need more
                memory than the file is large.
        """
        wanted = {name: self.entries[name] for name in names}
        other = [f"{name} ({e.view.kind})" for name, e in wanted.items() if isinstance(e.view, OtherTensor)]
        if other:
            raise CheckpointError(f"{self.path} holds tensors that lrclr does not read", why=", ".join(other[:6]))
        result: dict[str, Tensor] = {}
        for known, read, size in self.numbers:
            own = {name: entry for name, entry in wanted.items() if name in known}
            if sum(entry.nbytes for entry in own.values()) > size:
                raise CheckpointError(f"{self.path} is not a file of weights", why="its tensors repeat its numbers")
            with _refusing(self.path):
                result |= read(own)
        return result


def read_file(path: Path) -> TensorFile:
    """List the tensors of a file of any format.

    Raises:
        CheckpointError: it is of another format, damaged, or not what PyTorch writes.
    """
    with _refusing(path), path.open("rb") as file:
        head = file.read(9)
        size = file.seek(0, 2)
        if head.startswith(MAGIC):
            return _archive(path, file, size)
        if len(head) == 9 and head[8:] == b"{":
            return _safetensors(path, size)
        if size == 0:
            raise CheckpointError(f"{path} is not a file of weights", why="it is empty", fix="Download it again.")
        if head == _LFS_POINTER:
            raise CheckpointError(
                f"{path} is not a file of weights",
                why="it is a pointer of Git LFS, which stands for the weights",
                fix="Run `git lfs pull` in its repository, or give hf:OWNER/NAME.",
            )
        file.seek(0)
        return _legacy(path, file, size)


def read_shards(path: Path, files: Iterable[Path]) -> TensorFile:
    """List the tensors of several files as those of one.

    Raises:
        CheckpointError: as `read_file`; or two of them hold a tensor of the same name.
    """
    parts = [read_file(file) for file in files]
    entries = {name: entry for part in parts for name, entry in part.entries.items()}
    if len(entries) < sum(len(part.entries) for part in parts):
        raise CheckpointError(f"{path} holds a tensor twice, in two of its files of weights")
    modules = {name: fact for part in parts for name, fact in part.modules.items()}
    numbers = tuple(item for part in parts for item in part.numbers)
    return TensorFile(path, any(part.script for part in parts), entries, modules, numbers)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Turn whatever damaged bytes raise into a CheckpointError."""
    try:
        yield
    except (CheckpointError, OSError):
        raise
    except Exception as error:
        known = isinstance(error, ArchiveError | PickleError)
        raise CheckpointError(
            f"{path} is not a file of weights",
            why=str(error) if known else "it is truncated, damaged or of another format",
            fix="Expected what torch.save(model.state_dict(), path) writes, a TorchScript archive or safetensors.",
        ) from error


# Archives of torch.save and TorchScript.


def _archive(path: Path, file: IO[bytes], size: int) -> TensorFile:
    entries = checked_entries(file)
    (pickled,) = (name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1)
    prefix = pickled.removesuffix("data.pkl")
    regions = {name.removeprefix(prefix): entry for name, entry in entries.items() if name.startswith(prefix)}
    with zipfile.ZipFile(file) as archive:
        if "byteorder" in regions and _stored(archive, regions["byteorder"]) != sys.byteorder.encode():
            raise PickleError("it was written by a machine of another byte order")
        if regions["data.pkl"].file_size > _MAX_PICKLE:
            raise PickleError(f"its pickle is larger than {_MAX_PICKLE >> 20} MiB")
        root, storages = read_pickle(io.BytesIO(_stored(archive, regions["data.pkl"])))
    for storage in storages.values():
        if regions[f"data/{storage.key}"].file_size < storage.count * storage.dtype.itemsize:
            raise PickleError("a storage is shorter than its tensor")

    def read(wanted: Mapping[str, Entry]) -> dict[str, Tensor]:
        with zipfile.ZipFile(path) as archive:
            return _views(wanted, lambda storage: _stored(archive, regions[f"data/{storage.key}"]))

    return _listed(path, root, read, size, script="constants.pkl" in regions)


def _stored(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry. PyTorch compresses TorchScript's code, and never data."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ArchiveError("its data is compressed")
    try:
        return archive.read(entry)
    except zipfile.BadZipFile as error:
        why = "the checksum of its data is wrong: it is damaged, or was saved without checksums"
        raise ArchiveError(why) from error


# Files of torch.save from before PyTorch 1.6.


def _legacy(path: Path, file: IO[bytes], size: int) -> TensorFile:
    if read_pickle(file)[0] != _LEGACY_MAGIC or read_pickle(file)[0] != _LEGACY_PROTOCOL:
        raise PickleError("it was not written by torch.save")
    system, _ = read_pickle(file)
    if not isinstance(system, Mapping) or system.get("little_endian") is not (sys.byteorder == "little"):
        raise PickleError("it was written by a machine of another byte order")
    root, storages = read_pickle(file)
    keys, _ = read_pickle(file)
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not isinstance(keys, list) or not known or sorted(keys) != sorted(storages):
        raise PickleError("its list of storages is damaged")
    place, regions = file.tell(), {}
    for key in keys:
        storage = storages[key]
        file.seek(place)
        if int.from_bytes(file.read(8), sys.byteorder) != storage.count:
            raise PickleError("a storage does not have the size of its tensor")
        regions[key] = (place + 8, storage.count * storage.dtype.itemsize)
        place = sum(regions[key])
    if place > size:
        raise PickleError("it is truncated")

    def read(wanted: Mapping[str, Entry]) -> dict[str, Tensor]:
        with path.open("rb") as opened:

            def content(storage: Storage) -> bytes:
                start, length = regions[storage.key]
                opened.seek(start)
                return opened.read(length)

            return _views(wanted, content)

    return _listed(path, root, read, size, script=False)


# safetensors.


def _safetensors(path: Path, size: int) -> TensorFile:
    # The library refuses headers whose ranges overlap, leave gaps or end outside the file.
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    _check_names(names)
    entries = {name: Entry(path, "", name, 0) for name in names}

    def read(wanted: Mapping[str, Entry]) -> dict[str, Tensor]:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in wanted}

    return TensorFile(path, False, entries, {}, ((frozenset(names), read, size),))


# From a pickle's value to a table.


def _listed(path: Path, root: object, read: Reader, size: int, *, script: bool) -> TensorFile:
    entries: dict[str, Entry] = {}
    modules: dict[str, object] = {}
    for container, name, value in _leaves(root):
        path_of_value = container + name
        if isinstance(value, TensorView | OtherTensor):
            entries[path_of_value] = Entry(path, container, value, getattr(value, "nbytes", 0))
            _check_names((path_of_value,), len(entries))
        elif isinstance(value, Inert):
            modules[path_of_value] = value.kind
        else:
            modules[path_of_value] = value
    if not entries:
        raise CheckpointError(f"{path} holds no state dict", why="there are no tensors in it")
    return TensorFile(path, script, entries, modules, ((frozenset(entries), read, size),))


def _check_names(names: Iterable[str], count: int = 0) -> None:
    for number, name in enumerate(names, count):
        if number > _MAX_TENSORS or len(name) > _LONGEST_NAME:
            raise PickleError(f"it has more than {_MAX_TENSORS} tensors, or a name that is too long for a tensor")


def _leaves(root: object) -> Iterator[tuple[str, str, object]]:
    """Every tensor and every setting of a module below `root`, each with its table's path and its name there."""
    waiting: deque[tuple[str, str, object, int]] = deque([("", "", root, 0)])
    seen: set[int] = set()
    while waiting:
        container, prefix, node, depth = waiting.popleft()
        if id(node) in seen:  # one object under two names, or inside itself
            continue
        seen.add(id(node))
        for key, value in _children(node):
            if key in _MODULE_TABLES:
                waiting.append((container, prefix, value, depth + 1))
            elif isinstance(value, TensorView | OtherTensor | _SETTINGS.get(key, TensorView)):
                yield container, prefix + key, value
            elif isinstance(value, Mapping | Inert | list | tuple) and depth < _MAX_DEPTH:
                below = f"{prefix}{key}."
                if len(below) > _LONGEST_NAME:
                    continue
                if isinstance(value, Inert):
                    if key in _ACTIVATIONS:
                        yield container, prefix + key, value
                    waiting.append((container, below, value, depth + 1))
                else:
                    waiting.append((container + below, "", value, depth + 1))


def _children(node: object) -> Iterator[tuple[str, object]]:
    tables: list[object] = [node]
    if isinstance(node, Inert):
        state = node.state
        tables = [node.items, *(state if isinstance(state, tuple) else (state,))]
    for table in tables:
        if isinstance(table, Mapping):
            pairs = table.items()
        elif isinstance(table, list | tuple):
            pairs = {str(place): value for place, value in enumerate(table)}.items()
        else:
            continue
        for key, value in pairs:
            # Keys of other types are not names of tensors.
            if isinstance(key, str | int):
                yield str(key), value


def _views(entries: Mapping[str, Entry], read: Callable[[Storage], bytes]) -> dict[str, Tensor]:
    storages: dict[str, Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, entry in entries.items():
        view = entry.view
        assert isinstance(view, TensorView)  # noqa: S101 - others are refused before
        storage = view.storage
        if storage.key not in storages:
            numbers = bytearray(read(storage)) if storage.count else b""
            storages[storage.key] = (
                torch.frombuffer(numbers, dtype=storage.dtype, count=storage.count)
                if numbers
                else torch.empty(0, dtype=storage.dtype)
            )
        result[name] = storages[storage.key].as_strided(view.size, view.stride, view.offset)
    return result
