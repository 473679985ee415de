"""Text towers of the BERT kind: their configuration from their tensors, and older names of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lrclr.checkpoints.families._family import heads_of, number_of_layers, renamed, require_names

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_NEEDED: Final = (
    "text_model.embeddings.word_embeddings.weight",
    "text_model.embeddings.position_embeddings.weight",
    "text_model.embeddings.token_type_embeddings.weight",
    "text_model.encoder.layer.0.intermediate.dense.weight",
)


def renamed_bert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without buffers, and with LayerNorm's parameters under their present names."""
    return renamed(
        state,
        (
            (r".*\.(position_ids|token_type_ids)", ""),
            (r"(.*LayerNorm)\.gamma", r"\1.weight"),
            (r"(.*LayerNorm)\.beta", r"\1.bias"),
        ),
    )


def bert_config(
    state: Mapping[str, Tensor], name: str, heads: int | None, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """The fields of a text tower's configuration, and what was assumed.

    Args:
        state: tensors under lrclr's names.
        name: of the original network, such as ``roberta-base``; it tells BERT and RoBERTa apart.
        heads: that the caller gave.
        folder: for errors.
    """
    require_names(state, _NEEDED, folder)
    vocabulary, width = state[_NEEDED[0]].shape
    roberta = "roberta" in name.lower()
    kind = "xlm-roberta" if "xlm" in name.lower() and roberta else "roberta" if roberta else "bert"
    count, eps = heads_of(width, heads, folder, "text"), 1e-5 if roberta else 1e-12
    fields = {
        "model_type": kind,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": number_of_layers(state, r"text_model\.encoder\.layer\.(\d+)"),
        "num_attention_heads": count,
        "intermediate_size": state[_NEEDED[3]].shape[0],
        "max_position_embeddings": state[_NEEDED[1]].shape[0],
        "type_vocab_size": state[_NEEDED[2]].shape[0],
        "layer_norm_eps": eps,
        "hidden_act": "gelu",
        "pad_token_id": 1 if roberta else 0,
    }
    assumed = [f"text tower: {kind}, activation gelu, layer norm epsilon {eps}"]
    if heads is None:
        assumed.append(f"attention heads: {count} (text), of width {width // count}")
    return fields, assumed
