"""Writes embeddings to Parquet, a row group at a time, so that memory does not grow with the number of rows."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr._files import check_not_input, replace_file
from lrclr._prefetch import batches_ahead
from lrclr._signals import stop_signals_raise
from lrclr._version import __version__
from lrclr.archive import Item
from lrclr.archive._decode import Decoder
from lrclr.archive._outcome import Failure, Task
from lrclr.embedding._options import EmbedOptions, EmbedSummary
from lrclr.errors import FindingsError, LrclrError, NonFiniteError, UsageError, require_packages
from lrclr.file_names import name_of
from lrclr.inference._decoding import require_list
from lrclr.preprocessing import from_canvas

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from lrclr.archive._outcome import Decoded
    from lrclr.inference import ZeroShotClassifier

_Row = dict[str, Any]
EMBEDDED, FAILED = "embedded", "failed"
# Bytes of embeddings in a row group. They are kept in memory until the group is written.
_GROUP_BYTES = 8 << 20
_GROUP_ROWS = 4096


def write_image_embeddings(
    classifier: ZeroShotClassifier,
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    options: EmbedOptions | None = None,
    *,
    on_row: Callable[[], None] = lambda: None,
) -> EmbedSummary:
    """Write one row for each image file: its embedding, or the reason why it has none.

    Args:
        classifier: the model.
        paths: image files, as `lrclr.images.find_images` lists them.
        output: the Parquet file. It is replaced when all rows are written, and unchanged after an error.
        options: how to embed.
        on_row: called after each row.

    Raises:
        UsageError: `paths` is empty; `output` is one of them, or not a file.
        LrclrError: the engine failed, or the disk is full.
        MissingExtraError: pyarrow is not installed.
    """
    options, target = options or EmbedOptions(), Path(output)
    require_list(paths)
    files = [Path(path) for path in paths]
    if not files:
        raise UsageError("there is no image to embed")
    check_not_input(target, files)
    return _write(target, classifier, _image_rows(classifier, files, options), _image_columns(options), options, on_row)


def write_text_embeddings(
    classifier: ZeroShotClassifier,
    texts: Iterable[str],
    output: str | os.PathLike[str],
    options: EmbedOptions | None = None,
    *,
    on_row: Callable[[], None] = lambda: None,
) -> EmbedSummary:
    """Write one row for each text: its embedding, or the reason why it has none: it is empty or too long.

    Args:
        classifier: the model.
        texts: each is used as it is, without a template.
        output, options, on_row: as for `write_image_embeddings`.

    Raises the errors of `write_image_embeddings`.
    """
    options = options or EmbedOptions()
    if options.regions or options.exact or options.frame is not None:
        raise UsageError("regions, exact and frame are options for images, not for texts")
    if isinstance(texts, str):
        raise UsageError("one text was given instead of a list of texts", fix="Write [text].")
    columns = {"text": "text", "status": "text", "error": "text", "reason": "text", "text_embedding": "embedding"}
    return _write(Path(output), classifier, _text_rows(classifier, texts, options), columns, options, on_row)


def _image_columns(options: EmbedOptions) -> dict[str, str]:
    columns = {
        "file": "text",
        "bytes": "integer",
        "sha256": "text",
        "status": "text",
        "error": "text",
        "reason": "text",
        "height": "integer",
        "width": "integer",
        "remarks": "texts",
        "image_embedding": "embedding",
    }
    return columns | ({"region_index": "integers", "region_embedding": "embeddings"} if options.regions else {})


def _image_rows(classifier: ZeroShotClassifier, paths: Sequence[Path], options: EmbedOptions) -> Iterator[_Row]:
    # As `lrclr score` reads them: with the same limits, errors and reasons.
    decoder = Decoder(Path(), None, classifier.spec.preprocess, options.frame, options.exact)
    tasks = [Task(Item(name_of(path), None)) for path in paths]
    for batch in batches_ahead(tasks, decoder, batch_size=options.batch_size, workers=options.workers):
        decoded = []
        for _, one in batch:
            if isinstance(one, LrclrError):
                raise one
            decoded.append(one)
        embedded = iter(_embedded(classifier, [one for one in decoded if one.canvas is not None], options))
        for one in decoded:
            yield _failed_image(one, one.failure) if one.failure is not None else next(embedded)


def _embedded(classifier: ZeroShotClassifier, images: Sequence[Decoded], options: EmbedOptions) -> list[_Row]:
    if not images:
        return []
    canvases = [one.canvas for one in images if one.canvas is not None]
    pixel_values = np.stack([from_canvas(canvas, classifier.spec.preprocess) for canvas in canvases])
    try:
        made = classifier.embed_pixels(pixel_values)
    except NonFiniteError as error:
        if len(images) > 1:
            # One image causes it; the others get their embeddings.
            return [row for one in images for row in _embedded(classifier, [one], options)]
        return [_failed_image(images[0], Failure(type(error).__name__, str(error)))]
    rows = []
    for place, one in enumerate(images):
        height, width = one.shape or (None, None)
        row = {**_identity(one), "status": EMBEDDED, "height": height, "width": width, "remarks": list(one.remarks)}
        row["image_embedding"] = made.image[place].astype(options.dtype)
        if options.regions:
            row["region_index"] = made.region_index[place].tolist()
            row["region_embedding"] = list(made.region[place].astype(options.dtype))
        rows.append(row)
    return rows


def _failed_image(image: Decoded, failure: Failure) -> _Row:
    return {**_identity(image), "status": FAILED, "error": failure.error, "reason": failure.reason}


def _identity(image: Decoded) -> _Row:
    return {"file": image.item.name, "bytes": image.size, "sha256": image.sha256}


def _text_rows(classifier: ZeroShotClassifier, texts: Iterable[str], options: EmbedOptions) -> Iterator[_Row]:
    remaining = iter(texts)
    while batch := list(islice(remaining, options.batch_size)):
        if not all(isinstance(text, str) for text in batch):
            raise UsageError("a text to embed is not a str")
        yield from _embedded_texts(classifier, batch, options)


def _embedded_texts(classifier: ZeroShotClassifier, texts: Sequence[str], options: EmbedOptions) -> list[_Row]:
    try:
        _refuse_empty(texts)
        made = classifier.embed_texts(texts).astype(options.dtype)
    except (FindingsError, NonFiniteError) as error:
        if len(texts) > 1:
            return [row for text in texts for row in _embedded_texts(classifier, [text], options)]
        return [{"text": texts[0], "status": FAILED, "error": type(error).__name__, "reason": str(error)}]
    return [{"text": text, "status": EMBEDDED, "text_embedding": row} for text, row in zip(texts, made, strict=True)]


def _refuse_empty(texts: Sequence[str]) -> None:
    if not all(text.strip() for text in texts):
        raise FindingsError("the text is empty")


def _write(
    output: Path,
    classifier: ZeroShotClassifier,
    rows: Iterator[_Row],
    columns: dict[str, str],
    options: EmbedOptions,
    on_row: Callable[[], None],
) -> EmbedSummary:
    require_packages("score", ("pyarrow",), "writing embeddings")
    import pyarrow as pa
    import pyarrow.parquet as pq

    if output.is_dir():
        raise UsageError(f"{output} is a folder", fix="Give the name of a file, such as embeddings.parquet.")
    number = pa.float16() if options.dtype == "float16" else pa.float32()
    types = {
        "text": pa.string(),
        "texts": pa.list_(pa.string()),
        "integer": pa.int64(),
        "integers": pa.list_(pa.int32()),
        "embedding": pa.list_(number),
        "embeddings": pa.list_(pa.list_(number)),
    }
    schema = pa.schema([pa.field(name, types[kind]) for name, kind in columns.items()], _metadata(classifier, options))
    with (
        stop_signals_raise(),
        replace_file(output) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        return _written(writer, rows, on_row)


def _written(writer: Any, rows: Iterator[_Row], on_row: Callable[[], None]) -> EmbedSummary:
    """Write rows in groups."""
    import pyarrow as pa

    summary = EmbedSummary()
    group: list[_Row] = []
    size = 0

    def write_group() -> None:
        arrays = [pa.array([row.get(each.name) for row in group], each.type) for each in writer.schema]
        writer.write_table(pa.table(arrays, schema=writer.schema))
        group.clear()

    for row in rows:
        group.append(row)
        summary.rows += 1
        if row["status"] == FAILED:
            summary.failures[row["reason"]] += 1
        else:
            embedding = row["image_embedding" if "image_embedding" in row else "text_embedding"]
            summary.dimension = len(embedding)
            size += embedding.nbytes + sum(each.nbytes for each in row.get("region_embedding", ()))
        on_row()
        if size >= _GROUP_BYTES or len(group) == _GROUP_ROWS:
            write_group()
            size = 0
    if group:
        write_group()
    return summary


def _metadata(classifier: ZeroShotClassifier, options: EmbedOptions) -> dict[str, str]:
    """What the embeddings depend on. Embeddings of different models cannot be compared."""
    spec = classifier.spec
    return {
        "lrclr.version": __version__,
        "lrclr.model": spec.source,
        "lrclr.bundle": spec.sha256 if spec.kind == "bundle" else "",
        "lrclr.checkpoint": spec.checkpoint_sha256,
        "lrclr.precision": spec.precision,
        "lrclr.engine": classifier.engine.name,
        "lrclr.dtype": options.dtype,
        "lrclr.exact": str(options.exact).lower(),
        "lrclr.frame": "" if options.frame is None else str(options.frame),
    }
