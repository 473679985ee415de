"""The server's command line.

Every account of the machine can read it in ``/proc/PID/cmdline``. It must not contain a secret.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.triton.server._locate import Installation
    from lrclr.triton.server._options import ServeOptions

# Triton can restrict an API to requests with a given header. No client can send this one: the name of a header has no
# colon in HTTP/1 (RFC 9112, section 5), and no colon, space or upper-case letter in HTTP/2 (RFC 9113, section 8.2.1),
# which gRPC enforces.
_NO_HEADER: Final = "Closed to everyone:"
_POLL_SECONDS: Final = 1


def command_line(
    installation: Installation,
    repository: Path,
    options: ServeOptions,
    *,
    ports: Sequence[int],
    shared_memory_prefix: str,
    exit_seconds: int,
    version_compatible: bool = False,
) -> list[str]:
    """Program and arguments.

    Args:
        installation: the server.
        repository: its model repository. The server checks it every second for versions that were added or removed. In
            this mode clients cannot load, unload or upload models.
        options: options of the server.
        ports: ports of gRPC, HTTP and metrics.
        shared_memory_prefix: prefix of the names in /dev/shm that its backends use.
        exit_seconds: seconds that requests may still run when the server is stopped.
        version_compatible: whether plans may contain TensorRT's runtime of their version, which is code.
    """
    closed = [] if options.shared_memory else ["shared-memory"]
    # The index of the repository, and settings of traces and logs.
    closed += ["model-repository", "trace", "logging"]
    # Triton's HTTP and metrics use libevhtp, which expects this prefix of an IPv6 address. It cannot read an address in
    # brackets or with a zone, and would then listen on every interface.
    plain = f"ipv6:{options.address}" if ":" in options.address else options.address
    restriction = f"{','.join(closed)}:{_NO_HEADER}=closed"
    arguments = {
        "model-repository": repository,
        "model-control-mode": "poll",
        "repository-poll-secs": _POLL_SECONDS,
        "exit-timeout-secs": exit_seconds,
        "grpc-address": f"[{options.address}]" if ":" in options.address else options.address,
        "grpc-port": ports[0],
        "grpc-restricted-protocol": restriction,
        "allow-http": options.http,
        "allow-metrics": options.metrics,
    }
    if options.http:
        arguments |= {
            "http-address": plain,
            "http-port": ports[1],
            "http-restricted-api": restriction,
        }
    if options.metrics:
        arguments |= {"metrics-address": plain, "metrics-port": ports[2]}
    if options.tls_cert is not None:
        arguments |= {"grpc-use-ssl": True, "grpc-server-cert": options.tls_cert, "grpc-server-key": options.tls_key}
    if installation.backends is not None:
        arguments["backend-directory"] = installation.backends
    # A stand-in for another backend is the Python backend under the name of the other.
    backends = ["python"] if installation.backends is None else [path.name for path in installation.backends.iterdir()]
    tensorrt = ["--backend-config=tensorrt,version-compatible=true"] if version_compatible else []
    return [
        str(installation.program),
        *tensorrt,
        *(f"--backend-config={backend},shm-region-prefix-name={shared_memory_prefix}" for backend in sorted(backends)),
        *(f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in arguments.items()),
    ]
