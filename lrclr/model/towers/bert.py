"""BERT, RoBERTa and XLM-RoBERTa as text towers, pooled at their first token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import (
    BertConfig,
    BertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from lrclr.model.towers.tower import LinearGroup, TextTower

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from lrclr.model.towers.tower import NetworkConfig


class _BertLike(TextTower):
    """A transformer that attends to every token but padding.

    Padding is recognised by its token number, which no prompt may hold otherwise: the tokenizer refuses it. Token types
    are 0.
    """

    causal = False
    _positions_used: ClassVar[bool] = False

    @classmethod
    def build(cls, config: NetworkConfig) -> _BertLike:
        # Towers are subclasses of a transformers class with this signature.
        tower = cls(config.text_config, add_pooling_layer=config.text_pooler)
        tower.pad_id = config.text_config.pad_token_id
        return tower

    @classmethod
    def longest(cls, config: Any) -> int:
        # RoBERTa counts positions from the one after that of padding.
        taken = config.pad_token_id + 1 if cls._positions_used else 0
        return int(config.max_position_embeddings) - taken

    def encode(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.embeddings(input_ids=input_ids)
        floor = torch.full((), torch.finfo(torch.float32).min, device=hidden.device)
        mask = torch.where((input_ids == self.pad_id)[:, None, None, :], floor, torch.zeros_like(floor))
        for layer in self.encoder.layer:
            hidden = layer(hidden, mask)
        return hidden[:, 0] if self.pooler is None else self.pooler(hidden), hidden

    def linear_groups(self) -> Iterator[LinearGroup]:
        # What a LayerNorm gives is also what is added after the next sublayer, so no group has one to itself.
        for number in range(len(self.encoder.layer)):
            block = f"encoder.layer.{number}"
            attention = tuple(f"{block}.attention.self.{name}" for name in ("query", "key", "value"))
            yield LinearGroup(f"{block}.attention.qkv", attention, None)
            for name in ("attention.output.dense", "intermediate.dense", "output.dense"):
                yield LinearGroup(f"{block}.{name}", (f"{block}.{name}",), None)


class BertText(_BertLike, BertModel):  # type: ignore[misc]
    """`_BertLike` with BERT's embeddings."""

    config_class = BertConfig


class RobertaText(_BertLike, RobertaModel):  # type: ignore[misc]
    """`_BertLike` with RoBERTa's embeddings, whose positions count tokens that are not padding."""

    config_class = RobertaConfig
    _positions_used = True


class XlmRobertaText(_BertLike, XLMRobertaModel):  # type: ignore[misc]
    """As `RobertaText`."""

    config_class = XLMRobertaConfig
    _positions_used = True
