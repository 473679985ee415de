"""Prediction for many image files by a server, with several requests in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrclr._prefetch import batches_ahead
from lrclr.errors import LrclrError
from lrclr.inference import FileResult
from lrclr.triton.client._wire import OF_ONE_IMAGE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from lrclr.text import FindingSet
    from lrclr.triton.client._client import Client
    from lrclr.triton.client._wire import Reply


def predict_files(  # noqa: PLR0913
    client: Client,
    paths: Sequence[Path],
    *,
    findings: FindingSet | None = None,
    alpha: float | None = None,
    frame: int | None = None,
    heatmap: bool = False,
    exact: bool = False,
    concurrency: int = 8,
) -> Iterator[FileResult]:
    """Predict findings of files, in order, as `lrclr.inference.predict_files` does without a server.

    Args:
        client: connected to the server.
        paths: image files, read here and decoded by the server.
        findings: findings to predict; by default those of the model.
        alpha: weight of the local score; by default that of the model.
        frame: number of the frame in files with several.
        heatmap: whether the server draws heat maps.
        exact: whether the server reads the files in full; see `lrclr.images.read_for_model`.
        concurrency: number of requests in flight, one image each. At most twice as many answers are kept in memory.

    Yields:
        One result per file. If a file cannot be read, or the server cannot decode its format, the result holds the
        error, and the other files are still predicted.

    Raises:
        ServerError, UsageError: an error that does not depend on the file.
    """

    def ask(path: Path) -> Reply:
        return client.ask([path], findings=findings, alpha=alpha, frame=frame, heatmap=heatmap, exact=exact)

    for batch in batches_ahead(paths, ask, batch_size=concurrency, workers=concurrency):
        for path, outcome in batch:
            if isinstance(outcome, OF_ONE_IMAGE):
                yield FileResult(path, error=outcome, exact=exact)
            elif isinstance(outcome, LrclrError):
                raise outcome
            else:
                drawn = next(iter(outcome.heatmaps), None)
                yield FileResult(path, outcome.predictions[0], heatmap=drawn, exact=bool(outcome.exact))
