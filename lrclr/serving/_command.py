"""The server's command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrclr.serving._stage import MODELS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.serving._locate import Installation
    from lrclr.serving._options import ServeOptions

__all__ = ["command_line"]


def command_line(
    installation: Installation,
    repository: Path,
    options: ServeOptions,
    *,
    ports: Sequence[int],
    key: tuple[str, str],
    shared_memory_prefix: str,
    exit_seconds: int,
) -> list[str]:
    """Program and arguments.

    Args:
        installation: the server.
        repository: of its models.
        options: how to run.
        ports: of gRPC, HTTP and metrics.
        key: header and value that open what is closed to others.
        shared_memory_prefix: of the names of what its backends leave in /dev/shm if they are killed.
        exit_seconds: how long requests may still run when it is stopped.
    """
    closed = [] if options.model_control else ["model-repository"]
    closed += [] if options.shared_memory else ["shared-memory"]
    # Settings of the server that change what it writes where.
    closed += ["trace", "logging"]
    # libevhtp, on which Triton's HTTP and metrics rest, takes an IPv6 address after this word. It cannot read one in
    # brackets or with a zone, and then listens on every interface.
    plain = f"ipv6:{options.address}" if ":" in options.address else options.address
    restriction = f"{','.join(closed)}:{key[0]}={key[1]}"
    arguments = {
        "model-repository": repository,
        "model-control-mode": "explicit",
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
    # Stand-ins for others are the Python backend under their names.
    backends = ["python"] if installation.backends is None else [path.name for path in installation.backends.iterdir()]
    return [
        str(installation.program),
        *(f"--backend-config={backend},shm-region-prefix-name={shared_memory_prefix}" for backend in sorted(backends)),
        *(f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in arguments.items()),
        *(f"--load-model={model}" for model in MODELS),
    ]
