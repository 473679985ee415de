"""Tokenizers of the families' folders against the libraries that the folders are made for, on any text."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lrclr.checkpoints import load_checkpoint

# Private: a tokenizer without its network.
from lrclr.checkpoints._sentencepiece import siglip_tokenizer
from lrclr.checkpoints._wordpiece import bert_tokenizer
from lrclr.errors import CheckpointError, FindingsError
from tests.families import networks

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrclr.text import ClipTokenizer

CONTEXT = 4096
# Characters whose class is the same in every version of Unicode that a library here may carry.
_CHARACTERS = tuple("abeghiknoprstuvwxy ABEN.,-_/'()  \t\nÄéßñ½ﬁ中文\u00a0Ⅳ")
TEXT = st.lists(st.sampled_from((*_CHARACTERS, *networks.WORDS)), max_size=20).map("".join)


def ids(tokenizer: ClipTokenizer, text: str) -> list[int]:
    batch = tokenizer.encode([text])
    numbers: list[int] = batch.input_ids[0, : int(batch.mask.sum())].tolist()
    return numbers


@cache
def roberta() -> tuple[ClipTokenizer, Any]:
    """Of ``vocab.json`` and ``merges.txt``, by lrclr and by transformers."""
    from transformers import RobertaTokenizer

    folder = Path(mkdtemp())
    try:
        networks.write_roberta_files(folder)
        return bert_tokenizer(folder, CONTEXT, 1), RobertaTokenizer.from_pretrained(folder)
    finally:
        shutil.rmtree(folder)


@settings(deadline=None, max_examples=300)
@given(TEXT)
@example("no <mask> here")
@example("</s>")
def test_robertas_two_files_are_transformers_tokenizer(text: str) -> None:
    ours, theirs = roberta()
    wanted = theirs(text)["input_ids"]
    if {0, 1, 2, 4} & set(wanted[1:-1]):
        with pytest.raises(FindingsError, match="meaning of its own"):
            ours.encode([text])
    else:
        assert ids(ours, text) == wanted


@torch.no_grad()
def test_a_dual_encoder_with_robertas_two_files(tmp_path: Path) -> None:
    folder = networks.dual_encoder_folder(tmp_path / "json", text="roberta")
    (folder / "tokenizer.json").unlink()
    networks.write_roberta_files(folder)
    read = load_checkpoint(folder)
    network = networks.dual_encoder(text="roberta")
    tokens = read.tokenizer.encode(["no pleural effusion", "edema"])
    numbers, mask = torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.mask)
    wanted = network.get_text_features(numbers, mask).pooler_output
    assert (tokens.input_ids[1] == 1).any()
    embedding = read.model.encode_text(numbers).embedding
    torch.testing.assert_close(embedding, torch.nn.functional.normalize(wanted, dim=-1), rtol=0, atol=1e-6)
    (folder / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"RoBERTa's vocab\.json and merges\.txt"):
        load_checkpoint(folder)


@cache
def open_clip_siglip(kind: str) -> tuple[ClipTokenizer, Any]:
    """Of a ``tokenizer.json`` alone, as open_clip's repositories of SigLIP have it, by lrclr and by open_clip."""
    networks.stub_torchvision()
    from open_clip.tokenizer import HFTokenizer, canonicalize_text

    folder = Path(mkdtemp())
    try:
        {"unigram": networks.write_t5, "gemma": networks.write_gemma_without_bos}[kind](folder)
        ours = siglip_tokenizer(folder, 64, "canonicalize")
        theirs = HFTokenizer(str(folder), context_length=64)
        # "canonicalize" without the repair of mojibake and HTML entities.
        theirs.clean_fn = canonicalize_text
        return ours, theirs
    finally:
        shutil.rmtree(folder)


@settings(deadline=None, max_examples=300)
@given(kind=st.sampled_from(["unigram", "gemma"]), text=TEXT)
@example(kind="unigram", text="No Pleural_Effusion, right-sided!")
@example(kind="gemma", text="No Pleural_Effusion, right-sided!")
def test_open_clips_siglip_is_read_from_a_json_file(kind: str, text: str) -> None:
    ours, theirs = open_clip_siglip(kind)
    assert ours.encode([text], truncate=True).input_ids[0].tolist() == theirs([text])[0].tolist()


@pytest.mark.parametrize("change", [{"clean": "other"}, {"clean": "lower", "strip_sep_token": True}, ["lower"]])
def test_a_cleaning_that_is_not_known_is_refused(tmp_path: Path, monkeypatch: Any, change: object) -> None:
    config = json.loads(json.dumps(networks.OPEN_CLIP_SIGLIP))
    config["text_cfg"]["tokenizer_kwargs"] = change
    folder = networks.open_clip_folder(tmp_path, networks.open_clip_siglip(monkeypatch), config, {})
    networks.write_pieces(folder)
    with pytest.raises(CheckpointError, match=r"text_cfg\.tokenizer_kwargs is"):
        load_checkpoint(folder, heads=(4, 4))


@pytest.mark.parametrize(("clean", "same"), [("lower", True), ("whitespace", False)])
def test_a_cased_vocabulary_with_open_clips_cleaning(tmp_path: Path, clean: str, same: bool) -> None:
    networks.write_vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    read = bert_tokenizer(tmp_path, 64, 0, clean)
    assert (ids(read, "EDEMA") == ids(read, "edema")) is same


def _siglip(folder: Path, _: pytest.MonkeyPatch) -> Path:
    """Its own tokenizer is made from ``spiece.model``; the file of the caller is that one without its cleaning."""
    networks.siglip_folder(folder)
    raw = json.loads(load_checkpoint(folder).tokenizer.data)
    raw["normalizer"] = None
    file = folder / "uncleaned.json"
    file.write_text(json.dumps(raw))
    return file


def _open_clip_siglip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    networks.open_clip_folder(folder, networks.open_clip_siglip(monkeypatch), networks.OPEN_CLIP_SIGLIP, {})
    networks.write_t5(folder)
    return folder / "tokenizer.json"


def _biomedclip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from transformers import BertTokenizerFast

    config = json.loads(json.dumps(networks.BIOMEDCLIP))
    config["text_cfg"]["tokenizer_kwargs"] = {"clean": "canonicalize"}
    networks.open_clip_folder(folder, networks.BiomedClip(monkeypatch), config, {})
    networks.write_vocabulary(folder)
    BertTokenizerFast.from_pretrained(folder).save_pretrained(folder / "fast")
    return folder / "fast" / "tokenizer.json"


@pytest.mark.parametrize("write", [_siglip, _open_clip_siglip, _biomedclip])
def test_a_tokenizer_of_the_caller_cleans_texts_as_that_of_the_folder_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, pytest.MonkeyPatch], Path]
) -> None:
    file = write(tmp_path / "network", monkeypatch)
    heads = None if write is _siglip else (4, 4)
    own = load_checkpoint(tmp_path / "network", heads=heads).tokenizer
    given = load_checkpoint(tmp_path / "network", heads=heads, tokenizer=str(file))
    given.save(tmp_path / "ours")
    for tokenizer in (given.tokenizer, load_checkpoint(tmp_path / "ours").tokenizer):
        for text in ("No Pleural_Effusion,  right-sided!", "edema", " NO edema. "):
            assert ids(tokenizer, text) == ids(own, text)
        assert ids(tokenizer, "no edema") == ids(tokenizer, " NO edema.")
