"""OpenVINO on the plain graphs: in float32, in bfloat16, or quantised by NNCF."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.peers.works import Inputs, Opening, Works, tower_works

if TYPE_CHECKING:
    from pathlib import Path

_CALIBRATION = 32


def prepare(folder: Path) -> None:
    """Quantise both graphs with NNCF's defaults for transformers, on other inputs than those that are compared."""
    import nncf
    import openvino

    inputs = Inputs.load(folder)
    core = openvino.Core()
    (folder / "int8").mkdir(exist_ok=True)
    for graph, data in (("image", _other_images(inputs)), ("text", _other_prompts(inputs))):
        dataset = nncf.Dataset(data)
        model = nncf.quantize(
            core.read_model(folder / "onnx" / f"{graph}.onnx"),
            dataset,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(data),
        )
        openvino.save_model(model, folder / "int8" / f"{graph}.xml", compress_to_fp16=False)


def open_works(opening: Opening) -> Works:
    """Options: ``precision``: ``"f32"``, ``"bf16"`` or ``"int8"``."""
    import openvino

    inputs, precision = opening.inputs, opening.options["precision"]
    core = openvino.Core()
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    models: dict[str, Any] = {}

    def run(graph: str, feed: Any) -> Any:
        if graph not in models:
            file = f"int8/{graph}.xml" if precision == "int8" else f"onnx/{graph}.onnx"
            models[graph] = core.compile_model(opening.folder / file, "CPU", hints)
        return models[graph](feed)[0]

    return tower_works(inputs, run)


def _other_images(inputs: Inputs) -> list[Any]:
    """The compared images, mirrored, shifted and darkened."""
    rng = np.random.default_rng(0)
    low, high = float(inputs.pixel_values.min()), float(inputs.pixel_values.max())
    made = []
    for number in range(_CALIBRATION):
        image = inputs.pixel_values[number % len(inputs.pixel_values)]
        image = np.roll(image[:, :, ::-1], tuple(rng.integers(-20, 20, 2)), (1, 2))
        image = low + (image - low) * rng.uniform(0.7, 1.1)
        made.append(np.ascontiguousarray(np.clip(image, low, high)[None], np.float32))
    return made


def _other_prompts(inputs: Inputs) -> list[Any]:
    """Words of the prompts in random order, each prompt between begin-of-text and end-of-text."""
    rng = np.random.default_rng(0)
    begin, end = inputs.ids[0, 0], inputs.ids.max()
    words = np.setdiff1d(inputs.ids, [begin, end, 0])
    return [
        np.concatenate([[begin], rng.choice(words, size), [end]]).astype(np.int64)[None]
        for size in rng.integers(1, inputs.ids.shape[1] - 1, _CALIBRATION)
    ]
