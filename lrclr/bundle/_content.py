"""The files of a bundle, compared with the table in its manifest."""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from lrclr._files import sha256_of
from lrclr._processors import processors
from lrclr.bundle._manifest import FINDINGS, GOLDEN, MANIFEST, TOKENIZER, damaged
from lrclr.card import README
from lrclr.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from lrclr.bundle._manifest import FileEntry, Manifest
    from lrclr.contract import ModelNames

# The only code in a bundle. Triton runs it.
SERVER_MODEL: Final = """from lrclr.triton.model.lrclr_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""
# An empty file beside SERVER_MODEL. Without it, Python makes a folder of this name, and a bundle with an additional
# folder is refused. The Python in Triton ignores PYTHONDONTWRITEBYTECODE.
NO_CACHE: Final = "__pycache__"
# Every path that a manifest may list, with the names and the version of its models. Of the files that
# Python or Triton would run as code, only the server's model matches, and its content is compared with SERVER_MODEL.
_LISTED: Final = (
    r"GOLDEN|tokenizer\.json|findings\.toml|card\.toml|README\.md"
    r"|(?:GRAPH|CLASSIFIER)/config\.pbtxt"
    r"|GRAPH/warmup/[a-z0-9_]+"
    r"|GRAPH/VERSION/model[a-z0-9_.]*\.(onnx|data|xml|bin|plan)"
    rf"|CLASSIFIER/VERSION/(?:model\.py|{NO_CACHE})"
)
# The root of an ext4 volume contains this folder, which only root can read. It is ignored.
_LOST_AND_FOUND: Final = "lost+found"


def check_files(root: Path, manifest: Manifest) -> None:
    """Compare a folder with a manifest's table of files.

    The table may be forged: a path in it could lead out of the folder, or name a file that Triton would run.

    Raises:
        BundleError: they differ, or the table lists what cannot be in a bundle.
    """
    with checking_files(root, manifest):
        pass


@contextmanager
def checking_files(root: Path, manifest: Manifest) -> Iterator[None]:
    """As `check_files`, with the files' contents compared while the block runs.

    Raises:
        BundleError: as `check_files`. After the block, in place of an error that a changed file caused in it.
    """
    files, names = manifest.files, manifest.names
    _check_table(files, names)
    _check_unlisted(root, files)
    for name in files:
        if not (root / name).is_file():
            raise BundleError(
                f"the bundle {root} is incomplete", why=f"{name} is missing", fix="Export the checkpoint again."
            )
    model = f"{names.folder(names.classifier)}/model.py"
    if files[model]["sha256"] != hashlib.sha256(SERVER_MODEL.encode()).hexdigest():
        raise BundleError(
            f"the bundle {root} is refused",
            why=f"Triton runs {model} as code, and its content is not what lrclr writes there",
            fix="Export the checkpoint again. If you did not change the file, treat it as an attack.",
        )
    # hashlib lets other threads run while it hashes.
    with ThreadPoolExecutor(processors(), thread_name_prefix="lrclr-hash") as pool:
        largest_first = sorted(files, key=lambda name: files[name]["bytes"], reverse=True)
        checks = {name: pool.submit(_unchanged, root / name, files[name]) for name in largest_first}
        try:
            yield
        finally:
            for name in files:
                if not checks[name].result():
                    raise BundleError(
                        f"the bundle {root} is damaged",
                        why=f"{name} was changed since the export",
                        fix="Export the checkpoint again, or restore the file.",
                    )


def _unchanged(path: Path, entry: FileEntry) -> bool:
    """Whether a file has its size and hash."""
    return path.stat().st_size == entry["bytes"] and sha256_of(path) == entry["sha256"]


def _listed(names: ModelNames) -> re.Pattern[str]:
    """Return the pattern of every path that the manifest of a bundle with these names may list."""
    words = {
        "GRAPH": f"(?:{'|'.join(names.graphs)})",
        "CLASSIFIER": names.classifier,
        "VERSION": str(names.version),
        "GOLDEN": f"(?:{'|'.join(map(re.escape, goldens(names)))})",
    }
    # In one pass: a prefix may contain one of these words.
    return re.compile(re.sub("|".join(words), lambda word: words[word[0]], _LISTED))


def _check_table(files: Mapping[str, FileEntry], names: ModelNames) -> None:
    needed = {f"{names.folder(model)}/model.onnx" for model in names.graphs}
    needed |= {f"{model}/config.pbtxt" for model in names.all}
    needed |= {f"{names.folder(names.classifier)}/{name}" for name in ("model.py", NO_CACHE)}
    needed |= {*goldens(names), TOKENIZER, FINDINGS, README}
    listed = _listed(names)
    if not needed <= files.keys():
        raise damaged(f"it does not list {', '.join(sorted(needed.difference(files)))}")
    for name in files:
        if not listed.fullmatch(name):
            raise BundleError(
                "the bundle's manifest is refused",
                why=f"it lists {name[:80]!r}, which cannot be a file of a bundle",
                fix="Export the checkpoint again with `lrclr export`.",
            )


def _check_unlisted(root: Path, files: Mapping[str, Any]) -> None:
    """Refuse files that the manifest does not list: Python would import an ``__init__.py`` or ``__pycache__``."""
    known = {MANIFEST, *files}
    folders = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    links, unlisted = [], []
    waiting = [root]
    while waiting:
        for entry in _entries(waiting.pop()):
            name = Path(entry.path).relative_to(root).as_posix()
            if entry.is_symlink():
                links.append(name)
            elif not entry.is_dir(follow_symlinks=False):
                if name not in known:
                    unlisted.append(name)
            elif name in folders:
                waiting.append(Path(entry.path))
            elif name != _LOST_AND_FOUND:
                unlisted.append(f"{name}/")
    if links:
        raise BundleError(
            f"the bundle {root} is refused",
            why=f"{_some(links)} {'are symbolic links' if len(links) > 1 else 'is a symbolic link'}",
            fix="Copy the bundle with `cp -rL`, which replaces links with files.",
        )
    if unlisted:
        raise BundleError(
            f"the bundle {root} is refused",
            why=f"its manifest does not list {_some(unlisted)}",
            fix="Delete these files.",
        )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise BundleError(f"the folder {folder} of the bundle cannot be read", why=error.strerror) from error


def _some(names: list[str]) -> str:
    shown = ", ".join(ascii(name[:80])[1:-1] for name in sorted(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def member_golden(names: ModelNames) -> str:
    """Name of the golden file of a member of an ensemble, by the names of its models."""
    return f"{names.prefix}{GOLDEN}"


def goldens(names: ModelNames) -> tuple[str, ...]:
    return tuple(map(member_golden, names.of_members)) if names.members else (GOLDEN,)


def plan_file(engine: str, capability: str) -> str:
    """Name of the file of a plan. TensorRT has one for each compute capability, TensorRT-RTX one for all."""
    return f"model_sm{capability.replace('.', '')}.plan" if engine == "tensorrt" else "model.rtx.plan"


def file_table(root: Path) -> dict[str, FileEntry]:
    """Hash and size of every file below `root`, for the manifest."""
    return {
        path.relative_to(root).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
