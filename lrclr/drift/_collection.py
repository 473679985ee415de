"""Reads what `lrclr score` wrote: scores, warnings and embeddings of many images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lrclr.errors import LrclrError, MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

EMBEDDING: Final = "image_embedding"
_COLUMNS: Final = ("sha256", "bundle", "exact", "status", "warnings", "findings", "probability")
_MOST_EMBEDDINGS: Final = 1000
_SETTINGS: Final = b"lrclr.settings"
SCORING: Final = {
    "findings": "set of prompts (--findings)",
    "alpha": "alpha",
    "frame": "frame",
    "refuse": "set of refused warnings (--refuse)",
}
"""Settings of `lrclr score` that change the scores of an image, or which images have scores."""


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
        settings: values of `SCORING` of the run; None if they are not known.
    """

    bundle: str
    exact: bool
    findings: tuple[str, ...]
    probability: NDArray[np.float32]
    warnings: Counter[str]
    failed: int
    digests: frozenset[str]
    embeddings: NDArray[np.float32] | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def scored(self) -> int:
        """Number of images with scores."""
        return len(self.probability)


def read_collection(path: Path) -> Collection:
    """Read a Parquet file of `lrclr score`, or all parts in its folder.

    Raises:
        UsageError: the path does not exist or is not of `lrclr score`, no image has scores, a value is not valid, or
            the rows are of several bundles, findings or other settings.
        MissingExtraError: pyarrow is not installed.
    """
    files, table, schema = _read(path)
    import pyarrow.compute as pc

    scored = table.filter(pc.field("status") == "scored")
    if len(scored) == 0:
        raise UsageError(f"no image in {path} has scores")
    bundle = _only(path, scored["bundle"].unique().to_pylist(), "bundles")
    exact = _only(path, scored["exact"].unique().to_pylist(), "ways of reading (--exact)")
    names = _matrix(path, scored["findings"].combine_chunks())
    findings = _only(path, np.unique(names, axis=0).tolist(), "findings")
    probability = _matrix(path, scored["probability"].combine_chunks(), len(names[0]))
    with np.errstate(invalid="ignore"):
        _require(
            path, "a probability is not a number from 0 to 1", bool(((probability >= 0) & (probability <= 1)).all())
        )
    _require(
        path, "a row has no hash or no warnings", not (scored["sha256"].null_count or scored["warnings"].null_count)
    )
    codes = Counter(code for row in scored["warnings"].to_pylist() for code in set(row))
    readable = all(isinstance(text, str) and text.isprintable() for text in (*findings, *codes))
    _require(path, "a name is not a printable text", readable)
    digests = frozenset(scored["sha256"].to_pylist())
    embeddings = _embeddings(path, files, len(scored)) if EMBEDDING in schema.names else None
    return Collection(
        bundle, exact, tuple(findings), probability, codes, len(table) - len(scored), digests, embeddings,
        _scoring(path, schema.metadata or {}),
    )  # fmt: skip


def _scoring(path: Path, metadata: Mapping[bytes, bytes]) -> dict[str, Any] | None:
    """Settings of the run that wrote the files, which have their hash; None without them."""
    from lrclr.archive._settings import read_settings

    folder = path if path.is_dir() else path.parent
    try:
        run = read_settings(folder)
    except LrclrError as error:
        unreadable = isinstance(error.__cause__, OSError)
        fix = error.fix if unreadable else "Run lrclr score again, into another folder."
        raise UsageError(error.what, why=error.why, fix=fix) from error
    if run is None or metadata.get(_SETTINGS) != run.digest.encode():
        return None
    # Without a frame, an image has one: the first.
    return {name: getattr(run, name) for name in SCORING} | {"frame": run.frame or 0}


def _read(path: Path) -> tuple[list[Path], Any, Any]:
    """The Parquet files, their columns without the embeddings, which can be large, and the schema of the first file."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", "drift", "reading scores") from None
    # Imported here: it needs pyarrow.
    from lrclr.archive._rows import SCHEMA
    from lrclr.archive._settings import UNFINISHED_FILE

    if not path.exists():
        raise UsageError(f"{path} does not exist")
    if (path / UNFINISHED_FILE).exists():
        raise UsageError(
            f"the scores in {path} are not complete",
            why="a run of lrclr score goes on or was interrupted, and what is missing is not a random sample",
            fix="Run lrclr score again, with the same arguments.",
        )
    files = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{path} holds no scores", why="it has no file part-*.parquet", fix="Run lrclr score first.")
    try:
        schemas = [pq.read_schema(file) for file in files]
        for file, schema in zip(files, schemas, strict=True):
            for name in _COLUMNS:
                if name not in schema.names:
                    raise UsageError(
                        f"{file} has no column {name}",
                        why="this version of lrclr score did not write it",
                        fix="Score the images again.",
                    )
        settings = {((schema.metadata or {}).get(_SETTINGS), EMBEDDING in schema.names) for schema in schemas}
        if len(settings) > 1:
            raise UsageError(
                f"{path} holds scores of {len(settings)} settings",
                why="a run with --rescore was interrupted, or files of several runs are mixed",
                fix="Run lrclr score again, without --rescore.",
            )
        # Another program may have written the rows again, with other types of numbers and texts.
        types = pa.schema([(name, SCHEMA.field(name).type) for name in _COLUMNS])
        tables = [pq.read_table(file, columns=list(_COLUMNS), partitioning=None) for file in files]
        table = pa.concat_tables([each.replace_schema_metadata(None).cast(types) for each in tables])
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{path} cannot be read", why="it is not of lrclr score, or is damaged") from error
    return files, table, schemas[0]


def _embeddings(path: Path, files: list[Path], scored: int) -> NDArray[np.float32]:
    """Embeddings of some of the images with scores. One file is in memory at a time."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    places = np.sort(random.choice(scored, min(scored, _MOST_EMBEDDINGS), replace=False))
    parts, first = [], 0
    for file in files:
        try:
            rows = pq.read_table(file, columns=["status", EMBEDDING], partitioning=None)
            column = rows.filter(pc.field("status") == "scored")[EMBEDDING].cast(pa.list_(pa.float32()))
        except (pa.ArrowException, OSError) as error:
            raise UsageError(f"the embeddings in {file} cannot be read", why="they are damaged") from error
        inside = places[(first <= places) & (places < first + len(column))] - first
        parts.append(column.take(pa.array(inside)))
        first += len(column)
    embeddings = _matrix(path, pa.chunked_array([chunk for part in parts for chunk in part.chunks]).combine_chunks())
    _require(path, "an embedding is not of numbers", bool(np.isfinite(embeddings).all()))
    return embeddings


def _only(path: Path, values: list[Any], what: str) -> Any:
    if len(values) != 1:
        raise UsageError(f"{path} holds scores of {len(values)} {what}", fix="Give the scores of one run.")
    return values[0]


def _require(path: Path, fault: str, valid: bool) -> None:
    if not valid:
        raise UsageError(f"{path} holds rows that lrclr score does not write", why=fault, fix="Score the images again.")


def _matrix(path: Path, column: Any, width: int | None = None) -> NDArray[Any]:
    """A column of lists of one length as a matrix.

    Args:
        path: path of the file, for errors.
        column: an array of lists.
        width: the length; None for that of the first list.
    """
    import pyarrow.compute as pc

    flat, lengths = column.flatten(), pc.list_value_length(column).to_numpy(zero_copy_only=False)
    width = lengths[0] if width is None else width
    whole = column.null_count == flat.null_count == 0 and bool((lengths == width).all()) and width > 0
    _require(path, "its lists have other lengths, or values are missing", whole)
    matrix: NDArray[Any] = flat.to_numpy(zero_copy_only=False).reshape(-1, int(width))
    return matrix.astype(str) if matrix.dtype == object else matrix
