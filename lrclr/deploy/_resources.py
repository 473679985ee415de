"""How much memory a server needs: what `lrclr.budget` allows it, and what was measured of the rest.

Every process of the model `lrclr` refuses what is above its budget, so that the sum holds whatever legal requests come,
all at once: the largest, with the costliest images, the most prompts, heat maps. ``tests/triton/server/test_memory.py``
holds a server to it. What is measured and not allowed is a process without work, and the graphs, which take 3.3 times
their files and twice what one of their blocks holds. The rest of the measurements is in ``benchmarks/results/serving``.

Triton receives a request as a whole before `lrclr` sees it: one above `budget.REQUEST_BYTES` is refused, but its bytes
were in the server's memory until then. Let a proxy bound the size of messages where clients are not trusted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from lrclr import budget
from lrclr.triton.protocol import MAX_QUEUED

if TYPE_CHECKING:
    from lrclr.deploy._facts import Facts
    from lrclr.deploy._options import DeployOptions

__all__ = ["cpu", "memory", "memory_mib", "memory_parts", "shared_memory", "temporary"]

_MIB: Final = 1 << 20
# Measured: Triton and the stand-ins of its backends, and a process of the model `lrclr`, without work.
_SERVER, _PROCESS = 600 * _MIB, 100 * _MIB
_GRAPHS, _ACTIVATIONS = 3.3, 2
# Triton reads so many requests from the network at a time, by its two threads for inference.
_RECEIVED: Final = 2
# A request's files are in shared memory, as Python's bytes, and in the copy that a DICOM parser makes.
_COPIES: Final = 3
# Features of a request's prompts: the encoder's, in shared memory; each prompt's own; the set; the fusion head's input.
_FEATURES: Final = 4
# What malloc keeps of freed memory in a process that decodes in many threads.
_KEPT: Final = 1.2
# CUDA's context and libraries, in the host's memory. An allowance: there was no GPU to measure it on.
_GPU: Final = 2048 * _MIB
# What the measurements had. None is a limit: a limit would slow down each answer that comes in a burst.
_CPU: Final = "2"


def memory_parts(facts: Facts) -> dict[str, float]:
    """Most bytes that each part of a server holds, by name."""
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
    """Their sum."""
    return sum(memory_parts(facts).values()) / _MIB


def memory(facts: Facts, options: DeployOptions) -> str:
    """A server's memory, request and limit alike, so that it never depends on memory of other pods."""
    return options.memory or _mebibytes(memory_mib(facts), 256)


def cpu(options: DeployOptions) -> str:
    """Processors that a server requests."""
    return options.cpu or _CPU


def shared_memory(facts: Facts) -> str:
    """Size of ``/dev/shm``, by which Triton's Python backend hands images over. It counts as memory of the server."""
    process = (
        budget.REQUEST_BYTES
        + budget.REQUEST_HEATMAPS * budget.HEATMAP_BYTES / 4
        + 2 * _graph_inputs(facts)
        + 2 * facts.feature_bytes
    )
    # Twice: the backends fail where they find no room, and it is memory only where it is used.
    return _mebibytes(64 + 2 * facts.instances * process / _MIB, 64)


def temporary(facts: Facts) -> str:
    """Size of ``/tmp``: the server's repository holds the bundle's files twice where they cannot be linked."""
    return _mebibytes(2 * facts.bytes / _MIB + 256, 64)


def _graph_inputs(facts: Facts) -> int:
    """Bytes by which a process asks the graphs: images for one pass, as sent and as received."""
    return 2 * facts.max_batch * facts.pixel_bytes


def _mebibytes(amount: float, step: int) -> str:
    return f"{math.ceil(amount / step) * step}Mi"
