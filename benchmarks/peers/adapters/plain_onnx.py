"""`torch.onnx.export` as documented, and ONNX Runtime on the two graphs, with the CPU or the OpenVINO provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.peers.works import Opening, Works, tower_works

if TYPE_CHECKING:
    from pathlib import Path


def prepare(folder: Path) -> None:
    """Write ``onnx/image.onnx`` and ``onnx/text.onnx``; other peers read them too."""
    import torch
    from torch import nn
    from transformers import CLIPModel

    class Image(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: torch.Tensor) -> Any:
            return self.model.get_image_features(pixel_values=pixel_values).pooler_output

    class Text(nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor) -> Any:
            return self.model.get_text_features(input_ids=input_ids).pooler_output

    model = CLIPModel.from_pretrained(folder / "hf").eval()
    (folder / "onnx").mkdir(exist_ok=True)
    size = model.config.vision_config.image_size
    end = model.config.text_config.eos_token_id
    ids = torch.full((3, 9), end)
    for module, example, name, dynamic in (
        (Image(model).eval(), torch.zeros(2, 3, size, size), "image", {0: "batch"}),
        (Text(model).eval(), ids, "text", {0: "prompts", 1: "tokens"}),
    ):
        program = torch.onnx.export(
            module, (example,), dynamo=True, dynamic_shapes=(dynamic,), verbose=False, external_data=False
        )
        assert program is not None
        program.save(folder / "onnx" / f"{name}.onnx", external_data=False)


def open_works(opening: Opening) -> Works:
    """Options: ``provider`` of ONNX Runtime."""
    import onnxruntime

    inputs, folder = opening.inputs, opening.folder / "onnx"
    provider = opening.options["provider"]
    options: dict[str, str] = {}
    if provider == "OpenVINOExecutionProvider":
        options = {"device_type": "CPU", "precision": "FP32"}
    sessions: dict[str, Any] = {}

    def run(graph: str, feed: Any) -> Any:
        if graph not in sessions:
            session = onnxruntime.InferenceSession(folder / f"{graph}.onnx", providers=[(provider, options)])
            if session.get_providers()[0] != provider:
                raise RuntimeError(f"ONNX Runtime has only {', '.join(session.get_providers())}, not {provider}")
            sessions[graph] = session
        session = sessions[graph]
        return session.run(None, {session.get_inputs()[0].name: feed})[0]

    return tower_works(inputs, run)
