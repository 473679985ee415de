"""A busy server, a server that makes no progress, and a server that is stopped."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from lrclr.errors import LrclrError, ServerUnavailableError
from lrclr.samples import sample_paths
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer

# Private: the numbers of a server's processes, to stop them.
from lrclr.triton.server._processes import backends_of
from tests import bundles
from tests.triton.server.test_faults import IMAGE, Load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrclr.inference import Prediction

pytestmark = pytest.mark.triton
OPTIONS = ServeOptions(grpc_port=0, http=False, metrics=False, instances=1, exit_timeout=20)


@pytest.fixture(scope="module")
def told() -> list[str]:
    """All lines that `server` has logged."""
    return []


@pytest.fixture(scope="module")
def server(folder: Path, told: list[str]) -> Iterator[TritonServer]:
    """A server with one process of each model."""
    with TritonServer(folder, OPTIONS, on_log=lambda level, text: told.append(f"{level}: {text}")) as running:
        yield running


def processes(server: TritonServer, model: str) -> list[int]:
    return [one.pid for one in backends_of(server.pid) if one.model == model and not one.dead]


def answered(server: TritonServer, version: int = 1) -> int:
    """Number of requests that the model `lrclr` has answered."""
    from tritonclient import grpc

    client = grpc.InferenceServerClient(server.grpc)
    (model,) = client.get_inference_statistics("lrclr", str(version)).model_stats
    client.close()
    return int(model.inference_stats.success.count)


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Processes that are stopped during a block."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_a_busy_server_is_left_alone(server: TritonServer, told: list[str]) -> None:
    before = {one.pid for one in backends_of(server.pid)}
    with Load.on(server.grpc, ClientOptions(timeout=60), threads=6, pause=0) as load:
        for _ in range(8):
            load.wait_for(2)
            # Too little time for a radiograph that waits behind six others.
            server.check(timeout=0.001)
    assert load.errors == []
    assert any("it is busy" in line for line in told)
    assert not any("loading the models again" in line for line in told)
    assert {one.pid for one in backends_of(server.pid)} == before
    server.check()


def test_one_radiograph_of_the_servers_own_waits_however_often_it_is_looked_after(
    server: TritonServer, told: list[str]
) -> None:
    before = answered(server)
    with frozen(processes(server, "lrclr")):
        server.check(timeout=0.2)  # the first check has nothing to compare with
        server.check(timeout=0.2)
        server.check(timeout=0.2)
    server.check()
    assert answered(server) == before + 1
    assert not any("loading the models again" in line for line in told)


def test_a_server_in_which_nothing_goes_on_is_mended(server: TritonServer, told: list[str]) -> None:
    stuck = processes(server, "image_encoder")

    def loaded_again() -> bool:
        server.check(timeout=0.2)
        return any("loading the models again" in line for line in told)

    with frozen(stuck):
        bundles.wait_until(loaded_again)
        for _ in range(2):
            server.check(timeout=0.2)
        assert sum("loading the models again" in line for line in told) == 1
        assert any("mended" in line for line in told)
        with Client(server.grpc) as client:
            assert len(client.predict([IMAGE])) == 1

    # The requests that waited for the stuck process have ended, so the old version is unloaded.
    def gone() -> bool:
        server.wait(0.05)
        return not set(stuck) & set(processes(server, "image_encoder"))

    bundles.wait_until(gone)
    server.check()


@pytest.mark.slow
def test_what_is_in_flight_is_answered_when_the_server_is_stopped(server: TritonServer, told: list[str]) -> None:
    answers: list[Prediction] = []
    errors: list[LrclrError] = []

    def ask() -> None:
        with Client(server.grpc, ClientOptions(timeout=60, retries=0)) as client:
            # Until the server no longer accepts a request.
            while not errors:
                try:
                    answers.extend(client.predict(sample_paths()[:3]))
                except LrclrError as error:
                    errors.append(error)

    count = len(told)
    asking = [Thread(target=ask) for _ in range(4)]
    for one in asking:
        one.start()
    bundles.wait_until(lambda: len(answers) > 12)
    server.stop()
    for one in asking:
        one.join()
    # Each request was refused or answered, and none was aborted.
    assert all(isinstance(error, ServerUnavailableError) and "closed" not in str(error) for error in errors), errors
    assert not any(line.startswith(("error", "fatal", "warning")) for line in told[count:])


@pytest.mark.slow
def test_a_server_that_has_nothing_to_do_stops_without_an_error(folder: Path) -> None:
    """Triton itself needs more than ten seconds to end eight processes, and reports an error after five."""
    told: list[str] = []
    options = ServeOptions(grpc_port=0, http_port=0, metrics_port=0, exit_timeout=5)
    with TritonServer(folder, options, on_log=lambda level, text: told.append(f"{level}: {text}")):
        count = len(told)
    ending = told[count:]
    assert any("All models are stopped" in line for line in ending)
    assert not any("expired" in line for line in ending)
    assert not any(line.startswith(("error", "fatal", "warning")) for line in ending)
