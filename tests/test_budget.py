"""`MemoryBudget` never exceeds its total and leaves no thread waiting. Reading images obeys it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Lock
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lrclr import budget, read_image

# Private: a helper that several packages share, without a public name.
from lrclr._prefetch import batches_ahead
from lrclr.budget import MemoryBudget
from lrclr.errors import ImageLimitError
from lrclr.images import read_reduced
from lrclr.preprocessing import PreprocessSpec, preprocess
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SPEC = PreprocessSpec.chexzero(112)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 10), min_size=1, max_size=3), min_size=1, max_size=20), st.integers(10, 15))
def test_threads_never_hold_more_than_the_total(jobs: list[list[int]], total: int) -> None:
    memory, lock = MemoryBudget("test", total), Lock()
    in_use, most = 0, 0

    def job(sizes: list[int]) -> None:
        nonlocal in_use, most
        # A job has its largest reservation, and gives up a smaller one before it waits for more.
        with memory.job():
            for size in sizes:
                memory.reserve(size)
            with lock:
                in_use += max(sizes)
                most = max(most, in_use)
            with lock:
                in_use -= max(sizes)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(job, jobs))
    assert most <= total
    assert memory.used == 0


def test_a_large_reservation_is_not_overtaken_by_later_ones() -> None:
    memory, order = MemoryBudget("test", 10), list[str]()
    first_has_memory, first_may_end, large_waits = Event(), Event(), Event()

    def first() -> None:
        with memory.job():
            memory.reserve(5)
            first_has_memory.set()
            first_may_end.wait()

    def reserve_and_record(name: str, size: int) -> None:
        with memory.job():
            large_waits.set()
            memory.reserve(size)
            order.append(name)

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        first_has_memory.wait()
        large = pool.submit(reserve_and_record, "large", 10)
        large_waits.wait()
        while not memory.waiting:
            pass
        # This one would fit, but came later.
        small = pool.submit(reserve_and_record, "small", 5)
        while memory.waiting < 2:
            pass
        first_may_end.set()
        large.result()
        small.result()
    assert order == ["large", "small"]


def test_a_reservation_above_the_total_is_refused_and_frees_the_rest() -> None:
    memory = MemoryBudget("decoding", 10 * 2**20)
    with memory.job():
        memory.reserve(2**20)
        with pytest.raises(ImageLimitError, match="11 MiB of memory to read: that is more than the 10 MiB"):
            memory.reserve(11 * 2**20)
    assert memory.used == 0


def test_a_job_inside_another_keeps_its_reservation_until_the_outer_ends() -> None:
    memory = MemoryBudget("test", 10)
    with memory.job():
        with memory.job():
            memory.reserve(4)
        assert memory.used == 4
        memory.reserve(3)
        assert memory.used == 4
    assert memory.used == 0


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> MemoryBudget:
    """A budget that is large enough for one of these tests' pictures, but not for two."""
    memory = MemoryBudget("decoding", 64 * 2**20)
    for module in ("lrclr.budget", "lrclr.preprocessing._transform"):
        monkeypatch.setattr(f"{module}.decoding", memory)
    return memory


def test_pictures_that_do_not_fit_together_are_decoded_in_turn(small_budget: MemoryBudget, tmp_path: Path) -> None:
    paths = [bundles.radiograph(tmp_path / f"{k}.png", k, (2400, 2000)) for k in range(4)]
    expected = [preprocess(read_image(path), SPEC) for path in paths]
    most, inside, lock = 0, 0, Lock()

    @budget.reading()
    def decode(path: Path) -> NDArray[np.float32]:
        nonlocal most, inside
        image = read_image(path)
        with lock:
            inside += 1
            most = max(most, inside)
        values = preprocess(image, SPEC)
        with lock:
            inside -= 1
        return values

    done = [pixels for batch in batches_ahead(paths, decode, batch_size=3, workers=4) for _, pixels in batch]
    assert most == 1
    for pixels, other in zip(done, expected, strict=True):
        assert not isinstance(pixels, Exception)
        np.testing.assert_array_equal(pixels, other)
    assert small_budget.used == 0


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(
    small_budget: MemoryBudget, tmp_path: Path
) -> None:
    path = tmp_path / "large.png"
    Image.new("RGBA", (4000, 4000)).save(path)
    # The pixels are cut off, so an attempt to decode them would give another error.
    path.write_bytes(path.read_bytes()[:2000])
    for read in (read_image, lambda file: read_reduced(file, SPEC)):
        with pytest.raises(ImageLimitError, match="64 MiB that a process may use"):
            read(path)
    assert small_budget.used == 0


def test_threads_that_wait_for_memory_all_finish(small_budget: MemoryBudget, tmp_path: Path) -> None:
    path = tmp_path / "coloured.png"
    Image.new("RGB", (1500, 1400)).save(path)
    barrier = Barrier(8)

    def read(_: int) -> tuple[int, ...]:
        barrier.wait()
        return read_reduced(path, SPEC).pixels.shape

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read, range(8)))) == 1
    assert small_budget.used == 0
