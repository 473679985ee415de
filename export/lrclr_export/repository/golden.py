"""Golden data: the inputs of the gates, and the outputs of the PyTorch network in float32."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrclr.bundle import Golden, GraphOutputs
from lrclr.inference import ScoreCalibration, ZeroShotClassifier, combined_score, global_score, probabilities
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
        global_score(outputs.image_embedding, outputs.text_embedding), outputs.local_score, config.effective_alpha
    )
    return Golden(
        **{field.name: getattr(outputs, field.name) for field in fields(GraphOutputs)},
        images_sha256=images_sha256(images),
        findings=findings.names,
        prompts=prompts,
        pixel_values=pixel_values,
        input_ids=tokens.input_ids,
        text_mask=tokens.mask,
        probabilities=probabilities(
            score[:, : len(findings.prompts)],
            findings,
            *calibration.of(findings, findings),
            calibration.threshold,
        ),
        task_auroc=np.array(task_auroc(ZeroShotClassifier.from_checkpoint(checkpoint)), np.float32),
        stored=None if stored is None else _outputs(stored, pixel_values, tokens),
    )


def _outputs(model: LrclrModel, pixel_values: NDArray[np.float32], tokens: TokenBatch) -> GraphOutputs:
    rollouts: list[Tensor] = []

    def recording_select(maps: Sequence[Tensor], rows: Tensor, top_k: int, mean: bool, prefix: int) -> Regions:
        rollouts.append(rollout_row(maps, mean=mean, prefix=prefix))
        return select_regions(maps, rows, top_k, mean, prefix)

    mask = torch.from_numpy(tokens.mask)
    with torch.inference_mode():
        image = model.encode_image(torch.from_numpy(pixel_values), select=recording_select)
        text = model.encode_text(torch.from_numpy(tokens.input_ids))
        local, attention = model.fusion_head(image.regions.tokens, text.tokens, mask)
    return GraphOutputs(
        image_embedding=_array(image.embedding),
        region_tokens=_array(image.regions.tokens),
        region_index=_array(image.regions.index),
        region_importance=_array(image.regions.importance),
        rollout=_array(rollouts[0]),
        text_embedding=_array(text.embedding),
        text_tokens=_array(text.tokens * mask.unsqueeze(-1)),
        local_score=_array(local),
        region_attention=_array(attention),
    )


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()
    return array
