"""Options of a server."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from lrclr._addresses import ip_address
from lrclr.bundle import require_digest
from lrclr.errors import UsageError

_LONGEST = 86_400  # seconds


@dataclass(frozen=True)
class ServeOptions:
    """Options of a server.

    Attributes:
        server: path of tritonserver; by default see `find_server`.
        address: IPv4 or IPv6 address to listen on, without brackets. With ``::``, gRPC accepts IPv4 and IPv6, HTTP and
            metrics accept IPv6 only. An address that is not a loopback address is open to every machine that can reach
            it.
        grpc_port, http_port, metrics_port: 0 for any free port.
        http, metrics: whether to listen on these ports.
        tls_cert, tls_key: PEM files for gRPC. Triton's HTTP and metrics ports have no TLS.
        tls_name: the name in the certificate, for health checks.
        instances: processes of the model `lrclr`; by default the number of the bundle. With fewer than four, Triton
            can leave one idle for up to half a second while requests wait.
        shared_memory: allow clients on this machine to pass inputs through system shared memory.
        startup_timeout: seconds in which the server must answer after the start.
        exit_timeout: seconds that requests in flight have when the server is stopped.
        expect: SHA-256 that the bundle's ``manifest.json`` must have at the start and at each reload.
    """

    server: Path | None = None
    address: str = "127.0.0.1"
    grpc_port: int = 8001
    http_port: int = 8000
    metrics_port: int = 8002
    http: bool = True
    metrics: bool = True
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_name: str = "localhost"
    instances: int | None = None
    shared_memory: bool = False
    startup_timeout: float = 120.0
    exit_timeout: int = 5
    expect: str | None = None

    def __post_init__(self) -> None:
        address = ip_address(self.address)
        if address is None:
            raise UsageError(
                f"{self.address!r} is not an IP address",
                fix="Use 127.0.0.1, or 0.0.0.0 or :: for every interface. There are other options for the ports.",
            )
        if "%" in str(address) and (self.http or self.metrics):
            raise UsageError(
                f"Triton cannot listen for HTTP or metrics on {address}",
                why="it does not read the zone of a link-local address",
                fix="Use --no-http and --no-metrics, or another address.",
            )
        object.__setattr__(self, "address", str(address))
        ports = [self.grpc_port, *([self.http_port] * self.http), *([self.metrics_port] * self.metrics)]
        if not all(0 <= port <= 65535 for port in ports):
            raise UsageError("a port must be between 0 and 65535")
        given = [port for port in ports if port]
        if len(given) != len(set(given)):
            raise UsageError("two ports are the same", fix="Give different ports, or 0 for any free port.")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("TLS needs a certificate and its key", fix="Give both.")
        if self.tls_cert is not None and self.tls_key is not None:
            _check_pair(self.tls_cert, self.tls_key)
            # The server runs in another folder.
            object.__setattr__(self, "tls_cert", self.tls_cert.absolute())
            object.__setattr__(self, "tls_key", self.tls_key.absolute())
        if self.instances is not None and not 1 <= self.instances <= 64:
            raise UsageError(f"{self.instances} instances are not possible", fix="Use 1 to 64.")
        if not 0 < self.startup_timeout <= _LONGEST:
            raise UsageError(f"the start-up timeout must be positive, and at most {_LONGEST} seconds")
        if not 0 <= self.exit_timeout <= 3600:
            raise UsageError("the exit timeout must be between 0 and 3600 seconds")
        if self.expect is not None:
            require_digest(self.expect)

    @property
    def asked_ports(self) -> list[int]:
        """The ports for gRPC, HTTP and metrics; 0, any free one, for what is switched off: it is not listened on."""
        return [self.grpc_port, self.http_port if self.http else 0, self.metrics_port if self.metrics else 0]

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        address = ip_address(self.address)
        return address is not None and address.is_loopback


def _check_pair(certificate: Path, key: Path) -> None:
    """Raise UsageError if TLS cannot use a certificate and its key: Triton would only say that the port is in use."""
    for file in (certificate, key):
        if not file.is_file():
            raise UsageError(f"the file {file} does not exist")
    try:
        # The password of an encrypted key would be asked for.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"TLS cannot use {certificate} with {key}",
            why=getattr(error, "reason", None) or str(error),
            fix="Give a certificate and its own key in PEM, without a password.",
        ) from None
