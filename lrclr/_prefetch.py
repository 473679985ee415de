"""Runs work in threads ahead of the consumer of its results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from lrclr._processors import processors
from lrclr.errors import LrclrError, UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


def batches_ahead(
    items: Sequence[Item], work: Callable[[Item], Result], *, batch_size: int, workers: int | None
) -> Iterator[list[tuple[Item, Result | LrclrError]]]:
    """Apply `work` to every item and yield batches of (item, result) in order; the result may be an error.

    Args:
        items: items to process.
        work: function to apply; it runs in several threads.
        batch_size: greatest number of items in a batch. At most two batches are in progress.
        workers: number of threads; None for one for each processor.
    """
    if batch_size < 1:
        raise UsageError("a batch needs at least one image")
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers or processors(), thread_name_prefix="lrclr-decode")
    try:
        while True:
            for item in islice(remaining, 2 * batch_size - len(waiting)):
                waiting.append((item, pool.submit(work, item)))
            if not waiting:
                return
            batch = [waiting.popleft() for _ in range(min(batch_size, len(waiting)))]
            finished: list[tuple[Item, Result | LrclrError]] = []
            for item, future in batch:
                try:
                    finished.append((item, future.result()))
                except LrclrError as error:
                    finished.append((item, error))
            yield finished
    finally:
        # After an error or an interrupt, results that nothing will use are not waited for.
        pool.shutdown(wait=False, cancel_futures=True)
