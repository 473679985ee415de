"""The builder's record of a plan: layers with types, and memory.

The builder writes the layers of the finished plan into its verbose log, also on a machine without a GPU. The engine
inspector gives the same for a loaded plan, which needs a GPU.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from lrclr.engines._layer_types import UNKNOWN, type_in_words

_LAYERS: Final = "Layers:"
_ACTIVATIONS: Final = re.compile(r"Total Activation Memory: (\d+)")
_LAYER: Final = re.compile(
    r"Name: (?P<name>.+?), LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>| \{.*?\})\]"
    r"(?:, Constants: \[(?: \{.*?\})?\])?, Outputs: \[(?P<outputs>| \{.*?\})\](?P<rest>.*)"
)
_TYPE: Final = re.compile(r"\b(?:Format/)?Datatype: ([^,}]*)")
# TensorRT's compiler numbers the parts of the network. All layers of a part belong to one profile.
_PART: Final = re.compile(r"_myl(\d+)")
_PROFILE: Final = re.compile(r"\[profile (\d+)\]")
_TACTIC: Final = re.compile(r"\bTacticName: ([^,]*)")
# Such as _gemm_mha_v2 (multi-head attention) and fmha_v2 (fused multi-head attention).
_FUSED_ATTENTION: Final = re.compile(r"(?<![a-z])(?:gemm_|f)?mha(?![a-z])")
_PRODUCTS: Final = frozenset({"convolution", "correlation", "gemm", "matrixmultiply", "runtime_fusion"})
# Layers without a kernel launch on the GPU.
_NO_LAUNCH: Final = frozenset({"constant", "noop", "shape_call", "signal", "wait"})


@dataclass(frozen=True)
class BuiltLayer:
    """A layer of a finished plan.

    Attributes:
        name: name by the builder, made of the names of the fused layers.
        kind: such as ``"gemm"`` or ``"kgen"``, a generated kernel.
        profile: number of its optimisation profile.
        inputs, outputs: types of inputs, without weights, and of outputs; ``"unknown"`` if the builder gives none.
        fused_attention: whether it is a whole attention: both products and the softmax.
    """

    name: str
    kind: str
    profile: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    fused_attention: bool

    @property
    def launches(self) -> bool:
        """Whether it launches a kernel on the GPU."""
        return self.kind.lower() not in _NO_LAUNCH


@dataclass(frozen=True)
class BuildRecord:
    """The builder's record of a plan.

    Attributes:
        layers: layers in the order in which they run; empty if the builder gave none.
        activation_bytes: device memory for values between layers, for each optimisation profile.
    """

    layers: tuple[BuiltLayer, ...] = ()
    activation_bytes: tuple[int, ...] = ()

    @classmethod
    def of_log(cls, messages: Iterable[str]) -> BuildRecord:
        """Read the messages of a build's log. Messages that do not describe the plan are ignored."""
        layers: tuple[BuiltLayer, ...] = ()
        activations = []
        for message in messages:
            if message.startswith(_LAYERS):
                layers = _layers(message)
            elif match := _ACTIVATIONS.match(message):
                activations.append(int(match[1]))
        return cls(layers, tuple(activations))

    @property
    def written_types(self) -> dict[str, int]:
        """Number of outputs of layers by type."""
        return _counted(type_ for layer in self.layers for type_ in layer.outputs)

    def to_dict(self) -> dict[str, Any]:
        """For the manifest, in JSON's types: launches, fused attention, memory and products by type, per profile."""
        of_profile: dict[int, list[BuiltLayer]] = defaultdict(list)
        for layer in self.layers:
            of_profile[layer.profile].append(layer)
        return {
            "layers_write": self.written_types,
            "profiles": [
                {
                    "launches": sum(layer.launches for layer in layers),
                    "fused_attention": sum(layer.fused_attention for layer in layers),
                    "products": _counted("+".join(sorted(set(layer.inputs))) for layer in layers if _product(layer)),
                    "activation_bytes": self.activation_bytes[number] if number < len(self.activation_bytes) else None,
                }
                for number, layers in sorted(of_profile.items())
            ],
        }


def describes_plan(message: str) -> bool:
    """Whether `BuildRecord.of_log` reads a message of the builder."""
    return message.startswith(_LAYERS) or _ACTIVATIONS.match(message) is not None


def _layers(message: str) -> tuple[BuiltLayer, ...]:
    lines = [line for line in message.splitlines() if _LAYER.match(line)]
    profiles: dict[str, int] = {}
    for line in lines:
        part = _part(line)
        numbers = [profiles.get(part, 0), *map(int, _PROFILE.findall(line))]
        profiles[part] = max(numbers)
    return tuple(_layer(line, profiles[_part(line)]) for line in lines)


def _layer(line: str, profile: int) -> BuiltLayer:
    match = _LAYER.match(line)
    assert match is not None  # noqa: S101 - for the type checker
    tactic = _TACTIC.search(match["rest"])
    named = f"{match['name']} {tactic[1] if tactic else ''}"
    return BuiltLayer(
        match["name"],
        match["kind"],
        profile,
        _types(match["inputs"]),
        _types(match["outputs"]),
        _FUSED_ATTENTION.search(named) is not None,
    )


def _part(line: str) -> str:
    """The part to which a layer belongs. A layer without a number of a part is a part of its own."""
    name = line.partition(", LayerType: ")[0]
    found = _PART.findall(name)
    return found[-1] if found else name


def _types(tensors: str) -> tuple[str, ...]:
    found = [_TYPE.search(tensor) for tensor in tensors.split("}, {")] if tensors else []
    return tuple(type_in_words(match[1]) if match else UNKNOWN for match in found)


def _product(layer: BuiltLayer) -> bool:
    return bool(layer.inputs) and (layer.kind.lower() in _PRODUCTS or layer.fused_attention)


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))
