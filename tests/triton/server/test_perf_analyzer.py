"""Triton's own load generator sends requests to graphs and model, and gets the answers that lrclr's client gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.serving import perf_analyzer
from lrclr.bundle import GRAPHS
from lrclr.contract import MODEL

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.triton.server import TritonServer

pytestmark = [
    pytest.mark.triton,
    pytest.mark.skipif(not perf_analyzer.PROGRAM.exists(), reason="`make perf-analyzer` has not run"),
]


@pytest.mark.slow
@pytest.mark.parametrize("model", [*GRAPHS, MODEL])
def test_drives(model: str, server: TritonServer, folder: Path) -> None:
    (asked,) = (one for one in perf_analyzer.requests_for(folder) if one.model == model)
    theirs = perf_analyzer.by_perf_analyzer(server.grpc, asked, concurrency=3, requests=30)
    ours = perf_analyzer.by_us(server.grpc, asked, concurrency=1, requests=1)
    assert len(theirs.seconds) >= 30
    compared = 0
    for name, values in ours.outputs.items():
        # It writes texts as received, with their lengths, and pads a missing answer.
        if values and not isinstance(values[0], bytes):
            assert theirs.outputs[name] == pytest.approx(values, rel=1e-3, abs=1e-3)
            compared += 1
    assert compared >= 2
