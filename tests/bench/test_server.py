"""A real Triton server as a target, with and without shared memory, together with the bundle that it serves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from lrclr.bench import OpenOptions, bench, open_targets
from lrclr.errors import ServerError
from lrclr.triton.server import ServeOptions, TritonServer
from tests.bench.conftest import SHORT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.triton


@pytest.mark.slow
def test_a_server_is_measured_and_checked(bundle: Path) -> None:
    options = replace(SHORT, batches=(1,), callers=(1,), rates=(20.0,), rounds=3)
    served = ServeOptions(grpc_port=0, http=False, metrics=False, shared_memory=True)
    with (
        TritonServer(bundle, served) as server,
        open_targets([server.grpc, str(bundle)], OpenOptions(shared_memory=True)) as targets,
    ):
        found = bench(targets, options)
        named = OpenOptions(model_name="elselrclr")
        with pytest.raises(ServerError, match="elselrclr"), open_targets([server.grpc], named):
            pass
    assert [target.transport for target in found.targets] == ["grpc", "grpc, shared memory", "in process"]
    assert [target.quality.verdict for target in found.targets] == ["good"] * 3
    assert found.left_out == ()
    assert len({target.sha256 for target in found.targets}) == 1
    closed = [each.case for each in found.measurements if each.case.rate is None]
    assert len(closed) == 3 * 5
    opened = [each.case for each in found.measurements if each.case.rate is not None]
    assert [case.callers for case in opened][:2] == [32, 32]
    assert server.grpc not in str(found)


def test_an_address_without_a_server_is_refused() -> None:
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"), open_targets(["127.0.0.1:9"]) as targets:
        bench(targets, SHORT)
