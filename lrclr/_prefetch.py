"""Work in threads, a little ahead of whoever takes its results."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from lrclr._processors import processors
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


def batches_ahead(
    items: Sequence[Item], work: Callable[[Item], Result], *, batch_size: int, workers: int | None
) -> Iterator[list[tuple[Item, Result | LrclrError]]]:
    """Do `work` on every item, and hand out batches in order; an item that fails has its error in its place.

    Args:
        items: what to work on.
        work: what to do; runs in several threads.
        batch_size: most items of a batch. At most two batches wait.
        workers: threads; None for one a processor.
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
        # Whoever stops early, by an error or an interrupt, does not wait for what nobody will see.
        pool.shutdown(wait=False, cancel_futures=True)
