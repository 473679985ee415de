"""Texts of open_clip's own networks: how they are cleaned, and at which token a prompt is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import Tokenizer

from lrclr.checkpoints import load_checkpoint
from lrclr.errors import CheckpointError
from lrclr.text import ClipTokenizer
from tests.families import networks

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from lrclr.checkpoints import Checkpoint

# Words of the BERT vocabulary that stand above its end token, in an order in which the last is not the highest.
PROMPTS = ["effusion no edema", "no  Edema", "Pleural_EFFUSION, at 50%!"]


def written(folder: Path, *, bert: bool, **text: Any) -> Any:
    """Write a folder of open_clip's CLIP, and return the network."""
    model, config = networks.open_clip_clip(
        18, 2.0, custom=False, quick_gelu=False, vocab_size=len(networks.vocabulary()) if bert else 49408
    )
    config["text_cfg"] |= text
    networks.open_clip_folder(folder, model, config, {})
    if bert:
        networks.write_vocabulary(folder)
    return model.eval()


def embedded(read: Checkpoint, prompts: list[str]) -> Tensor:
    with torch.no_grad():
        found, _ = read.model.encode_text(torch.from_numpy(read.tokenizer.encode(prompts).input_ids))
    return torch.nn.functional.normalize(found, dim=-1)


def assert_open_clips(read: Checkpoint, model: Any, ids: Tensor, prompts: list[str]) -> None:
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.encode_text(ids), dim=-1)
    torch.testing.assert_close(embedded(read, prompts), expected, rtol=0, atol=1e-6)


def bert_ids(folder: Path, **options: Any) -> Any:
    from open_clip.tokenizer import HFTokenizer
    from transformers import BertTokenizerFast

    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder)
    return HFTokenizer(str(folder), context_length=40, **options)


def test_a_prompt_is_read_at_its_highest_token(tmp_path: Path) -> None:
    model = written(tmp_path, bert=True, hf_tokenizer_name="google-bert/bert-base-uncased")
    ids = bert_ids(tmp_path)(PROMPTS)
    assert (ids.argmax(-1) != (ids == 3).int().argmax(-1)).any()
    read = load_checkpoint(tmp_path)
    assert read.config.text_end == "highest_token"
    assert_open_clips(read, model, ids, PROMPTS)
    read.save(tmp_path / "ours")
    assert_open_clips(load_checkpoint(tmp_path / "ours"), model, ids, PROMPTS)
    # The weights alone, with the tokenizer of the network: OpenAI's code takes the highest token, too.
    weights = tmp_path / "open_clip_pytorch_model.bin"
    (tmp_path / "alone").mkdir()
    weights = weights.rename(tmp_path / "alone" / weights.name)
    file = str(tmp_path / "tokenizer.json")
    alone = load_checkpoint(weights, heads=(4, 3), activation="gelu", tokenizer=file)
    assert_open_clips(alone, model, ids, PROMPTS)
    assert "end of a prompt: its token with the highest number" in alone.assumed


def test_a_vocabulary_file_is_enough(tmp_path: Path) -> None:
    model = written(tmp_path, bert=True, hf_tokenizer_name="google-bert/bert-base-uncased")
    (tmp_path / "other").mkdir()
    networks.write_vocabulary(tmp_path / "other")
    assert_open_clips(load_checkpoint(tmp_path), model, bert_ids(tmp_path / "other")(PROMPTS), PROMPTS)


def test_padding_above_the_end_is_refused(tmp_path: Path) -> None:
    written(tmp_path, bert=True, hf_tokenizer_name="x/y")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": networks.vocabulary()[-1]}}))
    with pytest.raises(CheckpointError, match="above the end, 3"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("with_file", [False, True])
def test_a_text_is_cleaned_as_open_clip_cleans_it(tmp_path: Path, *, with_file: bool) -> None:
    model = written(tmp_path, bert=False, tokenizer_kwargs={"clean": "canonicalize"})
    if with_file:
        ClipTokenizer.default().save(tmp_path / "tokenizer.json")
    from open_clip import SimpleTokenizer

    read = load_checkpoint(tmp_path)
    assert_open_clips(read, model, SimpleTokenizer(context_length=40, clean="canonicalize")(PROMPTS), PROMPTS)
    assert len(set(map(tuple, read.tokenizer.encode(["No edema.", "no EDEMA"]).input_ids.tolist()))) == 1


@pytest.mark.parametrize("asked", [None, {}, {"clean": "lower"}])
def test_clips_own_tokenizer_stays_as_it_is(tmp_path: Path, asked: object) -> None:
    written(tmp_path, bert=False, tokenizer_kwargs=asked)
    assert load_checkpoint(tmp_path).tokenizer.sha256 == ClipTokenizer.default().sha256


def test_a_tokenizer_of_transformers_is_cleaned(tmp_path: Path) -> None:
    model = written(tmp_path, bert=True, hf_tokenizer_name="x/y", tokenizer_kwargs={"clean": "canonicalize"})
    ids = bert_ids(tmp_path, clean="canonicalize")(PROMPTS)
    assert_open_clips(load_checkpoint(tmp_path), model, ids, PROMPTS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ({"tokenizer_kwargs": {"clean": "whitespace"}}, "lower, canonicalize"),
        ({"tokenizer_kwargs": {"reduction_mask": "syntax"}}, "reduction_mask"),
        ({"hf_tokenizer_name": "x/y", "tokenizer_kwargs": {"strip_sep_token": True}}, "strip_sep_token"),
        ({"hf_tokenizer_name": "x/y", "tokenizer_mode": "clips"}, "tokenizer_mode is 'clips'"),
        # Its tokenizer would be in another repository.
        ({"hf_tokenizer_name": "x/y", "vocab.txt": None}, "has no tokenizer"),
    ],
)
def test_a_tokenizer_that_lrclr_cannot_follow_is_refused(tmp_path: Path, text: dict[str, Any], words: str) -> None:
    bert = "hf_tokenizer_name" in text and "vocab.txt" not in text
    written(tmp_path, bert=bert, **{key: value for key, value in text.items() if key != "vocab.txt"})
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(tmp_path)


def test_a_transformers_configuration_beside_a_file_names_the_end(tmp_path: Path) -> None:
    networks.clip_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 5
    (tmp_path / "config.json").write_text(json.dumps(config))
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert backend.token_to_id("<|endoftext|>") != 5
    with pytest.raises(CheckpointError, match="reads a prompt at token 5"):
        load_checkpoint(tmp_path / "model.safetensors")
