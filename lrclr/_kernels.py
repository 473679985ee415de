"""The compiled region kernel that the package carries; its source and how it is compiled are in ``export/kernels``."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

MAX_LAYERS: Final = 24
MAX_NODES: Final = 1025
MAX_TOP_K: Final = 64
# Numbers of layers that there is a kernel for whose maps are arguments of their own, as TensorRT passes them.
LAYERS: Final = (*range(2, 13), 16, 18, 20, 24)


def region_ptx() -> bytes:
    """PTX for compute capability 8.0 and newer."""
    return files("lrclr").joinpath("data/kernels/region_select.ptx").read_bytes()


def threads_of(nodes: int) -> int:
    """Threads of a block: enough to share a map's columns out, and its rows where there are few columns."""
    if nodes <= 64:
        return 256
    return 512 if nodes <= 256 else 1024
