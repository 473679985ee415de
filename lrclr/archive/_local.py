"""Decoding and encoding in threads of this process."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from lrclr._processors import processors
from lrclr.archive._outcome import ScoredImage

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from lrclr.archive._decode import Decoder
    from lrclr.archive._encode import Encoder
    from lrclr.archive._outcome import Chunk, Decoded, Outcome

_AHEAD: Final = 16  # chunks a thread; enough to keep it busy while a part is written


def run_local(
    chunks: Iterable[Chunk],
    decoder: Decoder,
    encoder: Encoder,
    *,
    workers: int | None = None,
    on_scored: Callable[[ScoredImage], None] | None = None,
) -> Generator[tuple[Chunk, list[Outcome]]]:
    """Outcomes of every chunk, as they come.

    Each thread decodes and encodes a chunk: the engine runs in the thread that calls it, and decoders let other
    threads run.

    Args:
        chunks: the work; read a little ahead of what is done.
        decoder: from tasks to images.
        encoder: from images to outcomes.
        workers: threads; None for one a processor.
        on_scored: called by the threads with each image that has scores.
    """
    decoder = replace(decoder, keep=on_scored is not None)

    def work(chunk: Chunk) -> tuple[Chunk, list[Outcome]]:
        decoded = [decoder(task) for task in chunk.tasks]
        outcomes = encoder(decoded)
        if on_scored is not None:
            for image in _scored(decoded, outcomes):
                on_scored(image)
        return chunk, outcomes

    number, waiting = workers or processors(), 0
    done: SimpleQueue[Future[tuple[Chunk, list[Outcome]]]] = SimpleQueue()
    pool = ThreadPoolExecutor(number, thread_name_prefix="lrclr-score")
    try:
        for chunk in chunks:
            pool.submit(work, chunk).add_done_callback(done.put)
            waiting += 1
            if waiting > _AHEAD * number:
                yield done.get().result()
                waiting -= 1
        for _ in range(waiting):
            yield done.get().result()
    finally:
        # A caller that stops early does not wait for running chunks.
        pool.shutdown(wait=False, cancel_futures=True)


def _scored(decoded: Iterable[Decoded], outcomes: Iterable[Outcome]) -> Iterable[ScoredImage]:
    for one, outcome in zip(decoded, outcomes, strict=True):
        if outcome.scores is not None and one.content is not None and one.shape is not None:
            yield ScoredImage(one.item, one.content, one.shape, one.warnings, outcome.scores)
