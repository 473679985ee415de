"""Data types of a plan's layers, from TensorRT's inspector or the log of its builder."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

_WORDS: Final = {
    "FLOAT": "float32",
    "FLOAT32": "float32",
    "FP32": "float32",
    "HALF": "float16",
    "FLOAT16": "float16",
    "FP16": "float16",
    "BFLOAT16": "bfloat16",
    "BF16": "bfloat16",
    "FP8": "float8",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
UNKNOWN: Final = "unknown"


def type_in_words(text: str) -> str:
    """The data type in a description of a tensor.

    Args:
        text: such as ``"Half"`` (TensorRT 11 and RTX) or ``"Row major linear FP16 format"`` (TensorRT 10).

    Returns:
        A name such as ``"float16"``; `UNKNOWN` if the description has none, such as ``"N/A due to dynamic shapes"`` of
        TensorRT 10.
    """
    words = re.findall(r"[A-Z]+\d*", text.upper())
    return next((_WORDS[word] for word in words if word in _WORDS), UNKNOWN)


def written_types(information: str) -> dict[str, int]:
    """Number of outputs of a plan's layers by type.

    Args:
        information: JSON of the engine inspector: of TensorRT 10, which gives a tensor's ``Format/Datatype``, or of
            TensorRT 11 and RTX, which give its ``Datatype``.

    Returns:
        Number by type. `UNKNOWN` stands for outputs without a type in the inspector.
    """
    found: Counter[str] = Counter()
    for layer in json.loads(information).get("Layers", ()):
        # A plan that was built without details has only names of layers.
        outputs = layer.get("Outputs", ()) if isinstance(layer, dict) else ()
        found.update(type_in_words(_described(output)) for output in outputs)
    return dict(sorted(found.items()))


def _described(tensor: Mapping[str, Any]) -> str:
    return str(tensor.get("Datatype", tensor.get("Format/Datatype", "")))
