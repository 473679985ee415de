"""The loss: global and local contrastive loss of a batch, which may be computed in pieces."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, distributed, nn
from torch.utils.checkpoint import checkpoint

from lrclr.errors import UsageError
from lrclr.model.contrastive import contrastive_loss, word_region_score
from lrclr.model.regions import select_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lrclr.model import LrclrModel
    from lrclr.model.regions import Regions

LocalLoss = Literal["none", "pair", "pair+words"]


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Settings of the loss.

    Attributes:
        local: ``"pair"`` is the contrastive loss over the fusion head's scores; ``"pair+words"`` adds one over the
            alignment of words and regions at the input of the fusion head; ``"none"`` is CheXzero's loss, without the
            fusion head.
        local_weight: weight of the local loss; the global one has 1.
        encode_at_once: images and texts that are encoded with their activations in memory; 0 for all. The loss is that
            of the whole batch in any case; each piece is encoded twice.
        pairs_at_once: image-text pairs in the fusion head with their activations in memory; 0 for all.
    """

    local: LocalLoss = "pair"
    local_weight: float = 1.0
    encode_at_once: int = 0
    pairs_at_once: int = 4096

    def __post_init__(self) -> None:
        if self.local not in ("none", "pair", "pair+words"):
            raise UsageError(f"unknown local loss {self.local!r}", fix="Choose none, pair or pair+words.")
        if not 0 <= self.local_weight < math.inf:
            raise UsageError("the weight of the local loss must be a number of 0 or more")
        if self.encode_at_once < 0 or self.pairs_at_once < 0:
            raise UsageError("the size of a piece must not be below 0")


class ContrastiveTask(nn.Module):
    """A network with the loss of the batch of all processes as its forward pass.

    Under `torch.distributed` every process passes its part of the batch. Embeddings, text tokens and fused scores are
    gathered with their gradients, each process fuses its own images with all texts, and each computes the whole loss.
    With gradients averaged over the processes, as DistributedDataParallel does, a step equals that of one process with
    the whole batch.
    """

    def __init__(self, model: LrclrModel, settings: LossSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def forward(
        self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor, text_key: Tensor
    ) -> dict[str, Tensor]:
        """The loss of a batch in which image i belongs to text i.

        Args:
            pixel_values: ``[B, 3, H, W]``.
            input_ids: ``[B, T]``.
            attention_mask: ``[B, T]``.
            text_key: ``[B]`` or ``[B, K]`` int64. Two images with an equal key in a column are not negatives of each
                other.

        Returns:
            ``loss``, and its parts ``global_loss`` and, with a local loss, ``local_loss``, detached.
        """
        return self.loss(*self.encode_images(pixel_values), input_ids, attention_mask, text_key)

    def encode_images(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings ``[B, D]`` and region tokens ``[B, 1+R, D_image]``, in pieces of `encode_at_once`."""
        embedding, regions = _in_pieces(self._encode_image, self.settings.encode_at_once, pixel_values)
        return embedding, regions

    def loss(
        self, image: Tensor, regions: Tensor, input_ids: Tensor, attention_mask: Tensor, text_key: Tensor
    ) -> dict[str, Tensor]:
        """`forward` from the outputs of `encode_images`, so that images that are also scored are encoded once."""
        settings = self.settings
        input_ids, mask = _same_length(input_ids, attention_mask, self.model.config.tokenizer_option("pad_id"))
        text, words = _in_pieces(self._encode_text, settings.encode_at_once, input_ids)
        key = _gathered(text_key.reshape(len(text_key), -1))
        same = (key[:, None] == key[None, :]).any(-1)
        scale = self.model.logit_scale.exp().float()
        total = contrastive_loss(_product(scale * _gathered(image), _gathered(text)), same)
        result = {"global_loss": total.detach()}
        if settings.local != "none" and settings.local_weight > 0:
            local = self._local_loss(regions, _gathered(words), _gathered(mask), same, scale)
            total = total + settings.local_weight * local
            result["local_loss"] = local.detach()
        return {"loss": total, **result}

    def _encode_image(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        encoding = self.model.encode_image(pixel_values, select=_select_in_float32)
        return encoding.embedding, encoding.regions.tokens

    def _encode_text(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        encoding = self.model.encode_text(input_ids)
        return encoding.embedding, encoding.tokens

    def fused(self, regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Local scores ``[B, P]`` of some texts, in pieces of `pairs_at_once`."""
        scores = _in_pieces(lambda some: (self.model.fusion_head(some, words, mask)[0],), self._images(words), regions)
        return scores[0]

    def _images(self, words: Tensor) -> int:
        """Images whose pairs with all texts are fused at once; 0 for all."""
        at_once = self.settings.pairs_at_once
        return max(1, at_once // len(words)) if at_once else 0

    def _local_loss(self, regions: Tensor, words: Tensor, mask: Tensor, same: Tensor, scale: Tensor) -> Tensor:
        def score(some: Tensor) -> tuple[Tensor, ...]:
            fused = self.model.fusion_head(some, words, mask)[0]
            return (fused, self._alignment(some, words, mask)) if self.settings.local == "pair+words" else (fused,)

        scores = _in_pieces(score, self._images(words), regions)
        return torch.stack([contrastive_loss(scale * _gathered(part), same) for part in scores]).mean()

    def _alignment(self, regions: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        head = self.model.fusion_head
        # Without the global token and the markers of beginning and end.
        end = mask.sum(-1, keepdim=True) - 1
        position = torch.arange(mask.shape[1], device=mask.device)
        inner = (position >= int(self.model.config.tokenizer_option("has_bos"))) & (position < end)
        image = head.image_projection(head.image_norm(regions[:, 1:]))
        text = head.text_projection(words)
        with _no_autocast(image):
            return word_region_score(image, text, inner)


def _in_pieces(function: Callable[[Tensor], tuple[Tensor, ...]], size: int, batch: Tensor) -> tuple[Tensor, ...]:
    """`function` over a batch, piece by piece; activations of a piece are computed again for its gradient."""
    if size == 0 or size >= len(batch):
        return function(batch)
    parts = [checkpoint(function, piece, use_reentrant=False) for piece in torch.split(batch, size)]
    return tuple(torch.cat(outputs) for outputs in zip(*parts, strict=True))


def _no_autocast(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right.T`` in float32: half precision rounds scaled cosines by up to a third."""
    with _no_autocast(left):
        return left.float() @ right.float().t()


def _select_in_float32(maps: Sequence[Tensor], tokens: Tensor, top_k: int, mean: bool, prefix: int = 1) -> Regions:
    """`select_regions` in float32: in half precision it selects other patches."""
    with _no_autocast(tokens):
        return select_regions(maps, tokens, top_k, mean, prefix)


def _processes() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _gathered(tensor: Tensor) -> Tensor:
    """The parts of all processes in order, with gradients."""
    if _processes() == 1:
        return tensor
    gathered: Tensor = _Gather.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered


def _same_length(input_ids: Tensor, mask: Tensor, pad_id: int) -> tuple[Tensor, Tensor]:
    """Texts padded to the longest of any process."""
    if _processes() == 1:
        return input_ids, mask
    longest = torch.tensor(input_ids.shape[1], device=input_ids.device)
    distributed.all_reduce(longest, distributed.ReduceOp.MAX)
    more = (0, int(longest) - input_ids.shape[1])
    return nn.functional.pad(input_ids, more, value=pad_id), nn.functional.pad(mask, more)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(_processes())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        start = distributed.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]
