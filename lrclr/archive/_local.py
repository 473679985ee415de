"""Decoding and encoding in threads of this process."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from lrclr._processors import processors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from lrclr.archive._decode import Decoder
    from lrclr.archive._encode import Encoder
    from lrclr.archive._outcome import Chunk, Outcome

__all__ = ["run_local"]


def run_local(
    chunks: Iterable[Chunk], decoder: Decoder, encoder: Encoder, *, workers: int | None = None
) -> Generator[tuple[Chunk, list[Outcome]]]:
    """Outcomes of every chunk, in order.

    Each thread decodes and encodes a chunk: the engine runs in the thread that calls it, and decoders let
    other threads run, so that nothing waits for anything.

    Args:
        chunks: what to work on; taken from a little ahead of what is done.
        decoder: from tasks to pictures.
        encoder: the second.
        workers: threads; None for one a processor.
    """

    def work(chunk: Chunk) -> list[Outcome]:
        return encoder([decoder(task) for task in chunk.tasks])

    number = workers or processors()
    waiting: deque[tuple[Chunk, Future[list[Outcome]]]] = deque()
    pool = ThreadPoolExecutor(number, thread_name_prefix="lrclr-score")
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(work, chunk)))
            if len(waiting) > 2 * number:
                first, outcomes = waiting.popleft()
                yield first, outcomes.result()
        while waiting:
            first, outcomes = waiting.popleft()
            yield first, outcomes.result()
    finally:
        # Whoever stops early does not wait for what nobody will see.
        pool.shutdown(wait=False, cancel_futures=True)
