"""A short benchmark of a real bundle and a checkpoint, run once."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from lrclr.bench import BenchCallbacks, BenchOptions, Result, bench, open_targets
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

SHORT = BenchOptions(
    batches=(1, 2), callers=(1, 2), shares=(), seconds=0.5, load_seconds=0.1, rounds=4, peaks=False, tolerance=9.0
)


@pytest.fixture(scope="session")
def bundle(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle. Shared: copy it before changing it."""
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture(scope="session")
def progress_text() -> io.StringIO:
    """Collects the progress messages of `result`."""
    return io.StringIO()


@pytest.fixture(scope="session")
def result(bundle: Path, checkpoint_folder: Path, progress_text: io.StringIO) -> Result:
    """A benchmark of the bundle and of the checkpoint that it was exported from, in closed loop and at a rate."""
    options = BenchOptions(
        batches=(1,),
        callers=(1, 2),
        shares=(0.3,),
        seconds=0.1,
        load_seconds=0.1,
        rounds=4,
        peaks=False,
        tolerance=9.0,
    )
    callbacks = BenchCallbacks(
        lambda text, share: print(f"{share:.3f} {text}", file=progress_text),
        lambda text: print(text, file=progress_text),
    )
    with open_targets([str(bundle), str(checkpoint_folder)]) as targets:
        return bench(targets, options, callbacks=callbacks)
