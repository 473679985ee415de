"""Writes an ONNX model with its weights into one file, without a copy of all weights in memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

import onnx
import onnx_ir as ir
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

SMALL_WEIGHT: Final = 1024
"""Smallest weight that is written beside the rest of the model, in bytes."""
_COPIED_AT_ONCE: Final = 2**24


def save_as_one_file(model: ir.Model, path: Path) -> None:
    """As `ir.save` without external data, which needs 4.7 times the weights in memory (measured with 0.34 GB).

    The weights are first written to a file of their own, and then copied to their places in the message. A message in
    protobuf begins with its length, and its fields may have any order.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        scratch = Path(folder) / path.name
        ir.save(model, scratch, external_data="weights", size_threshold_bytes=SMALL_WEIGHT)
        shell = onnx.load_model(scratch, load_external_data=False)
        graph = onnx.GraphProto()
        graph.CopyFrom(shell.graph)
        shell.ClearField("graph")
        large = [tensor for tensor in graph.initializer if uses_external_data(tensor)]
        small = [tensor for tensor in graph.initializer if not uses_external_data(tensor)]
        del graph.initializer[:]
        graph.initializer.extend(small)
        parts: list[tuple[bytes, int, int]] = []
        for tensor in large:
            place = ExternalDataInfo(tensor)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
            content = tensor.SerializeToString() + _length_delimited(onnx.TensorProto, "raw_data", place.length)
            size = len(content) + place.length
            parts.append(
                (_length_delimited(onnx.GraphProto, "initializer", size) + content, place.offset, place.length)
            )
        head = graph.SerializeToString()
        total = len(head) + sum(len(content) + length for content, _, length in parts)
        with path.open("wb") as file, scratch.with_name("weights").open("rb") as weights:
            file.write(shell.SerializeToString() + _length_delimited(onnx.ModelProto, "graph", total) + head)
            for content, offset, length in parts:
                file.write(content)
                weights.seek(offset)
                for start in range(0, length, _COPIED_AT_ONCE):
                    file.write(weights.read(min(_COPIED_AT_ONCE, length - start)))


def _length_delimited(message: Any, field: str, length: int) -> bytes:
    """Tag and length of a field of a protobuf message (wire type 2 of its encoding)."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
