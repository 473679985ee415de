"""Sources: a folder tree, a glob, a dataset or a Parquet file as a sorted list of images."""

from __future__ import annotations

import fnmatch
import hashlib
import math
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from lrclr.errors import UsageError
from lrclr.file_names import name_of, path_of
from lrclr.images._find import FolderScan, describe_passed_over, entries_of

NAME_COLUMNS: Final = ("file", "path", "image")
BYTES_COLUMN: Final = "bytes"
_DATASETS: Final = frozenset({".csv", ".jsonl", ".ndjson"})
_PACKED: Final = frozenset({".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar"})
_MAGIC: Final = "*?["


class Item(NamedTuple):
    """One image.

    Attributes:
        name: its path as text, relative to the source's root if it is below it; see `name_of`.
        frame: frame number in a file that holds several frames.
    """

    name: str
    frame: int | None


class RemoteImages(Protocol):
    """Images that a server keeps. What has a name never changes. Can be pickled."""

    def read(self, name: str) -> bytes:
        """The encoded image.

        Raises:
            ImageError: there is none, and there will be none.
            LrclrError: it cannot be read now.
        """
        ...


@dataclass(frozen=True)
class Source:
    """A list of images.

    Attributes:
        root: folder that names are relative to.
        items: every image once, sorted; if `container` is set, in the order of its rows.
        container: a Parquet file that holds the encoded images in its rows.
        passed_over: counts of other entries of a folder by kind; see `lrclr.images.find_images`.
        remote: reads the images by their names, if a server keeps them; else None.
    """

    root: Path
    items: tuple[Item, ...]
    container: Path | None = None
    passed_over: Counter[str] = field(default_factory=Counter)
    remote: RemoteImages | None = None

    def path(self, item: Item) -> Path:
        """The file of an item, or the container that holds it."""
        return self.container or self.root / path_of(item.name)

    def keys_sha256(self) -> str:
        """Hash of all items, in order."""
        digest = hashlib.sha256()
        for name, frame in self.items:
            digest.update(f"{name}\0{'' if frame is None else frame}\n".encode())
        return digest.hexdigest()


def open_source(source: str | os.PathLike[str], *, findings: Collection[str] = ()) -> Source:
    """List a source's images.

    Args:
        source: a folder, whose images are found as by `lrclr.images.find_images`; a glob such as
            ``"archive/**/*.dcm"``, of which every file counts as an image, once even if several links lead to it; a
            dataset (see `lrclr.datasets.read_dataset`); a Parquet file with a column ``file``, ``path`` or ``image``,
            and optionally ``frame`` and ``bytes`` (binary: encoded images); or one image.
        findings: names of the model's findings, which may be columns of a dataset.

    Raises:
        UsageError: the source has no image, lists one twice, or is a dataset with an unknown column.
        LrclrError: a folder in the tree cannot be read, or a dataset has bad rows.
    """
    text = os.fspath(source)
    path = Path(os.path.abspath(text))  # noqa: PTH100 - resolve() would replace what a link points to
    if path.is_dir():
        scan = FolderScan()
        names = [os.path.relpath(file, path) for file in scan.images_below(str(path))]
        found = Source(path, _sorted((name, None) for name in names), passed_over=scan.passed_over)
    elif not path.exists() and any(character in text for character in _MAGIC):
        root = _fixed_part(path)
        passed_over: Counter[str] = Counter()
        names = [os.path.relpath(match, root) for match in _matches(path, root, passed_over)]
        found = Source(root, _sorted((name, None) for name in names), passed_over=passed_over)
    elif not path.is_file():
        raise UsageError(f"{text} does not exist")
    elif path.suffix.lower() in _DATASETS:
        found = _dataset(path, findings)
    elif path.suffix.lower() == ".parquet":
        found = _parquet(path)
    elif path.suffix.lower() in _PACKED:
        raise UsageError(f"{text} is an archive", fix="Unpack it, and give the folder.")
    else:
        found = Source(path.parent, _sorted([(path.name, None)]))
    if not found.items:
        raise UsageError(f"{text} holds no image", why=describe_passed_over(found.passed_over) or None)
    return found


def _sorted(found: Iterable[tuple[str, int | None]]) -> tuple[Item, ...]:
    return tuple(sorted((Item(name_of(name), frame) for name, frame in found), key=item_order))


def item_order(item: Item) -> tuple[str, int]:
    """Sort key of items."""
    return item.name, -1 if item.frame is None else item.frame


def _matches(pattern: Path, root: Path, passed_over: Counter[str]) -> list[str]:
    """Files that a pattern matches, each once even if several links lead to it."""
    files: dict[str, str] = {}
    folders: set[str] = set()
    real_root = os.path.realpath(root)

    def through_a_link(path: str) -> bool:
        return os.path.realpath(path) != os.path.join(real_root, os.path.relpath(path, root))  # noqa: PTH118

    matches = set(_expanded(str(root), pattern.parts[len(root.parts) :])) if root.is_dir() else set()
    # A file's own name comes before names through links.
    for match in sorted(matches, key=lambda path: (through_a_link(path), path)):
        if os.path.isdir(match):  # noqa: PTH112
            folders.add(os.path.realpath(match))
        elif files.setdefault(os.path.realpath(match), match) != match:
            passed_over["repeated"] += 1
    if pattern.name != "**":
        # folders/* leaves out the images below each folder. Folders above matches do not count.
        above = {str(folder) for file in files for folder in Path(file).parents}
        passed_over["folder"] += len(folders - above)
    return list(files.values())


def _expanded(folder: str, pattern: tuple[str, ...]) -> Iterator[str]:
    """Paths below a folder that match, as `glob.iglob` finds them.

    `iglob` itself follows links to a parent folder until the system refuses, and ignores unreadable folders.
    """
    head, rest = pattern[0], pattern[1:]
    if head == "**":
        for below in _folders(folder):
            yield from _expanded(below, rest or ("*",))
            if not rest:
                yield below
    elif any(character in head for character in _MAGIC):
        for entry in entries_of(folder):
            shown = head.startswith(".") or not entry.name.startswith(".")
            if shown and fnmatch.fnmatchcase(entry.name, head) and (not rest or entry.is_dir()):
                yield from _expanded(entry.path, rest) if rest else (entry.path,)
    else:
        path = os.path.join(folder, head)  # noqa: PTH118
        if rest and os.path.isdir(path):  # noqa: PTH112
            yield from _expanded(path, rest)
        elif not rest and os.path.lexists(path):
            yield path


def _folders(root: str) -> Iterator[str]:
    """A folder and those below it, each once; links come last."""
    seen: set[tuple[int, int]] = set()
    pending, links = [root], list[str]()
    while pending or links:
        folder = pending.pop() if pending else links.pop(0)
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        yield folder
        below = sorted(each.path for each in entries_of(folder) if not each.name.startswith(".") and each.is_dir())
        for path in below:
            (links if os.path.islink(path) else pending).append(path)  # noqa: PTH114


def _fixed_part(pattern: Path) -> Path:
    fixed = Path(pattern.anchor)
    for part in pattern.parts[1:-1]:
        if any(character in part for character in _MAGIC):
            break
        fixed /= part
    return fixed


def _below(root: Path, path: str) -> str:
    """The path relative to the root if it is below it, else absolute."""
    full = os.path.normpath(root / path)
    relative = os.path.relpath(full, root)
    return full if relative.startswith(os.pardir) else relative


def _dataset(path: Path, findings: Collection[str]) -> Source:
    from lrclr.datasets import check_columns, read_dataset

    dataset = read_dataset(path, findings=findings, strict=True, check_images=False, check_splits=False)
    check_columns(dataset, findings)
    return Source(path.parent, _sorted((_below(path.parent, str(row.image)), row.frame) for row in dataset.rows))


def _whole(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else int(value) if value.is_integer() else value


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as kinds

    return any(
        test(kind)
        for test in (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view, kinds.is_fixed_size_binary)
    )


def _parquet(path: Path) -> Source:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        columns = schema.names
        name = next((column for column in NAME_COLUMNS if column in columns), None)
        if name is None:
            raise UsageError(f"{path} has no column of image names", why=f"looked for {', '.join(NAME_COLUMNS)}")
        wanted = [name, *(["frame"] if "frame" in columns else [])]
        table = pq.read_table(path, columns=wanted, partitioning=None)
        names = table[name].to_pylist()
        # pandas writes whole numbers with gaps as floats.
        frames = [_whole(each) for each in table["frame"].to_pylist()] if "frame" in columns else [None] * len(names)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read", why="it is not a Parquet file, or damaged") from error
    for number, (each, frame) in enumerate(zip(names, frames, strict=True), 1):
        if not isinstance(each, str) or not each or "\0" in each:
            raise UsageError(f"row {number} of {path} names no image", why=f"its {name} is empty or not a text")
        if frame is not None and (not isinstance(frame, int) or frame < 0):
            raise UsageError(f"the frame in row {number} of {path} is not a whole number from 0")
    kind = schema.field(BYTES_COLUMN).type if BYTES_COLUMN in columns else None
    # In the rows of `lrclr score` and `lrclr embed` it is the size of the file.
    inside = kind is not None and _is_binary(kind)
    root = path.parent
    found = (
        tuple(Item(name_of(each), frame) for each, frame in zip(names, frames, strict=True))
        if inside
        else _sorted((_below(root, each), frame) for each, frame in zip(names, frames, strict=True))
    )
    if len(set(found)) != len(found):
        raise UsageError(f"{path} names {len(found) - len(set(found))} images twice")
    if kind is not None and not inside and not any(os.path.exists(root / path_of(item.name)) for item in found):  # noqa: PTH110
        raise UsageError(
            f"{path} holds no image",
            why=f"its column {BYTES_COLUMN} is {kind}, not binary, and no file in its column {name} exists",
            fix=f"Name files relative to {root}, or store encoded images in a binary column {BYTES_COLUMN}.",
        )
    return Source(root, found, path if inside else None)
