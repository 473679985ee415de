"""Files and folders that are not checkpoints, or are incomplete, are refused."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lrclr.checkpoints import load_checkpoint
from lrclr.errors import CheckpointError, FindingsError, LrclrError
from tests import bundles
from tests.checkpoints.spoiling import refusal, saved, with_entries

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, Tensor]


PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        PNG,
        b"PK\x03\x04",
        b"PK\x05\x06" + bytes(18),
        b"weights\n" * 100,
        b"\x80\x02",
        b"\x80\x05N.",
        b"{}",
    ],
)
def test_files_of_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    refusal(tmp_path / "file")


def test_what_a_clone_or_a_download_leaves_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match=r"a pointer of Git LFS.*git lfs pull"):
        load_checkpoint(file)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="it is empty"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"a": 1}, {1: torch.zeros(1)}, "text", None, torch.zeros(3), {"a": {}}]
)
def test_pickles_of_other_objects_are_refused(tmp_path: Path, content: object) -> None:
    refusal(saved(content, tmp_path / "file.pt"))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content))
    refusal(tmp_path / "plain.pt")


def test_safetensors_named_pt_are_refused(tiny_folder: Path) -> None:
    refusal(tiny_folder / "model.safetensors")


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    assert "there is no checkpoint" in refusal(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint("null\0byte")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refusal(tmp_path / "loop")


def test_compressed_archives_are_refused(state: State, torchscript: Path, tmp_path: Path) -> None:
    plain = saved(state, tmp_path / "clip.pt")
    assert "compressed" in refusal(with_entries(plain, tmp_path / "small.pt", {}, zipfile.ZIP_DEFLATED))
    assert "compressed" in refusal(with_entries(torchscript, tmp_path / "small-script.pt", {}, zipfile.ZIP_DEFLATED))


def test_an_archive_on_several_disks_is_refused(state: State, tmp_path: Path) -> None:
    # This damage makes even zipfile.is_zipfile raise.
    whole = bytearray(saved(state, tmp_path / "clip.pt").read_bytes())
    whole[whole.rindex(b"PK\x06\x07") + 16] = 2
    (tmp_path / "clip.pt").write_bytes(whole)
    assert "damaged" in refusal(tmp_path / "clip.pt")


def cuts(size: int) -> list[int]:
    return sorted({0, 1, 3, 4, 8, 100, 1000, size // 3, size // 2, size - 100_000, size - 1000, size - 22, size - 1})


@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript"])
def test_truncated_files_are_refused(state: State, torchscript: Path, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "clip.pt"
    torch.save(state, file, _use_new_zipfile_serialization=kind == "zip")
    if kind == "torchscript":
        file = torchscript
    whole = file.read_bytes()
    for length in cuts(len(whole)):
        file.write_bytes(whole[:length])
        refusal(file)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "preprocessing.json", "tokenizer.json", "findings.toml"]
)
def test_folders_with_a_truncated_file_are_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in [n for n in cuts(len(whole)) if 0 <= n < len(whole.rstrip())]:
        (folder / name).write_bytes(whole[:length])
        try:
            load_checkpoint(folder)
        except LrclrError as error:
            assert str(folder) in str(error)  # noqa: PT017
        else:
            assert name == "findings.toml"  # the first half of a list of findings may be a valid list
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(folder)


def test_folders_that_are_not_checkpoints_are_refused(tmp_path: Path) -> None:
    assert "has no config.json" in refusal(tmp_path)
    for content, words in [
        ("[]", "does not contain a JSON object"),
        ("{", "not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        ('{"model_type": "bert"}', "model_type 'bert'"),
        ("{}", "model_type None"),
    ]:
        (tmp_path / "config.json").write_text(content)
        assert words in refusal(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    assert "not readable JSON" in refusal(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    refusal(tmp_path)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("alpha",), 2, "alpha"),
        (("region_top_k",), 1000, "between 1 and 49"),
        (("vision_config", "patch_size"), 0, "patch_size"),
        (("vision_config", "patch_size"), 14, "position_embedding.weight is [50, 128], expected [65, 128]"),
        (("vision_config", "hidden_act"), "swoosh", "swoosh"),
        (("vision_config", "hidden_size"), 2**62, "cannot be built"),
        (("vision_config", "num_hidden_layers"), 10**9, "layers"),
        (("text_config", "num_hidden_layers"), 3, "missing"),
        (("fusion_num_layers",), 10**9, "layers"),
        (("fusion_hidden_size",), 64, "misshapen"),
        (("text_config",), "large", "text_config"),
        (("vision_config",), [], "vision_config"),
        (("text_config", "eos_token_id"), 5, "ends a prompt with 49407"),
        (("text_config", "max_position_embeddings"), 76, "position_embedding"),
        (("vision_config", "image_size"), 113, "113"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    folder: Path, place: tuple[str, ...], value: object, words: str
) -> None:
    raw = json.loads((folder / "config.json").read_text())
    table = raw
    for name in place[:-1]:
        table = table[name]
    table[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(raw))
    assert words in refusal(folder)


def test_a_preprocessing_of_another_size_is_refused(folder: Path) -> None:
    raw = json.loads((folder / "preprocessing.json").read_text()) | {"image_size": 224}
    (folder / "preprocessing.json").write_text(json.dumps(raw))
    assert "gives images of 224 pixels, the network takes 112" in refusal(folder)
    (folder / "preprocessing.json").write_text("{}")
    assert "preprocessing.json" in refusal(folder)


def test_invalid_findings_are_refused(folder: Path) -> None:
    (folder / "findings.toml").write_text("[[finding]]\nname = 3\n")
    with pytest.raises(FindingsError, match=r"findings\.toml"):
        load_checkpoint(folder)


def clip_folder(folder: Path) -> Path:
    """The tiny folder as a folder of transformers' CLIP, with weights that do not fit."""
    raw = json.loads((folder / "config.json").read_text()) | {"model_type": "clip"}
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "model.safetensors").unlink()
    return folder


def test_incomplete_clip_folders_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    clip_folder(folder)
    assert "holds no weights" in refusal(folder)
    for content in ("[]", "{}", '{"weight_map": {"a": "../../secret"}}', '{"weight_map": {"a": 3, "b": []}}'):
        (folder / "model.safetensors.index.json").write_text(content)
        refusal(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}')
    assert "has no b.safetensors" in refusal(folder)
    (folder / "model.safetensors.index.json").unlink()
    save_file({name: value for name, value in weights.items() if "fusion" not in name}, folder / "model.safetensors")
    assert "has no preprocessor_config.json" in refusal(folder)
    (folder / "preprocessor_config.json").write_text('{"size": 112, "crop_size": 112, "do_rescale": false}')
    assert "do_rescale" in refusal(folder)
    (folder / "preprocessor_config.json").write_text('{"size": 112, "crop_size": 112}')
    load_checkpoint(folder)
    tokenizer = (folder / "tokenizer.json").rename(folder.with_name("tokenizer.json"))
    assert "has no tokenizer" in refusal(folder)
    assert "--tokenizer clip" in refusal(folder)
    for choice in ("clip", str(tokenizer)):
        assert load_checkpoint(folder, tokenizer=choice).tokenizer.sha256 == bundles.sha256_of(tokenizer)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(folder, tokenizer="no-such-file.json")
