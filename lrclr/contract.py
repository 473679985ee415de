"""The three graphs of a bundle: names, axes, types and meaning of their inputs and outputs.

This is the only definition. The exporter, Triton's configuration, the engines, the server's model, the gates and the
reports of deviating layers derive from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Literal

from lrclr.errors import UsageError

__all__ = ["DYNAMIC", "GRAPHS", "MODEL", "MOST_MEMBERS", "Graph", "ModelNames", "Tensor"]

MODEL: Final = "lrclr"
"""Name of the Triton model that answers requests with image files, with the help of the three graphs."""

MOST_MEMBERS: Final = 64
"""Largest number of members of an ensemble."""

DYNAMIC: Final = ("batch", "prompts", "tokens")
"""Axes whose size differs from call to call: images, prompts, and tokens of the longest prompt.

The axis ``length`` of the text encoder is one number where every prompt is padded to the same length, and ``tokens``
elsewhere; see `lrclr.model.LrclrConfig.axis_sizes`.
"""


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph.

    Attributes:
        name: its name in the ONNX file, in Triton and in `Engine.run`.
        dtype: NumPy's name of the type.
        axes: size or name of each axis; see `DYNAMIC` and `lrclr.model.LrclrConfig.axis_sizes`.
        meaning: what it holds.
    """

    name: str
    dtype: Literal["float32", "int64"]
    axes: tuple[int | str, ...]
    meaning: str


@dataclass(frozen=True)
class Graph:
    """One of the three graphs.

    Attributes:
        name: name of the graph and of its Triton model.
        inputs, outputs: its tensors, in order.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(tensor.name for tensor in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(tensor.name for tensor in self.outputs)


_PIXELS = Tensor("pixel_values", "float32", ("batch", 3, "image_size", "image_size"), "preprocessed images")
_IDS = Tensor("input_ids", "int64", ("prompts", "length"), "token numbers of prompts, padded to one length")
_REGION_TOKENS = Tensor(
    "region_tokens",
    "float32",
    ("batch", "rows", "vision_width"),
    "hidden states of the global token, which is CLS where there is one, then of the selected regions",
)
_TEXT_TOKENS = Tensor("text_tokens", "float32", ("prompts", "tokens", "text_width"), "hidden states of the tokens")

GRAPHS: Final[Mapping[str, Graph]] = MappingProxyType(
    {
        graph.name: graph
        for graph in (
            Graph(
                "image_encoder",
                (_PIXELS,),
                (
                    Tensor("image_embedding", "float32", ("batch", "projection"), "of unit length"),
                    _REGION_TOKENS,
                    Tensor("region_index", "int64", ("batch", "regions"), "patch number of each region, row-major"),
                    Tensor("region_importance", "float32", ("batch", "regions"), "attention rollout on it"),
                ),
            ),
            Graph(
                "text_encoder",
                (_IDS,),
                (
                    Tensor("text_embedding", "float32", ("prompts", "projection"), "of unit length"),
                    replace(_TEXT_TOKENS, axes=("prompts", "length", "text_width")),
                ),
            ),
            Graph(
                "fusion_head",
                (
                    _REGION_TOKENS,
                    _TEXT_TOKENS,
                    Tensor("text_mask", "int64", ("prompts", "tokens"), "1 up to the end of each prompt, then 0"),
                ),
                (
                    Tensor("local_score", "float32", ("batch", "prompts"), "of each pair of image and prompt"),
                    Tensor("region_attention", "float32", ("batch", "prompts", "regions"), "sums to 1 over regions"),
                ),
            ),
        )
    }
)
"""The graphs by name, in the order in which a request runs them."""


@dataclass(frozen=True)
class ModelNames:
    """Names and version of a bundle's models in Triton. They are also the names of the bundle's folders.

    A server cannot have two models of one name. Bundles with different prefixes can be served side by side.

    Attributes:
        prefix: stands before each name: letters, digits, ``_`` and ``-``, beginning with a letter, or nothing.
        version: number of the models' version.
        members: number of members of an ensemble, each of which has its own graphs; 0 for a single network.

    Raises:
        UsageError: Triton cannot have such a name or version.
    """

    prefix: str = ""
    version: int = 1
    members: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not _PREFIX.fullmatch(self.prefix):
            raise UsageError(
                f"the models' names cannot begin with {str(self.prefix)[:40]!r}",
                why="a prefix has up to 40 letters, digits, _ and -, and begins with a letter",
            )
        if isinstance(self.version, bool) or not isinstance(self.version, int) or not 1 <= self.version < 2**31:
            raise UsageError(f"a model cannot have the version {str(self.version)[:40]}", fix="Give a number from 1.")
        if isinstance(self.members, bool) or not isinstance(self.members, int) or not 0 <= self.members <= MOST_MEMBERS:
            raise UsageError(
                f"an ensemble cannot have {str(self.members)[:40]} members",
                fix=f"Give up to {MOST_MEMBERS} checkpoints.",
            )

    @property
    def classifier(self) -> str:
        """Name of the model that answers for files."""
        return self.prefix + MODEL

    @property
    def of_members(self) -> tuple[ModelNames, ...]:
        """Names of each member of an ensemble, in order; of a single network these names alone."""
        if not self.members:
            return (self,)
        return tuple(ModelNames(f"{self.prefix}m{number}_", self.version) for number in range(1, self.members + 1))

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs' models, in the order of `GRAPHS`; of an ensemble those of each member in turn."""
        return tuple(names.of(graph) for names in self.of_members for graph in GRAPHS)

    @property
    def all(self) -> tuple[str, ...]:
        """Names of all models: the graphs', then the classifier's."""
        return (*self.graphs, self.classifier)

    def of(self, graph: str) -> str:
        """Name of a graph's model. An ensemble has no graph of its own: see `of_members`."""
        return self.prefix + graph

    def folder(self, model: str) -> str:
        """Folder of a model's version, from the bundle's."""
        return f"{model}/{self.version}"

    def to_dict(self) -> dict[str, Any]:
        """In JSON's types. A single network has no ``members``."""
        content = {"prefix": self.prefix, "version": self.version}
        return {**content, "members": self.members} if self.members else content


_PREFIX: Final = re.compile(r"(?:[A-Za-z][A-Za-z0-9_-]{0,39})?")
