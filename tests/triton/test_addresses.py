"""Servers on IPv6 addresses, and servers and clients with proxy variables, with a real server and a real proxy."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.request
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from lrclr.cli import main
from lrclr.errors import ServerError, ServerUnavailableError, UsageError
from lrclr.samples import sample_paths
from lrclr.triton.client import AsyncClient, Client, ClientOptions
from lrclr.triton.server import ServeOptions, TritonServer

# Private: ports of addresses that a server cannot use.
from lrclr.triton.server._ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.triton
IMAGE = sample_paths()[1]
PROXIES = ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
_INTERFACES = Path("/proc/net/if_inet6")
needs_ipv6 = pytest.mark.skipif(
    not (_INTERFACES.exists() and "00000000000000000000000000000001 " in _INTERFACES.read_text()),
    reason="this machine has no IPv6 loopback address (/proc/net/if_inet6)",
)


class SilentProxy:
    """A proxy that accepts connections and does not answer.

    Attributes:
        url: address of the proxy.
        received: first bytes of each connection.
    """

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.received: list[bytes] = []
        self._connections: list[socket.socket] = []
        Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            self.received.append(connection.recv(200))

    def close(self) -> None:
        self._socket.close()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentProxy]:
    """A proxy that all proxy variables name."""
    running = SilentProxy()
    for name in PROXIES:
        monkeypatch.setenv(name, running.url)
        monkeypatch.setenv(name.upper(), running.url)
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield running
    running.close()


def listening_addresses(port: int) -> set[str]:
    """Addresses on which this machine listens on a port, in hexadecimal, from the kernel's table."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                found.add(local.rpartition(":")[0])
    return found


def port_of(address: str | None) -> int:
    assert address is not None
    return int(address.rpartition(":")[2])


def test_a_loopback_server_is_reached_without_the_proxy(
    single: TritonServer, proxy: SilentProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask(address: str) -> int:
        async with AsyncClient(address) as client:
            return len(await client.predict([IMAGE]))

    single.check()
    port = port_of(single.grpc)
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"):
        with Client(f"{host}:{port}") as client:
            assert len(client.predict([IMAGE])) == 1
    assert asyncio.run(ask(single.grpc)) == 1
    assert main(["probe", single.grpc]) == 0
    assert main(["predict", str(IMAGE), "--server", single.grpc]) == 0
    capsys.readouterr()
    assert proxy.received == []


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_other_addresses_use_the_proxy_unless_no_proxy_names_them(
    name: str, proxy: SilentProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in PROXIES:
        if other != name:
            monkeypatch.delenv(other)
    options = ClientOptions(timeout=2, retries=0)
    with Client("lrclr.invalid:8001", options) as client, pytest.raises(ServerUnavailableError):
        client.predict([IMAGE])
    assert proxy.received
    assert proxy.received[0].startswith(b"CONNECT lrclr.invalid:8001 ")
    received = len(proxy.received)
    monkeypatch.setenv("no_proxy", "lrclr.invalid")
    with Client("lrclr.invalid:8001", options) as client, pytest.raises(ServerUnavailableError):
        client.predict([IMAGE])
    assert len(proxy.received) == received


@pytest.mark.slow
@needs_ipv6
@pytest.mark.parametrize("address", ["[0:0:0:0:0:0:0:1]", "::"])
def test_a_server_on_ipv6(folder: Path, address: str, proxy: SilentProxy, capsys: pytest.CaptureFixture[str]) -> None:
    options = ServeOptions(address=address, grpc_port=0, http_port=0, metrics_port=0, instances=1)
    with TritonServer(folder, options) as server:
        assert re.fullmatch(r"\[::1\]:\d+", server.grpc)
        server.check()
        wanted = "0" * 32 if address == "::" else "0" * 24 + "01000000"
        for listener in (server.grpc, server.http, server.metrics):
            assert listening_addresses(port_of(listener)) == {wanted}
        hosts = ["[::1]", "[0:0:0:0:0:0:0:1]", "localhost", *(["127.0.0.1"] if address == "::" else [])]
        for host in hosts:
            with Client(f"{host}:{port_of(server.grpc)}") as client:
                assert len(client.predict([IMAGE])) == 1
        assert main(["probe", server.grpc]) == 0
        assert main(["predict", str(IMAGE), "--server", server.grpc]) == 0
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert direct.open(f"http://{server.http}/v2/health/ready").status == 200
        assert b"nv_inference" in direct.open(f"http://{server.metrics}/metrics").read()
    capsys.readouterr()
    assert proxy.received == []


def link_local() -> str | None:
    """A link-local address of this machine with its zone, if it has one."""
    for line in _INTERFACES.read_text().splitlines() if _INTERFACES.exists() else ():
        digits, *_, name = line.split()
        if digits.startswith("fe80"):
            return ":".join(digits[k : k + 4] for k in range(0, 32, 4)) + f"%{name}"
    return None


@pytest.mark.slow
@pytest.mark.skipif(link_local() is None, reason="this machine has no link-local IPv6 address (/proc/net/if_inet6)")
def test_a_server_on_a_link_local_address(folder: Path, proxy: SilentProxy) -> None:
    address = str(link_local())
    options = ServeOptions(address=address, grpc_port=0, http=False, metrics=False, instances=1)
    with TritonServer(folder, options) as server:
        server.check()
        assert proxy.received == []
        with pytest.MonkeyPatch.context() as patch:
            # The address is not loopback, so a client uses the proxy unless no_proxy names the address.
            for name in PROXIES:
                patch.delenv(name)
            with Client(server.grpc) as client:
                assert len(client.predict([IMAGE])) == 1


@pytest.mark.parametrize(
    ("address", "read", "local"),
    [
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("0:0:0:0:0:0:0:1", "::1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::", "::", False),
        ("::ffff:0.0.0.0", "0.0.0.0", False),
        ("2001:DB8::1", "2001:db8::1", False),
    ],
)
def test_every_form_of_a_listening_address_is_read(address: str, read: str, local: bool) -> None:
    options = ServeOptions(address=address)
    assert (options.address, options.local) == (read, local)


@pytest.mark.parametrize("address", ["", "localhost", "[::1]:8001", "127.0.0.1:8001", "::g", "[]", "http://[::1]"])
def test_a_text_that_is_not_an_ip_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is not an IP address"):
        ServeOptions(address=address)


def test_http_and_metrics_refuse_a_zone_since_triton_would_listen_everywhere() -> None:
    for http, metrics in ((False, True), (True, False), (True, True)):
        with pytest.raises(UsageError, match="does not read the zone"):
            ServeOptions(address="fe80::1%lo", http=http, metrics=metrics)


@needs_ipv6
def test_a_used_port_and_an_address_of_another_machine_are_refused() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"cannot listen on ::1 port {port}"):
            free_ports("::1", [port])
    with pytest.raises(ServerError, match=r"cannot listen on 2001:db8::1 port 0"):
        free_ports("2001:db8::1", [0])
    with pytest.raises(ServerError, match="cannot listen on fe80::1%none port 0"):
        free_ports("fe80::1%none", [0])


def test_a_port_that_is_switched_off_need_not_be_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ServeOptions(grpc_port=0, http_port=taken.getsockname()[1], http=False, metrics=False)
        assert len(set(free_ports(options.address, options.asked_ports))) == 3
