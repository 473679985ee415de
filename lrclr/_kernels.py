"""The compiled region kernels that the package carries; their sources and the compiler script are in ``export/kernels``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Final

MAX_LAYERS: Final = 24
MAX_NODES: Final = 1025
MAX_TOP_K: Final = 64
# Numbers of layers that there is a kernel for whose maps are arguments of their own, as TensorRT passes them.
LAYERS: Final = (*range(2, 13), 16, 18, 20, 24)


def kernel_ptx(name: str) -> bytes:
    """One of the PTX files that ``export/kernels/compile.py`` writes."""
    return files("lrclr").joinpath("data/kernels", name).read_bytes()


def region_ptx() -> bytes:
    """PTX of the kernel over attention maps, for compute capability 8.0 and newer."""
    return kernel_ptx("region_select.ptx")


def threads_of(nodes: int) -> int:
    """Threads of a block: enough to share a map's columns out, and its rows where there are few columns."""
    if nodes <= 64:
        return 256
    return 512 if nodes <= 256 else 1024


MAX_PAIRS: Final = 23
HEAD_WIDTH: Final = 64


@dataclass(frozen=True)
class QkForm:
    """One entry of the kernel over queries and keys.

    Attributes:
        nodes: the most tokens that it takes.
        blocks: of a cluster, which share a chain. More than one needs compute capability 9.0.
        tiles: of eight keys that a warp takes; 0 where the number of threads is fixed.
    """

    nodes: int
    blocks: int
    tiles: int

    @property
    def name(self) -> str:
        """Of the entry, without the number of layers."""
        return "region_select_64" if self.tiles == 0 else f"region_select_{self.nodes}c{self.blocks}"

    def threads(self, nodes: int) -> int:
        """Threads of a block for so many tokens."""
        return 128 if self.tiles == 0 else 32 * -(-nodes // (8 * self.tiles))


QK_FORMS: Final = (QkForm(64, 1, 0), QkForm(608, 1, 5), QkForm(608, 8, 5), QkForm(1088, 1, 9), QkForm(1088, 8, 9))


def qk_form(nodes: int, chains: int, capability: int) -> QkForm:
    """The form to launch.

    Args:
        nodes: tokens.
        chains: images times heads (times one, where heads are averaged).
        capability: compute capability of the GPU, such as 80 or 90.

    Raises:
        ValueError: no form takes so many tokens.
    """
    fitting = [form for form in QK_FORMS if form.nodes >= nodes and (form.blocks == 1 or capability >= 90)]
    if not fitting:
        raise ValueError(f"no form takes {nodes} tokens")
    fewest = min(form.nodes for form in fitting)
    forms = [form for form in fitting if form.nodes == fewest]
    return forms[-1] if chains * forms[-1].blocks <= 1024 else forms[0]
