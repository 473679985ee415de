"""The symmetric contrastive loss, and the word-region alignment score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["contrastive_loss", "word_region_score"]

_SHARPNESS = 10.0  # of a word's attention over regions: cosines span too little for a softmax of their own


def contrastive_loss(logits: Tensor, same_text: Tensor | None = None) -> Tensor:
    """Mean of the cross entropies image-to-text and text-to-image; image i belongs to text i.

    Args:
        logits: ``[B, B]``, scaled scores, images by texts.
        same_text: ``[B, B]`` bool, where two texts are equal. Such pairs do not count as negatives.
    """
    logits = logits.float()
    if same_text is not None:
        others = same_text & ~torch.eye(logits.shape[0], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(others, -torch.inf)
    target = torch.arange(logits.shape[0], device=logits.device)
    return (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.t(), target)) / 2


def word_region_score(regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    """How well the words of each text find a region of their own in each image, in [-1, 1].

    A word attends to the regions by its cosines with them; its score is its cosine with what it attended to; a text's
    is the mean over its words. The late interaction of GLoRIA (Huang et al., 2021), over selected regions only.

    Args:
        regions: ``[B, R, W]``.
        words: ``[P, T, W]``.
        mask: ``[P, T]``, 1 for tokens that count.

    Returns:
        ``[B, P]``, float32.
    """
    regions, words = nn.functional.normalize(regions.float(), dim=-1), nn.functional.normalize(words.float(), dim=-1)
    cosine = torch.einsum("brw,ptw->bptr", regions, words)
    weight = torch.softmax(_SHARPNESS * cosine, dim=-1)
    # The cosine with the attended mean, without building it for every pair: its length from the regions' Gram matrix.
    gram = torch.einsum("brw,bsw->brs", regions, regions)
    length = torch.einsum("bptr,brs,bpts->bpt", weight, gram, weight).clamp_min(1e-6).sqrt()
    of_word = (weight * cosine).sum(-1) / length
    counted = mask.to(of_word.dtype)
    return (of_word * counted).sum(-1) / counted.sum(-1).clamp_min(1)
