"""The inputs of the gates, and what the PyTorch model makes of them in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lrclr.classifier import ZeroShotClassifier
from lrclr.gates import Golden, task_auroc
from lrclr.images import read_image
from lrclr.model import Regions, rollout_cls_row, select_regions
from lrclr.preprocess import preprocess_batch
from lrclr.samples import sample_paths
from lrclr.scoring import ScoreCalibration, combined_score, global_score, probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.checkpoints import Checkpoint

# Short, long, empty, other scripts, emoji, and one that has to be cut: what a user's prompts will be.
ODD_PROMPTS = (
    "",
    "x",
    "Pleural effusion",
    "épanchement pleural droit, sans pneumothorax",
    "両側下肺野に浸潤影を認める",
    "🫁 opacity",
    "There is a moderate right pleural effusion with adjacent compressive atelectasis; the heart is enlarged.",
    "no acute cardiopulmonary abnormality " * 40,
)


def gate_images() -> list[NDArray[np.uint8]]:
    """The bundled radiographs, and the middle of each: eight real images of eight sizes."""
    images = []
    for path in sample_paths():
        image = read_image(path)
        height, width = image.shape
        middle = image[height // 8 : -height // 8, width // 10 : -width // 10]
        images += [image, np.ascontiguousarray(middle)]
    return images


def golden_from_checkpoint(checkpoint: Checkpoint) -> Golden:
    """Run the PyTorch model, in float32, on the gates' inputs."""
    model, findings = checkpoint.model, checkpoint.findings
    pixel_values = preprocess_batch(gate_images(), checkpoint.preprocess)
    prompts = [*findings.prompts, *ODD_PROMPTS]
    tokens = checkpoint.tokenizer.encode(prompts, truncate=True)
    rollouts: list[Tensor] = []

    def recording_select(maps: Sequence[Tensor], rows: Tensor, top_k: int, mean: bool) -> Regions:
        rollouts.append(rollout_cls_row(maps, mean=mean))
        return select_regions(maps, rows, top_k, mean)

    mask = torch.from_numpy(tokens.mask)
    with torch.inference_mode():
        image = model.encode_image(torch.from_numpy(pixel_values), select=recording_select)
        text = model.encode_text(torch.from_numpy(tokens.input_ids))
        local, attention = model.fusion_head(image.regions.tokens, text.tokens, mask)
    score = combined_score(
        global_score(_array(image.embedding), _array(text.embedding)), _array(local), model.config.effective_alpha
    )
    return Golden(
        pixel_values=pixel_values,
        input_ids=tokens.input_ids,
        text_mask=tokens.mask,
        image_embedding=_array(image.embedding),
        region_tokens=_array(image.regions.tokens),
        region_index=_array(image.regions.index),
        region_importance=_array(image.regions.importance),
        rollout=_array(rollouts[0]),
        text_embedding=_array(text.embedding),
        text_tokens=_array(text.tokens * mask.unsqueeze(-1)),
        local_score=_array(local),
        region_attention=_array(attention),
        probabilities=probabilities(
            score[:, : len(findings.prompts)],
            findings,
            *ScoreCalibration.from_dict(model.config.to_dict()).of(findings, findings),
        ),
        task_auroc=np.array(task_auroc(ZeroShotClassifier.from_checkpoint(checkpoint)), np.float32),
    )


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.numpy()
    return array
