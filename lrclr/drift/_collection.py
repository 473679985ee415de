"""Reads what `lrclr score` wrote: scores, warnings and embeddings of many images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Collection", "read_collection"]

EMBEDDING: Final = "image_embedding"
_COLUMNS: Final = ("sha256", "bundle", "exact", "status", "warnings", "findings", "probability")
_MOST_EMBEDDINGS: Final = 1000


@dataclass(frozen=True)
class Collection:
    """Rows of `lrclr score`.

    Attributes:
        bundle: hash of the manifest of the bundle that scored the images.
        exact: whether files were read in full.
        findings: F names.
        probability: float32 ``[N, F]`` of the N images with scores.
        warnings: number of these images with each warning, by its code.
        failed: images without scores.
        digests: hashes of the images with scores.
        embeddings: float32 ``[M, D]`` of at most 1,000 images, drawn with a fixed seed; None if the rows have none.
    """

    bundle: str
    exact: bool
    findings: tuple[str, ...]
    probability: NDArray[np.float32]
    warnings: Counter[str]
    failed: int
    digests: frozenset[str]
    embeddings: NDArray[np.float32] | None = None

    @property
    def scored(self) -> int:
        """Number of images with scores."""
        return len(self.probability)


def read_collection(path: Path) -> Collection:
    """Read a Parquet file of `lrclr score`, or all parts in its folder.

    Raises:
        UsageError: the path does not exist or is not of `lrclr score`, no image has scores, or the rows are of several
            bundles or findings.
        MissingExtraError: pyarrow is not installed.
    """
    import pyarrow.compute as pc

    table = _table(path)
    scored = table.filter(pc.field("status") == "scored")
    if len(scored) == 0:
        raise UsageError(f"no image in {path} has scores")
    bundle = _only(path, scored["bundle"].unique().to_pylist(), "bundles")
    exact = _only(path, scored["exact"].unique().to_pylist(), "ways of reading (--exact)")
    findings = _only(path, list(dict.fromkeys(map(tuple, scored["findings"].to_pylist()))), "findings")
    probability = _matrix(scored["probability"], len(findings))
    codes = Counter(code for row in scored["warnings"].to_pylist() for code in row)
    digests = frozenset(scored["sha256"].to_pylist())
    embeddings = None
    if EMBEDDING in table.column_names:
        random = np.random.default_rng(0)
        places = random.choice(len(scored), min(len(scored), _MOST_EMBEDDINGS), replace=False)
        embeddings = np.array(scored[EMBEDDING].take(places).to_pylist(), np.float32)
    return Collection(bundle, exact, findings, probability, codes, len(table) - len(scored), digests, embeddings)


def _table(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "drift", "reading scores") from None
    if not path.exists():
        raise UsageError(f"{path} does not exist")
    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path} holds no scores", why="it has no file part-*.parquet", fix="Run lrclr score first.")
    try:
        names = set(pq.read_schema(files[0]).names)
        missing = [name for name in _COLUMNS if name not in names]
        if missing:
            raise UsageError(
                f"{files[0]} has no column {missing[0]}",
                why="this version of lrclr score did not write it",
                fix="Score the images again.",
            )
        columns = [*_COLUMNS, *([EMBEDDING] if EMBEDDING in names else [])]
        return pa.concat_tables([pq.read_table(file, columns=columns, partitioning=None) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read", why="it is not of lrclr score, or is damaged") from error


def _only(path: Path, values: list[Any], what: str) -> Any:
    if len(values) != 1:
        raise UsageError(f"{path} holds scores of {len(values)} {what}", fix="Give the scores of one run.")
    return values[0]


def _matrix(column: Any, width: int) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return flat.reshape(-1, width)
