"""`MemoryBudget`: never more than the total at once, and no thread is left waiting; reading images holds to it."""

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

# Private: a helper that several packages share; it has no public name.
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
    held, most = 0, 0

    def job(sizes: list[int]) -> None:
        nonlocal held, most
        # A job has its largest reservation, and raises it without keeping what it had meanwhile.
        with memory.job():
            for size in sizes:
                memory.reserve(size)
            with lock:
                held += max(sizes)
                most = max(most, held)
            with lock:
                held -= max(sizes)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(job, jobs))
    assert most <= total
    assert memory.used == 0


def test_a_large_reservation_is_not_overtaken_for_ever() -> None:
    memory, order = MemoryBudget("test", 10), list[str]()
    first_has, first_may_end, large_waits = Event(), Event(), Event()

    def first() -> None:
        with memory.job():
            memory.reserve(5)
            first_has.set()
            first_may_end.wait()

    def asks(name: str, size: int) -> None:
        with memory.job():
            large_waits.set()
            memory.reserve(size)
            order.append(name)

    with ThreadPoolExecutor(3) as pool:
        pool.submit(first)
        first_has.wait()
        large = pool.submit(asks, "large", 10)
        large_waits.wait()
        while not memory.waiting:
            pass
        # It would fit, but came later.
        small = pool.submit(asks, "small", 5)
        while memory.waiting < 2:
            pass
        first_may_end.set()
        large.result()
        small.result()
    assert order == ["large", "small"]


def test_what_could_never_fit_is_refused_and_nothing_stays_reserved() -> None:
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
def little(monkeypatch: pytest.MonkeyPatch) -> MemoryBudget:
    """A budget that holds one of these tests' pictures and not two."""
    memory = MemoryBudget("decoding", 64 * 2**20)
    for module in ("lrclr.budget", "lrclr.preprocessing._transform"):
        monkeypatch.setattr(f"{module}.decoding", memory)
    return memory


def test_pictures_that_do_not_fit_together_are_decoded_one_after_the_other(
    little: MemoryBudget, tmp_path: Path
) -> None:
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

    done = [one for batch in batches_ahead(paths, decode, batch_size=3, workers=4) for _, one in batch]
    assert most == 1
    for one, other in zip(done, expected, strict=True):
        assert not isinstance(one, Exception)
        np.testing.assert_array_equal(one, other)
    assert little.used == 0


def test_too_large_a_picture_is_refused_before_it_is_decoded(little: MemoryBudget, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGBA", (4000, 4000)).save(path)
    # What would be decoded is cut off: the size is what it fails by.
    path.write_bytes(path.read_bytes()[:2000])
    for read in (read_image, lambda file: read_reduced(file, SPEC)):
        with pytest.raises(ImageLimitError, match="64 MiB that a process may use"):
            read(path)
    assert little.used == 0


def test_several_threads_wait_for_each_other_and_all_come_through(little: MemoryBudget, tmp_path: Path) -> None:
    path = tmp_path / "coloured.png"
    Image.new("RGB", (1500, 1400)).save(path)
    barrier = Barrier(8)

    def read(_: int) -> tuple[int, ...]:
        barrier.wait()
        return read_reduced(path, SPEC).pixels.shape

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(read, range(8)))) == 1
    assert little.used == 0
