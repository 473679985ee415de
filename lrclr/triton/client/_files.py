"""Many image files through a server: requests overlap, and a bad file stops nobody else."""

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

__all__ = ["predict_files"]


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
    """Answer for files, in order, as the answers come; as `lrclr.inference.predict_files`, by a server.

    Args:
        client: connected to the server.
        paths: image files, read here and decoded there.
        findings: what to ask for; the model's own if not given.
        alpha: weight of the local score, instead of the model's.
        frame: which frame to read of files that hold several.
        heatmap: whether to have heat maps drawn.
        exact: whether to have the files read in full; see `lrclr.images.read_for_model`.
        concurrency: requests at once, one image each. At most twice as many answers wait.

    Yields:
        One result a file. A file that cannot be read, or whose format the server cannot decode, has its error in the
        result; the other files are answered for.

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
