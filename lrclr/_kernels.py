"""The compiled region kernel in this package. Its source is in ``export/kernels``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Final

LAYERS: Final = {64: (*range(2, 14), 16, 18, 20, 24, 25), 32: (4, 6, 8, 12), 72: (28,)}
"""Numbers of layers that have an entry in the kernel, by the width of a head.

The last layer, or the pooling head of a tower without a CLS token, counts. The queries and keys of each layer before it
are separate arguments.
"""
MAX_TOP_K: Final = 64
HEAD_WIDTH: Final = 64
"""The commonest width of a head."""


@dataclass(frozen=True)
class Form:
    """One form of the kernel.

    Attributes:
        name: part of the entry's name between ``region_select_`` and the number of layers before the last.
        nodes: greatest number of tokens.
        blocks: blocks of a cluster, which share a chain. More than one needs compute capability 9.0.
        tokens_a_warp: tokens of each warp. The blocks of a cluster share the warps.
        warps: warps of a block; None if they follow from the number of tokens.
        head_width: width of a head.
    """

    name: str
    nodes: int
    blocks: int = 1
    tokens_a_warp: int = 16
    warps: int | None = None
    head_width: int = HEAD_WIDTH

    def entry(self, layers: int) -> str:
        """Return the name of the entry for `layers` layers, including the last one."""
        return f"region_select_{self.name}_{layers - 1}"

    def threads(self, nodes: int) -> int:
        """Return the number of threads of a block for `nodes` tokens."""
        return 32 * (self.warps or -(-nodes // (self.tokens_a_warp * self.blocks)))


FORMS: Final = (
    Form("64", 64, warps=4),
    Form("64s12", 64, warps=16),
    Form("608c1", 608, tokens_a_warp=48),
    Form("608c8", 608, blocks=8),
    Form("1088c1", 1088, tokens_a_warp=80),
    Form("1088c8", 1088, blocks=8),
    Form("64w32", 64, warps=4, head_width=32),
    Form("64s12w32", 64, warps=16, head_width=32),
    Form("608c1w32", 608, tokens_a_warp=48, head_width=32),
    Form("608c8w32", 608, blocks=8, head_width=32),
    Form("608c1w72", 608, tokens_a_warp=48, head_width=72),
    Form("608c8w72", 608, blocks=8, head_width=72),
    Form("1088c1w72", 1088, tokens_a_warp=80, head_width=72),
    Form("1088c8w72", 1088, blocks=8, head_width=72),
)


def max_nodes(head_width: int) -> int:
    """Return the greatest number of tokens for a width of a head; 0 without a form of that width."""
    return max((form.nodes for form in FORMS if form.head_width == head_width), default=0)


def forms_for(nodes: int, capability: int, head_width: int = HEAD_WIDTH) -> list[Form]:
    """Return the forms for a number of tokens: the one for many chains and, if it exists, the one for few chains.

    Args:
        nodes: number of tokens.
        capability: compute capability of the GPU, such as 80 or 90.
        head_width: width of a head.
    """
    fitting = [
        form
        for form in FORMS
        if form.head_width == head_width and form.nodes >= nodes and (form.blocks == 1 or capability >= 90)
    ]
    fewest = min((form.nodes for form in fitting), default=0)
    return [form for form in fitting if form.nodes == fewest]


def form_for(nodes: int, chains: int, capability: int, head_width: int = HEAD_WIDTH) -> Form:
    """Return the form to launch.

    Args:
        nodes: number of tokens, up to `max_nodes`.
        chains: images times heads, or images if the heads are averaged.
        capability: as for `forms_for`.
        head_width: width of a head.
    """
    forms = forms_for(nodes, capability, head_width)
    # Measured on an H200: the form for few chains is faster if each of its blocks has a multiprocessor of its own.
    return forms[-1] if chains <= (132 if nodes <= 64 else 64) else forms[0]


@cache
def entry_ptx(entry: str, capability: int) -> bytes:
    """Return the PTX of one entry with the functions that it calls. A driver compiles all of the PTX that it gets.

    Args:
        entry: name of the entry.
        capability: as for `forms_for`; at least 80.

    Raises:
        KeyError: the entry does not exist.
    """
    head, bodies = _definitions(f"region_select_{90 if capability >= 90 else 80}.ptx")
    body = bodies["visible .entry"][entry]
    called = [text for function, text in bodies["func"].items() if re.search(rf"\b{function}\b", body)]
    return "\n".join([*head, *called, body]).encode()


@lru_cache(maxsize=1)
def _definitions(name: str) -> tuple[list[str], dict[str, dict[str, str]]]:
    """The first lines of a PTX file, and its definitions by kind and name. They take 2 MB, so one file is kept."""
    text = files("lrclr").joinpath("data/kernels", name).read_text(encoding="utf-8")
    # A definition begins with its directive at the start of a line and ends with a brace alone on a line.
    head, *definitions = re.split(r"(?m)^(?=\.visible \.entry |\.func )", text)
    found = re.compile(r"\.(?P<kind>visible \.entry|func) (?P<name>\w+)")
    bodies: dict[str, dict[str, str]] = {"visible .entry": {}, "func": {}}
    for definition in definitions:
        if named := found.match(definition):
            bodies[named["kind"]][named["name"]] = definition[: definition.index("\n}\n") + 3]
    # The comments are removed, since they name the variables of other entries.
    return [line for line in head.splitlines() if not line.startswith("//")], bodies
