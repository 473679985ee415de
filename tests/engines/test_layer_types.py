"""Types of the layers of a plan, in every form in which TensorRT's inspector writes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

# Private: the reader of the inspector's text is tested without a GPU.
from lrclr.engines._layer_types import UNKNOWN, type_in_words, written_types


def _information(*outputs: dict[str, str]) -> str:
    """JSON of the inspector: layers with one output each."""
    layers: list[Any] = [{"Name": f"layer {number}", "Outputs": [output]} for number, output in enumerate(outputs)]
    return json.dumps({"Layers": layers, "Bindings": ["pixel_values"]})


# The texts of TensorRT 10 are from its developer guide and from trt-engine-explorer, those of 11 from RTX 1.7.
@pytest.mark.parametrize(
    ("output", "type_"),
    [
        ({"Format/Datatype": "Row major linear FP32"}, "float32"),
        ({"Format/Datatype": "Row major linear FP16 format"}, "float16"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "float16"),
        ({"Format/Datatype": "Row major linear BFloat16 format"}, "bfloat16"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format/Datatype": "Row major linear INT64 format"}, "int64"),
        ({"Format/Datatype": "Row major linear Bool format"}, "bool"),
        ({"Format/Datatype": "Half"}, "float16"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, UNKNOWN),
        ({"Datatype": "Half", "Format": "(Linear) Row major linear format"}, "float16"),
        ({"Datatype": "Float", "Format": "(NHWC) Channel major format"}, "float32"),
        ({"Datatype": "BFloat16", "Format": "(Linear) Row major linear format"}, "bfloat16"),
        ({"Datatype": "Int8", "Format": "(Linear) Row major linear format"}, "int8"),
        ({"Datatype": "FP8", "Format": "(Linear) Row major linear format"}, "float8"),
        ({"Dimensions": "[1,3]"}, UNKNOWN),
    ],
)
def test_every_form_is_read(output: dict[str, str], type_: str) -> None:
    assert written_types(_information(output)) == {type_: 1}


def test_types_are_counted() -> None:
    half, whole = {"Datatype": "Half"}, {"Datatype": "Float"}
    unknown = {"Format/Datatype": "N/A due to dynamic shapes"}
    assert written_types(_information(half, whole, half, unknown)) == {"float16": 2, "float32": 1, UNKNOWN: 1}


@pytest.mark.parametrize("information", [{"Layers": ["conv", "softmax"]}, {"Layers": []}, {}, {"Layers": [{}]}])
def test_layers_without_types_are_accepted(information: dict[str, Any]) -> None:
    assert written_types(json.dumps(information)) == {}


@pytest.mark.parametrize("text", ["", "Halfway", "Floating", "n/a", "Int128"])
def test_an_unknown_text_has_no_type(text: str) -> None:
    assert type_in_words(text) == UNKNOWN
