"""Memory of a server: the limits of `lrclr.budget`, and measurements of the rest.

Every process of the model `lrclr` refuses requests above its budget. So the sum suffices for the largest allowed
requests in all processes, with the costliest images, the most prompts, and heat maps;
``tests/triton/server/test_memory.py`` checks this on a server. Measured are a process without work, and the graphs,
which need 3.3 times their files and twice the memory of one block. ``benchmarks/results/serving`` has other
measurements.

Triton receives a whole request before `lrclr` can refuse it, so that also a request above `budget.REQUEST_BYTES` takes
memory. If clients are not trusted, limit the size of messages by a proxy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from lrclr import budget
from lrclr.triton.protocol import MAX_QUEUED

if TYPE_CHECKING:
    from lrclr.deploy._facts import Facts
    from lrclr.deploy._options import DeployOptions

_MIB: Final = 1 << 20
# Measured without work: Triton with the stand-ins of its backends, and a process of the model `lrclr`.
_SERVER, _PROCESS = 600 * _MIB, 100 * _MIB
_GRAPHS, _ACTIVATIONS = 3.3, 2
# Number of requests that Triton reads from the network at the same time, by two threads for inference.
_RECEIVED: Final = 2
# Copies of a request's files: in shared memory, as Python's bytes, and by the DICOM parser.
_COPIES: Final = 3
# Copies of the prompts' features: output of the encoder in shared memory, single prompts, all prompts, and input of the
# fusion head.
_FEATURES: Final = 4
# Factor for freed memory that malloc keeps in a process that decodes in many threads.
_KEPT: Final = 1.2
# CUDA's context and libraries in the host's memory; an estimate, not a measurement.
_GPU: Final = 2048 * _MIB
# As in the measurements. It is a request and not a limit, which would slow down answers in a burst.
_CPU: Final = "2"


def memory_parts(facts: Facts) -> dict[str, float]:
    """Largest number of bytes of each part of a server, by name."""
    answer = budget.REQUEST_HEATMAPS * budget.HEATMAP_BYTES / 4
    request = (
        _COPIES * budget.REQUEST_BYTES
        + budget.REQUEST_IMAGES * facts.pixel_bytes
        + _FEATURES * facts.feature_bytes
        + _graph_inputs(facts)
        + answer
    )
    process = _PROCESS + _KEPT * (budget.SERVER_DECODE_BYTES + budget.SERVER_FILE_BYTES) + budget.CACHE_BYTES + request
    waiting = facts.instances + MAX_QUEUED + _RECEIVED
    return {
        "processes": facts.instances * process,
        "requests": waiting * budget.REQUEST_BYTES + facts.instances * answer,
        "graphs": _GRAPHS * facts.graph_bytes + _ACTIVATIONS * facts.activation_bytes,
        "server": _SERVER,
        "gpu": _GPU * facts.gpu,
    }


def memory_mib(facts: Facts) -> float:
    """Sum of `memory_parts`, in MiB."""
    return sum(memory_parts(facts).values()) / _MIB


def memory(facts: Facts, options: DeployOptions) -> str:
    """Memory of a server. Request and limit are equal, so that it does not depend on the memory of other pods."""
    return options.memory or _mebibytes(memory_mib(facts), 256)


def cpu(options: DeployOptions) -> str:
    """Processors that a server requests."""
    return options.cpu or _CPU


def shared_memory(facts: Facts) -> str:
    """Size of ``/dev/shm``, through which Triton's Python backend passes images. It counts as memory of the server."""
    process = (
        budget.REQUEST_BYTES
        + budget.REQUEST_HEATMAPS * budget.HEATMAP_BYTES / 4
        + 2 * _graph_inputs(facts)
        + 2 * facts.feature_bytes
    )
    # Twice the need, since backends fail without room, and only used parts take memory.
    return _mebibytes(64 + 2 * facts.instances * process / _MIB, 64)


def temporary(facts: Facts) -> str:
    """Size of ``/tmp``: during a reload the server's repository holds the files of two bundles."""
    return _mebibytes(2 * facts.bytes / _MIB + 256, 64)


def _graph_inputs(facts: Facts) -> int:
    """Bytes of the images for one run of the image encoder of each member, as sent and as received."""
    return 2 * facts.members * facts.max_batch * facts.pixel_bytes


def _mebibytes(amount: float, step: int) -> str:
    return f"{math.ceil(amount / step) * step}Mi"
