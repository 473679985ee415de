"""Folders of a CLIP in the forms that transformers has written from 2021 to version 5."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from transformers import CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lrclr.checkpoints import load_checkpoint
from lrclr.engines import TorchEngine
from lrclr.errors import CheckpointError
from lrclr.preprocessing import preprocess
from tests.checkpoints.spoiling import refusal
from tests.checkpoints.test_folders import TEXTS, clip_folder, clip_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint

IMAGES = {"crop_size": {"height": 60, "width": 60}, "size": {"shortest_edge": 70}}


@pytest.fixture
def clip(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Callable[..., Path]:
    """A factory of folders of a small CLIP without a preprocessing configuration."""

    def make(**text: Any) -> Path:
        folder = clip_folder(clip_model(**text), tmp_path / "clip", tiny_checkpoint)
        (folder / "preprocessor_config.json").unlink()
        return folder

    return make


def saved_processor(folder: Path) -> CLIPProcessor:
    tokenizer = CLIPTokenizer(tokenizer_object=Tokenizer.from_file(str(folder / "tokenizer.json")))
    processor = CLIPProcessor(CLIPImageProcessorPil(**IMAGES, image_mean=[0.5, 0.4, 0.3]), tokenizer)
    processor.save_pretrained(folder)
    return processor


def test_a_folder_of_version_5_is_read(clip: Callable[..., Path]) -> None:
    folder = clip()
    processor = saved_processor(folder)
    assert (folder / "processor_config.json").is_file()
    assert not (folder / "preprocessor_config.json").exists()
    read = load_checkpoint(folder)
    assert (read.preprocess.kind, read.preprocess.image_size, read.preprocess.resize) == ("clip", 60, 70)
    picture = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    theirs = processor.image_processor(Image.fromarray(picture), return_tensors="np")["pixel_values"][0]
    assert np.array_equal(preprocess(picture, read.preprocess), theirs)
    for texts in (["Edema"], ["no Edema", "left-sided, 2.5 cm"]):
        ids = processor.tokenizer(texts, padding="max_length", max_length=30)["input_ids"]
        ours = read.tokenizer.encode(texts, length=30)
        # transformers pads with the end token, which the text encoder ignores.
        assert (np.where(ours.mask, ids, 0) == ours.input_ids).all()


def test_a_nested_preprocessing_has_precedence_as_in_transformers(clip: Callable[..., Path]) -> None:
    folder = clip()
    saved_processor(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 64, "crop_size": 60}))
    assert load_checkpoint(folder).preprocess.resize == 70
    # Versions 4.40 to 4.57 wrote both files, and put nothing about images into the new one.
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    assert load_checkpoint(folder).preprocess.resize == 64


@pytest.mark.parametrize("size", [70, {"shortest_edge": 70}, {"shortest_edge": 70, "longest_edge": None}])
@pytest.mark.parametrize("crop", [60, {"height": 60, "width": 60}])
@pytest.mark.parametrize("nested", [False, True])
def test_every_form_of_a_size_is_read(clip: Callable[..., Path], size: object, crop: object, *, nested: bool) -> None:
    folder = clip()
    recipe: dict[str, Any] = {"size": size, "crop_size": crop, "image_processor_type": "CLIPImageProcessorFast"}
    if nested:
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": recipe}))
    else:
        (folder / "preprocessor_config.json").write_text(json.dumps(recipe))
    read = load_checkpoint(folder)
    assert (read.preprocess.image_size, read.preprocess.resize) == (60, 70)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"size": {"height": 60, "width": 60}, "crop_size": 60}, "size = {'height': 60, 'width': 60}"),
        ({"size": {"longest_edge": 60}, "crop_size": 60}, "longest_edge"),
        ({"size": 60, "crop_size": {"height": 60, "width": 50}}, "crop_size"),
        ([1], "table of keys"),
    ],
)
def test_a_preprocessing_that_clip_does_not_have_is_refused(
    clip: Callable[..., Path], recipe: object, words: str
) -> None:
    folder = clip()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": recipe}))
    message = refusal(folder)
    assert words in message
    assert "processor_config.json cannot be used" in message
    # The caller may choose another preprocessing.
    assert load_checkpoint(folder, preprocess="clip").preprocess.image_size == 60


def test_a_missing_preprocessing_is_refused(clip: Callable[..., Path]) -> None:
    folder = clip()
    message = refusal(folder)
    assert "has no preprocessor_config.json: and no processor_config.json that holds an image_processor" in message
    assert load_checkpoint(folder, preprocess="chexzero").preprocess.kind == "chexzero"


ADDED = ("<finding>", "<side>")


def with_tokens(folder: Path, form: str) -> CLIPTokenizer:
    """Add two tokens to the tokenizer of a folder. The network has rows for them."""
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if form == "tokenizer.json":
        backend.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
        backend.save(str(folder / "tokenizer.json"))
    else:
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        (folder / "added_tokens.json").write_text(json.dumps({token: 49408 + n for n, token in enumerate(ADDED)}))
        backend.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    return CLIPTokenizer(tokenizer_object=backend)


@pytest.mark.parametrize("form", ["tokenizer.json", "added_tokens.json"])
@pytest.mark.parametrize("eos", [2, 49407])
def test_added_tokens_are_read(clip: Callable[..., Path], eos: int, form: str) -> None:
    folder = clip(vocab_size=49410, eos_token_id=eos)
    tokenizer = with_tokens(folder, form)
    read = load_checkpoint(folder, preprocess="clip")
    theirs = clip_model(vocab_size=49410, eos_token_id=eos)
    theirs.set_attn_implementation("eager")
    prompts = [*TEXTS, "<finding> Edema", "Edema <side> left", "<side> <finding>", "", "a <finding> b <side> c <side>"]
    ours = read.tokenizer.encode(prompts, length=30)
    ids = np.array(tokenizer(prompts, padding="max_length", max_length=30)["input_ids"])
    assert (np.where(ours.mask, ids, 0) == ours.input_ids).all()
    with torch.no_grad():
        expected = theirs.get_text_features(torch.from_numpy(ids))
        if not isinstance(expected, torch.Tensor):
            expected = expected.pooler_output
    actual = TorchEngine(read.model, "cpu").run("text_encoder", {"input_ids": ours.input_ids})["text_embedding"]
    expected = torch.nn.functional.normalize(expected, dim=-1)
    # With an old configuration, transformers reads the embedding at the highest token number. Here that is another
    # token.
    torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=0, atol=1e-6)
    read.save(folder.parent / "ours")
    again = load_checkpoint(folder.parent / "ours")
    assert again.config.text_config.eos_token_id == 49407
    assert again.config.text_end == ("highest_token" if eos == 2 else "eos_token")
    actual = TorchEngine(again.model, "cpu").run("text_encoder", {"input_ids": ours.input_ids})["text_embedding"]
    torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eos", [2, 49407])
def test_a_padded_vocabulary_is_read(clip: Callable[..., Path], eos: int) -> None:
    read = load_checkpoint(clip(vocab_size=49472, eos_token_id=eos), preprocess="clip")
    assert read.config.text_config.eos_token_id == 49407


def test_added_tokens_with_gaps_are_refused(clip: Callable[..., Path]) -> None:
    folder = clip(vocab_size=49500)
    with_tokens(folder, "added_tokens.json")
    (folder / "added_tokens.json").write_text(json.dumps({"<finding>": 49450}))
    with pytest.raises(CheckpointError, match="49450 does not follow"):
        load_checkpoint(folder, preprocess="clip")
