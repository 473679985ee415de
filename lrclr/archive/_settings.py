"""Settings that the rows depend on, and the file in which a folder of scores keeps them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from lrclr._files import os_reason, own_entries, write_whole
from lrclr._version import __version__
from lrclr.errors import LrclrError, UsageError

SCHEMA_VERSION: Final = 3
RUN_FILE: Final = "_run.json"
# In a folder of scores while a run writes to it, and after a run that did not end.
UNFINISHED_FILE: Final = "_unfinished"
_IN_WORDS: Final = {
    "exact": "way of reading (--exact)",
    "graph_engine": "graph engine",
    "batch_size": "batch size",
    "refuse": "set of refused warnings (--refuse)",
    "schema": "version of lrclr",
    "embeddings": "choice of --embeddings",
    "spread": "version of lrclr",
}
# Settings that older folders do not have, with the value that those folders were made with. A setting with this value
# is not hashed, so that the rows of such a folder stay valid.
_ADDED: Final = {"embeddings": False, "refuse": "", "spread": False}
_MAX_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Settings:
    """Settings of a run. Equal settings give equal rows for equal images on equal machines.

    Attributes:
        bundle: hash of the bundle's manifest.
        findings: hash of the findings with their prompts.
        alpha: weight of the local score.
        frame: frame of files that hold several, if the source names none.
        exact: whether files were read in full; see `lrclr.images.read_for_model`.
        graph_engine: name of the engine.
        provider: provider of ONNX Runtime.
        threads: threads of one operator of ONNX Runtime. The last bit of results can depend on it.
        batch_size: images of a batch. The last bit of results can depend on it.
        order: hash of the source's rows if parts follow their order; None if they follow the names.
        parts: number of parts.
        embeddings: whether the rows hold the images' embeddings.
        refuse: codes of the warnings with which an image is refused, sorted, with commas between them.
        spread: whether the rows hold the standard deviation of the members' probabilities: of an ensemble.
        schema: version of the rows.
    """

    bundle: str
    findings: str
    alpha: float
    frame: int | None
    exact: bool
    graph_engine: str
    provider: str
    threads: int
    batch_size: int
    order: str | None
    parts: int
    embeddings: bool = False
    refuse: str = ""
    spread: bool = False
    schema: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """Hash of all settings."""
        hashed = {name: value for name, value in asdict(self).items() if name not in _ADDED or _ADDED[name] != value}
        return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()

    def write(self, folder: Path) -> None:
        """Write the settings into a folder of scores."""
        content = {**asdict(self), "lrclr": __version__}
        write_whole(folder / RUN_FILE, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())

    def settled(self, folder: Path, *, rescore: bool) -> Settings:
        """These settings with the number of parts of an existing folder of scores.

        Raises:
            UsageError: the folder holds other files; or scores of other settings, and `rescore` is False.
            LrclrError: the settings in the folder are damaged or cannot be read.
        """
        file = folder / RUN_FILE
        if not file.exists():
            own_entries(folder, lambda name: name.startswith(("_", ".")))
            return self
        old = {**_ADDED, **_read(file)}
        wanted = replace(self, parts=int(old["parts"]))
        if wanted.order != old["order"]:
            raise UsageError(
                f"{folder} holds scores of another source",
                why="the parts follow the rows of a Parquet file, which have changed",
                fix="Choose another folder.",
            )
        other = sorted(name for name, value in asdict(wanted).items() if old.get(name) != value)
        if other and not rescore:
            raise UsageError(
                f"{folder} holds scores with another {' and '.join(_IN_WORDS.get(name, name) for name in other)}",
                fix="Choose another folder, or add --rescore to score everything in it again.",
            )
        return wanted


def read_settings(folder: Path) -> Settings | None:
    """The settings of a folder of scores; None if it has none.

    Raises:
        LrclrError: they are damaged or cannot be read.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        return None
    content = _read(file)
    try:
        return Settings(**{each.name: content[each.name] for each in fields(Settings) if each.name in content})
    except TypeError as error:
        raise _damaged(file) from error


def _damaged(file: Path) -> LrclrError:
    return LrclrError(
        f"{file} is damaged", why="lrclr did not write its content", fix="Choose another folder for the scores."
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = json.loads(stream.read(_MAX_BYTES))
    except OSError as error:
        fix = "Nothing was changed. Make it readable, and run again."
        raise LrclrError(f"{file} cannot be read", why=os_reason(error), fix=fix) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(file) from error
    if not isinstance(content, dict) or "order" not in content:
        raise _damaged(file)
    parts = content.get("parts")
    if not isinstance(parts, int) or isinstance(parts, bool) or parts < 1:
        raise _damaged(file)
    return content
