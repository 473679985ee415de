"""How much a server needs, by the rule that the measurements gave.

``benchmarks/serving/memory.py`` measured the largest memory of a server, shared memory included, while each of its
processes answered a request of ``max_batch`` radiographs of 2048 by 2500 pixels, with heat maps, all at once (Triton
2.51 on a CPU, graphs in float16, ``max_batch`` 32; MiB):

========  ========  =========  ========  =======  =========
bundle    graphs    processes  measured  rule     in shm
========  ========  =========  ========  =======  =========
default   6.9       2          2,041     2,091    251
default   6.9       8          5,507     5,715    938
ViT-B/32  291       2          3,029     3,028    256
ViT-B/32  291       8          6,653     6,652    905
========  ========  =========  ========  =======  =========

The rule is 860 MiB, 3.3 times the graphs, and for each process 60 MiB and 17 for each image that a request may hold.
A limit is a sixth above it. Idle, the four servers held 288, 486, 998 and 1,305 MiB. How the rule goes on for another
``max_batch``, for larger pictures and on a GPU was not measured: `DeployOptions.memory` overrides it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from lrclr.deploy._facts import Facts
    from lrclr.deploy._options import DeployOptions

__all__ = ["cpu", "memory", "memory_mib", "shared_memory", "temporary"]

_MIB: Final = 1 << 20
_BASE, _GRAPHS, _PROCESS, _IMAGE = 860, 3.3, 60, 17
_MARGIN: Final = 7 / 6
# CUDA's context and libraries, in the host's memory. An allowance: there was no GPU to measure it on.
_GPU: Final = 2048
# Twice what was measured: the backends fail where they find no room, and it is memory only where it is used.
_SHARED_IMAGE: Final = 8
# What the measurements had. None is a limit: a limit would slow down each answer that comes in a burst.
_CPU: Final = "2"


def memory_mib(facts: Facts) -> float:
    """What the rule gives for a server, without the margin."""
    images = facts.instances * facts.max_batch
    graphs = _GRAPHS * facts.graph_bytes / _MIB
    return _BASE + graphs + facts.instances * _PROCESS + images * _IMAGE + _GPU * facts.gpu


def memory(facts: Facts, options: DeployOptions) -> str:
    """A server's memory, request and limit alike, so that it never depends on memory of other pods."""
    return options.memory or _mebibytes(memory_mib(facts) * _MARGIN, 256)


def cpu(options: DeployOptions) -> str:
    """Processors that a server requests."""
    return options.cpu or _CPU


def shared_memory(facts: Facts) -> str:
    """Size of ``/dev/shm``, by which Triton's Python backend hands images over. It counts as memory of the server."""
    return _mebibytes(64 + facts.instances * facts.max_batch * _SHARED_IMAGE, 64)


def temporary(facts: Facts) -> str:
    """Size of ``/tmp``: the server's repository holds the bundle's files twice where they cannot be linked."""
    return _mebibytes(2 * facts.bytes / _MIB + 256, 64)


def _mebibytes(amount: float, step: int) -> str:
    return f"{math.ceil(amount / step) * step}Mi"
