"""Golden data: the inputs of the gates, and the outputs of the PyTorch network in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrclr.bundle import Golden
from lrclr.contract import GRAPHS
from lrclr.inference import ScoreCalibration, ZeroShotClassifier, combined_score, global_score
from lrclr.model import Regions, rollout_row, select_regions
from lrclr.preprocessing import preprocess_batch
from lrclr.verification import gate_images, gate_prompts, images_sha256, task_auroc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.checkpoints import Checkpoint
    from lrclr.model import LrclrModel
    from lrclr.text import TokenBatch


def golden_from_checkpoint(checkpoint: Checkpoint, *, stored: LrclrModel | None = None) -> Golden:
    """Run the PyTorch network in float32 on the inputs of the gates.

    Args:
        checkpoint: the network.
        stored: the network in float32 with the rounded weights of the graphs, if they are rounded.
    """
    findings, config = checkpoint.findings, checkpoint.config
    calibration = ScoreCalibration.from_dict(config.to_dict())
    images = gate_images()
    pixel_values = preprocess_batch(images, checkpoint.preprocess)
    prompts = gate_prompts(findings, checkpoint.tokenizer.context_length)
    tokens = checkpoint.tokenizer.encode(prompts, truncate=True)
    outputs = _outputs(checkpoint.model, pixel_values, tokens)
    score = combined_score(
        global_score(outputs["image_embedding"], outputs["text_embedding"]),
        outputs["local_score"],
        config.effective_alpha,
    )
    return Golden(
        tensors={
            "pixel_values": pixel_values,
            "input_ids": tokens.input_ids,
            "text_mask": tokens.mask,
            **outputs,
        },
        images_sha256=images_sha256(images),
        findings=findings.names,
        prompts=prompts,
        probabilities=calibration.probabilities(score[:, : len(findings.prompts)], findings, findings),
        task_auroc=np.array(task_auroc(ZeroShotClassifier.from_checkpoint(checkpoint)), np.float32),
        stored=None if stored is None else _outputs(stored, pixel_values, tokens),
    )


def _outputs(model: LrclrModel, pixel_values: NDArray[np.float32], tokens: TokenBatch) -> dict[str, NDArray[Any]]:
    """Outputs of all graphs, and ``rollout``."""
    rollouts: list[Tensor] = []

    def recording_select(maps: Sequence[Tensor], rows: Tensor, top_k: int, mean: bool, prefix: int) -> Regions:
        rollouts.append(rollout_row(maps, mean=mean, prefix=prefix))
        return select_regions(maps, rows, top_k, mean, prefix)

    mask = torch.from_numpy(tokens.mask)
    tensors = {
        "pixel_values": torch.from_numpy(pixel_values),
        "input_ids": torch.from_numpy(tokens.input_ids),
        "text_mask": mask,
    }
    outputs: dict[str, Tensor] = {}
    with torch.inference_mode():
        for graph in GRAPHS:
            outputs |= model.run_graph(graph, tensors | outputs, select=recording_select)
    outputs["text_tokens"] = outputs["text_tokens"] * mask.unsqueeze(-1)
    return {name: tensor.numpy() for name, tensor in {**outputs, "rollout": rollouts[0]}.items()}
