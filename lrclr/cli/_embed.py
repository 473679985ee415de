"""`lrclr embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from lrclr.cli._console import (
    RESEARCH_ONLY,
    EngineName,
    Exact,
    Frame,
    Threads,
    counter,
    note,
    note_engine,
    note_failures,
    out,
)
from lrclr.errors import LrclrError, UsageError


def embed(  # noqa: PLR0913, PLR0917 - one parameter an option
    output: Annotated[Path, typer.Option("-o", "--output", help="Parquet file to write. An existing one is replaced.")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Image files, or folders of images: PNG, JPEG, TIFF, DICOM.")
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", help="Text file (UTF-8) instead of images. Row N of the result is the text of line N."),
    ] = None,
    bundle: Annotated[
        Path, typer.Option("-b", "--bundle", help="Folder of the bundle; or a checkpoint, which needs torch.")
    ] = Path("triton_repo"),
    dtype: Annotated[str, typer.Option("--dtype", help="Type of the numbers: float32 or float16.")] = "float32",
    regions: Annotated[
        bool, typer.Option("--regions", help="Also write the embeddings of the selected image regions.")
    ] = False,
    frame: Frame = None,
    exact: Exact = False,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images or texts per batch.")] = 8,
    engine: EngineName = None,
    provider: Annotated[str, typer.Option("--provider", help="Where ONNX Runtime runs: cpu or cuda.")] = "cpu",
    threads: Threads = None,
) -> None:
    """Write the embeddings of images or of texts to a Parquet file.

    Embeddings have unit length: the product of two is their cosine. The file's metadata name the model.

    An image that cannot be read, or a text that is empty or too long, has a row with the reason, and the exit code is
    1. With exit code 1 for another reason, 2, 130 or 143, the file is not written.
    """
    if bool(images) == (texts is not None):
        raise UsageError("give either images or --texts FILE")
    from lrclr._files import check_not_input
    from lrclr.auto import open_model
    from lrclr.embedding import EmbedOptions, write_image_embeddings, write_text_embeddings
    from lrclr.images import describe_passed_over, find_images

    options = EmbedOptions(cast("Any", dtype), regions, frame, exact, batch_size)
    lines = _lines(texts) if texts is not None else []
    check_not_input(output, [texts] if texts is not None else [])
    found = find_images(images or [])
    classifier = open_model(bundle, engine=engine, provider=provider, threads=threads)
    note_engine(classifier)
    if texts is not None:
        with counter("texts", len(lines)) as advance:
            summary = write_text_embeddings(classifier, lines, output, options, on_row=advance)
    else:
        with counter("images", len(found.files)) as advance:
            summary = write_image_embeddings(classifier, found.files, output, options, on_row=advance)
    kind = "texts" if texts is not None else "images"
    length = "" if summary.dimension is None else f", each of {summary.dimension} numbers ({dtype})"
    out().print(f"{output}: {summary.rows - summary.failed} embeddings of {summary.rows} {kind}{length}")
    if passed_over := describe_passed_over(found.passed_over):
        note(passed_over)
    note_failures(summary.failures)
    note(RESEARCH_ONLY)
    if summary.failed:
        raise LrclrError(
            f"{summary.failed} of {summary.rows} {kind} have no embedding", why="their rows give the reasons"
        )


def _lines(file: Path) -> list[str]:
    """The lines of a file, also empty ones except at its end.

    Raises:
        UsageError: the file cannot be read, is not UTF-8, or holds no text.
    """
    try:
        with file.open(encoding="utf-8-sig") as stream:
            lines = [line.strip() for line in stream]
    except OSError as error:
        raise UsageError(f"{file} cannot be read", why=error.strerror) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not UTF-8 text") from error
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UsageError(f"{file} holds no text", fix="Write one text a line.")
    return lines
