"""Removes weights from graphs and keeps names, types and shapes; fills in random values on the GPU machine.

Speed does not depend on the values if their size is usual. Each tensor gets normal values with the mean and standard
deviation of the original. Small tensors stay in the graph.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DESCRIPTION", "fill_weights", "strip_weights"]

DESCRIPTION: Final = "weights.json"
_DATA: Final = "weights.bin"
_ABOVE: Final = 1 << 16  # bytes; biases and norms stay
_ALIGNMENT: Final = 4096


def strip_weights(source: Path, target: Path) -> None:
    """Write ``model.onnx`` and a description of its large tensors to the folder `target`.

    Args:
        source: an ONNX file; its weights may lie beside it.
        target: a folder, which is made.
    """
    import onnx
    from onnx import numpy_helper
    from onnx.external_data_helper import set_external_data

    model = onnx.load(source)
    described, offset = [], 0
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.nbytes <= _ABOVE or values.dtype.kind != "f":
            continue
        wide = values.astype(np.float64)
        described.append(
            {
                "name": tensor.name,
                "dtype": values.dtype.name,
                "count": values.size,
                "offset": offset,
                "mean": float(wide.mean()),
                "std": float(wide.std()),
            }
        )
        tensor.ClearField("raw_data")
        tensor.raw_data = b""
        set_external_data(tensor, _DATA, offset, values.nbytes)
        tensor.ClearField("raw_data")
        offset += -(-values.nbytes // _ALIGNMENT) * _ALIGNMENT
    target.mkdir(parents=True, exist_ok=True)
    (target / "model.onnx").write_bytes(model.SerializeToString())
    (target / DESCRIPTION).write_text(json.dumps({"bytes": offset, "tensors": described}, indent=1) + "\n")


def fill_weights(folder: Path, *, seed: int = 0) -> int:
    """Write random weights beside the graph in `folder`; the same seed gives the same values.

    Returns:
        The number of bytes written.
    """
    description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())
    with (folder / _DATA).open("wb") as file:
        file.truncate(description["bytes"])
        for number, tensor in enumerate(description["tensors"]):
            random = np.random.default_rng([seed, number])
            values = random.standard_normal(tensor["count"], dtype=np.float32)
            values *= np.float32(tensor["std"])
            values += np.float32(tensor["mean"])
            file.seek(tensor["offset"])
            file.write(values.astype(tensor["dtype"]).tobytes())
    return int(description["bytes"])
