"""The compiled region kernels that the package carries; ``export/kernels`` holds their sources."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
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


@cache
def entry_ptx(name: str, entry: str) -> bytes:
    """One entry of a PTX file with the functions that it calls: the driver compiles all that it is given.

    Args:
        name: of the file.
        entry: of the kernel.

    Raises:
        KeyError: the file has no such entry.
    """
    # A definition begins with its directive at the start of a line and ends with a brace alone on a line.
    head, *definitions = re.split(r"(?m)^(?=\.visible \.entry |\.func )", kernel_ptx(name).decode())
    bodies = {}
    for text in definitions:
        named = re.match(r"\.visible \.entry (\w+)|\.func (\w+)", text)
        if named is not None:
            bodies[named[1] or named[2]] = text[: text.index("\n}\n") + 3]
    called = [body for function, body in bodies.items() if function in bodies[entry] and function != entry]
    # Comments name the variables of other entries.
    lines = [line for line in head.splitlines() if not line.startswith("//")]
    return "\n".join([*lines, *called, bodies[entry]]).encode()


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
    """One form of the kernel over queries and keys.

    Attributes:
        name: in the entry's name, between ``region_select_`` and the number of layers before the last.
        nodes: the most tokens that it takes.
        blocks: of a cluster, which share a chain. More than one needs compute capability 9.0.
        tokens_a_warp: that a warp takes; a block of a cluster has that part of the warps.
        warps: of a block; None where they follow from the tokens.
    """

    name: str
    nodes: int
    blocks: int = 1
    tokens_a_warp: int = 16
    warps: int | None = None

    def threads(self, nodes: int) -> int:
        """Threads of a block for so many tokens."""
        return 32 * (self.warps or -(-nodes // (self.tokens_a_warp * self.blocks)))


QK_FORMS: Final = (
    QkForm("64", 64, warps=4),
    QkForm("64s12", 64, warps=16),
    QkForm("608c1", 608, tokens_a_warp=48),
    QkForm("608c8", 608, blocks=8),
    QkForm("1088c1", 1088, tokens_a_warp=80),
    QkForm("1088c8", 1088, blocks=8),
)


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
    # Measured on an H200: the form for few chains is faster while each block has a multiprocessor of its own.
    return forms[-1] if chains <= (132 if fewest == 64 else 64) else forms[0]
