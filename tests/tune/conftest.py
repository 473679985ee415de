"""A bundle, and results as `lrclr tune` makes them, without a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lrclr import Bundle
from lrclr.bench import environment
from lrclr.bundle import ServingSettings
from lrclr.tune import Estimate, Row, TuneResult, Window
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TUNED = ServingSettings(
    processes=4,
    encoder_instances=2,
    encoder_threads=1,
    fusion_instances=2,
    fusion_threads=1,
    queue_delay_us=2000,
    preferred_batches=(4,),
)


@pytest.fixture(scope="session")
def fp32(checkpoint_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle. Shared: copy it before changing it."""
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture
def bundle(fp32: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return bundles.copied(fp32, tmp_path / "bundle")


def estimate(rate: float, p99_ms: float, *, stable: bool = True) -> Estimate:
    """An estimate with two windows."""
    windows = tuple(Window(offered, 2.0, (1.0, p99_ms)) for offered in (rate or 5.0, 1.5 * rate or 5.0))
    return Estimate(rate, rate, p99_ms, 0.1, stable, windows)


@pytest.fixture
def result_for() -> Callable[..., TuneResult]:
    """A function that makes the result for a bundle, with two configurations."""

    def make(path: Path, *, best: float = 80.0, settings: ServingSettings = TUNED) -> TuneResult:
        bundle = Bundle(path)
        name = "encoder instances 2 <b>|*"
        rows = (
            Row(name, settings.to_dict(), "client", 2, (estimate(best, 90.0), estimate(best, 95.0))),
            Row("default", ServingSettings().to_dict(), "server", 2, (estimate(best / 2, 99.0, stable=False),) * 2),
            Row("processes 64", ServingSettings(processes=64).to_dict(), "server", 1, (Estimate.failed("no room"),)),
        )
        return TuneResult(
            bundle=bundle.sha256,
            engine=bundle.manifest.triton_engine,
            p99_ms=100.0,
            callers=None,
            images={"files": 1, "kinds": ["png"], "mean_bytes": 1000, "passed_over": {}},
            seconds=123.4,
            rounds=2,
            rows=rows,
            chosen=0,
            default=1,
            environment=environment(),
        )

    return make
