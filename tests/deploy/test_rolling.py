"""Two servers behind the shipped balancer are replaced under load, and no request fails."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pytest

import lrclr.deploy
from lrclr import Bundle, ZeroShotClassifier, read_image
from lrclr.errors import LrclrError
from lrclr.evaluation import store
from lrclr.samples import sample_paths
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lrclr.inference import Prediction

pytestmark = [pytest.mark.triton, pytest.mark.slow]
CONFIG = Path(lrclr.deploy.__file__).parent / "balancer" / "haproxy.cfg"
NAMES = ("one", "two")
CLIENTS = 4


class Balancer:
    """HAProxy with the shipped configuration.

    Attributes:
        address: address for clients.
        ports: ports of gRPC and HTTP, by server.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("haproxy")
        if program is None:
            pytest.skip("there is no HAProxy here: apt-get install haproxy")
        front, *ports = bundles.free_ports(5)
        self.address = f"127.0.0.1:{front}"
        self.ports = {name: (ports[2 * place], ports[2 * place + 1]) for place, name in enumerate(NAMES)}
        self._socket = folder / "admin.sock"
        environment = {"LRCLR_BIND": self.address, "LRCLR_ADMIN": str(self._socket)}
        for name, (grpc, http) in self.ports.items():
            environment |= {f"LRCLR_{name.upper()}": f"127.0.0.1:{grpc}", f"LRCLR_{name.upper()}_HTTP": str(http)}
        self._log = folder / "haproxy.log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [program, "-db", "-f", str(CONFIG)],
                env=bundles.environment(**environment),
                stdout=log,
                stderr=log,
                text=True,
            )

    def __enter__(self) -> Self:
        bundles.wait_until(self._socket.exists, self.process)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def tell(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self._socket))
            admin.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()

    def row(self, name: str) -> dict[str, str]:
        rows = csv.DictReader(io.StringIO(self.tell("show stat").removeprefix("# ")))
        return next(row for row in rows if row["pxname"] == "servers" and row["svname"] == name)

    def until(self, name: str, column: str, *wanted: str) -> None:
        bundles.wait_until(lambda: self.row(name)[column] in wanted, self.process)

    def until_served(self, name: str, requests: int) -> None:
        """Wait until a server has received this many more requests."""
        before = int(self.row(name)["stot"])
        bundles.wait_until(lambda: int(self.row(name)["stot"]) >= before + requests, self.process)


class Load:
    """Clients that send one radiograph after the other, without repetitions, and check each answer."""

    def __init__(self, address: str, expected: Mapping[str, Sequence[Prediction]]) -> None:
        self._address, self._expected = address, expected
        self._over = threading.Event()
        self._lock = threading.Lock()
        self.by_bundle: dict[str, int] = dict.fromkeys(expected, 0)
        self.failed: list[str] = []

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._asking = [self._pool.submit(self._ask, place) for place in range(CLIENTS)]
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown()
        for one in self._asking:
            one.result()

    @property
    def answered(self) -> int:
        return sum(self.by_bundle.values())

    def _ask(self, place: int) -> None:
        files = [path.read_bytes() for path in sample_paths()]
        # A client of lrclr repeats requests by itself. Here every single call must succeed.
        with Client(self._address, ClientOptions(retries=0, timeout=60)) as client:
            while not self._over.is_set():
                place = (place + 1) % len(files)
                try:
                    reply = client.ask([files[place]])
                except LrclrError as error:
                    with self._lock:
                        self.failed.append(str(error))
                    continue
                right = self._expected[reply.bundle][place]
                there = [one.probability for one in reply.predictions[0].findings]
                here = [one.probability for one in right.findings]
                with self._lock:
                    self.by_bundle[reply.bundle] += 1
                    if not np.allclose(there, here, atol=1e-4):
                        self.failed.append(f"image {place} got another answer")


@pytest.fixture
def balancer(tmp_path: Path) -> Iterator[Balancer]:
    with Balancer(tmp_path) as running:
        yield running


def test_both_servers_are_replaced_and_no_request_fails(folder: Path, tmp_path: Path, balancer: Balancer) -> None:
    renewed = bundles.copied(folder, tmp_path / "renewed")
    store(renewed, alpha=0.1, score_scale=5.0)
    old, new = Bundle(folder).sha256, Bundle(renewed).sha256
    expected = {
        digest: [ZeroShotClassifier.from_bundle(path).predict([read_image(image)])[0] for image in sample_paths()]
        for digest, path in ((old, folder), (new, renewed))
    }

    def started(name: str, bundle: Path) -> TritonServer:
        grpc, http = balancer.ports[name]
        options = ServeOptions(
            grpc_port=grpc, http_port=http, metrics=False, instances=2, expect=Bundle(bundle).sha256, exit_timeout=30
        )
        server = TritonServer(bundle, options)
        server.start()
        return server

    servers: dict[str, TritonServer] = {}

    def stop(name: str) -> None:
        servers[name].stop()

    with ExitStack() as running:
        for name in NAMES:
            servers[name] = started(name, folder)
            running.callback(stop, name)
            balancer.until(name, "status", "UP")
        with Load(balancer.address, expected) as load:
            bundles.wait_until(lambda: load.answered > 20, balancer.process)
            for name in NAMES:
                balancer.tell(f"set server servers/{name} state drain")
                balancer.until(name, "scur", "0")
                servers[name].stop()
                during = load.answered
                servers[name] = started(name, renewed)
                # The other server continued.
                assert load.answered > during
                balancer.tell(f"set server servers/{name} state ready")
                balancer.until(name, "status", "UP")
                balancer.until_served(name, 10)
            settled = load.by_bundle[old]
            bundles.wait_until(lambda: load.by_bundle[new] > 60, balancer.process)
            assert load.by_bundle[old] <= settled + CLIENTS
    assert load.failed == []
    assert load.by_bundle[old] > 20
    assert balancer.process.poll() is None


def test_a_server_that_vanishes_costs_no_client_that_asks_again(
    folder: Path, tmp_path: Path, balancer: Balancer
) -> None:
    """The server is killed, not drained: requests in flight fail, and clients repeat them by default."""
    with ExitStack() as running:
        for name in NAMES:
            grpc, http = balancer.ports[name]
            options = ServeOptions(grpc_port=grpc, http_port=http, metrics=False, instances=2)
            running.enter_context(server := TritonServer(folder, options))
            balancer.until(name, "status", "UP")
        counts: list[int] = []

        def ask() -> None:
            with Client(balancer.address) as client:
                # One at a time, since other tests look at the progress.
                counts.extend(len(client.predict(sample_paths()[:1])) for _ in range(40))

        with ThreadPoolExecutor(CLIENTS) as pool:
            asking = [pool.submit(ask) for _ in range(CLIENTS)]
            bundles.wait_until(lambda: len(counts) > 20, balancer.process)
            os.kill(server.pid, signal.SIGKILL)
            for one in asking:
                one.result()
        assert counts == [1] * (40 * CLIENTS)
