"""The default number of threads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

# Private: a helper that several packages share, without a public name.
from lrclr import _processors
from lrclr._processors import cpu_quota, processors

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "quota", "expected"),
    [
        ("max 100000\n", None, 64),
        ("200000 100000\n", 2.0, 2),
        ("150000 100000\n", 1.5, 2),
        ("10000 100000\n", 0.1, 1),
        ("6400000 50000\n", 128.0, 64),
        ("nonsense", None, 64),
        (None, None, 64),
    ],
)
def test_a_quota_limits_the_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, quota: float | None, expected: int
) -> None:
    """A file replaces the kernel's, since a test cannot change the quota of its own container."""
    file = tmp_path / "cpu.max"
    if text is not None:
        file.write_text(text)
    assert cpu_quota(file) == quota
    monkeypatch.setattr(_processors, "cpu_quota", lambda: cpu_quota(file))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(64)), raising=False)
    assert processors() == expected


def test_the_cpu_affinity_is_used() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no CPU affinity")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert processors() == 1
    finally:
        os.sched_setaffinity(0, before)
