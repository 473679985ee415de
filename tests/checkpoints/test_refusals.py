"""What is not a checkpoint is refused by name, and nothing in it is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lrclr.checkpoints import load_checkpoint
from lrclr.errors import CheckpointError, FindingsError, LrclrError

if TYPE_CHECKING:
    from tests.checkpoints.conftest import OpenAiClip, OpenAiFactory

State = dict[str, Tensor]


class Bomb:
    """Runs a command when it is unpickled in the ordinary way."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.proof}'",)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def saved(content: object, file: Path) -> Path:
    torch.save(content, file)
    return file


@pytest.fixture
def torchscript(small_openai: OpenAiClip, tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(small_openai), str(tmp_path / "script.pt"))
    return tmp_path / "script.pt"


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint folder, to be spoilt."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))


def repacked(source: Path, target: Path, changes: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip archive with other contents under some names (by their endings)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            ending = next((ending for ending in changes if name.endswith(ending)), None)
            new.writestr(name, old.read(name) if ending is None else changes[ending])
    return target


# --- keys -------------------------------------------------------------------------------------------------------------


def test_every_wrong_key_is_named_in_one_error(state: State, tmp_path: Path) -> None:
    del state["visual.ln_post.bias"]
    del state["transformer.resblocks.1.mlp.c_fc.weight"]
    state["visual.extra"] = torch.zeros(1)
    state["transformer.resblocks.0.attn.q_norm.weight"] = torch.zeros(1)
    state["visual.ln_pre.weight"] = torch.zeros(7)
    state["visual.transformer.resblocks.1.attn.in_proj_bias"] = torch.zeros(128)
    said = refusal(saved(state, tmp_path / "clip.pt"))
    for words in (
        "missing: ",
        "vision_model.post_layernorm.bias",
        "text_model.encoder.layers.1.mlp.fc1.weight",
        "unexpected: ",
        "visual.extra",
        "transformer.resblocks.0.attn.q_norm.weight",
        "visual.transformer.resblocks.1.attn.in_proj_bias",
        "misshapen: ",
        "vision_model.pre_layrnorm.weight is [7], expected [128]",
    ):
        assert words in said


def test_a_long_list_of_keys_is_cut(state: State, tmp_path: Path) -> None:
    state |= {f"extra.{number:02}": torch.zeros(1) for number in range(20)}
    said = refusal(saved(state, tmp_path / "clip.pt"))
    assert "extra.05 and 14 more" in said
    assert len(said) < 600


def test_a_folder_names_its_wrong_keys_too(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["fusion_head.image_norm.bias"]
    weights["fusion_head.modality_embedding"] = torch.zeros(5, 32)
    weights["head.bias"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    said = refusal(folder)
    assert "missing: fusion_head.image_norm.bias" in said
    assert "unexpected: head.bias" in said
    assert "misshapen: fusion_head.modality_embedding is [5, 32], expected [4, 32]" in said


@pytest.mark.parametrize(
    "name",
    [
        "visual.conv1.weight",
        "visual.positional_embedding",
        "visual.proj",
        "positional_embedding",
        "token_embedding.weight",
        "text_projection",
    ],
)
@pytest.mark.parametrize("shape", [None, (), (3,), (5, 5), (0, 0), (2, 3, 4), (1, 2, 3, 4, 5), (0, 3, 0, 0), (1, 1)])
def test_a_tensor_that_tells_a_size_is_wrong(
    state: State, tmp_path: Path, name: str, shape: tuple[int, ...] | None
) -> None:
    del state[name]
    if shape is not None:
        state[name] = torch.zeros(shape)
    refusal(saved(state, tmp_path / "clip.pt"))


def test_a_resnet(tmp_path: Path) -> None:
    said = refusal(saved({"visual.layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "rn50.pt"))
    assert "ResNet CLIP" in said


def test_another_vocabulary(openai_clip: OpenAiFactory, tmp_path: Path) -> None:
    said = refusal(saved(openai_clip(vocabulary=1000).state_dict(), tmp_path / "clip.pt"))
    assert "vocabulary of 1000" in said


def test_a_width_that_heads_of_64_do_not_divide(state: State, tmp_path: Path) -> None:
    state["ln_final.weight"] = torch.zeros(96)
    state["positional_embedding"] = torch.zeros(77, 96)
    assert "no multiples of 64" in refusal(saved(state, tmp_path / "clip.pt"))


def test_a_layer_number_without_end(state: State, tmp_path: Path) -> None:
    state["transformer.resblocks.999999999.ln_1.bias"] = torch.zeros(64)
    refusal(saved(state, tmp_path / "clip.pt"))


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_weights_that_are_not_finite(state: State, tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    spoilt = state["visual.proj"].to(dtype, copy=True)
    spoilt[3, 4] = value
    said = refusal(saved(state | {"visual.proj": spoilt}, tmp_path / "clip.pt"))
    assert "NaN or infinity in: visual_projection.weight" in said


def test_large_weights_are_no_infinite_ones(state: State, tmp_path: Path) -> None:
    # Their sum overflows, each of them does not.
    load_checkpoint(saved(state | {"visual.proj": torch.full((128, 24), 3e38)}, tmp_path / "clip.pt"))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_fractions(state: State, tmp_path: Path, dtype: torch.dtype) -> None:
    said = refusal(saved(state | {"visual.ln_pre.bias": torch.ones(128, dtype=dtype)}, tmp_path / "clip.pt"))
    assert "not floating point" in said
    assert "vision_model.pre_layrnorm.bias" in said


def test_tensors_that_hold_no_numbers_of_their_own(state: State, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strange = {
            "sparse": torch.eye(128).to_sparse(),
            "meta": torch.zeros(128, device="meta"),
            "repeated": torch.zeros(1).expand(10**12),
            "quantised": torch.quantize_per_tensor(torch.ones(128), 0.1, 0, torch.qint8),
            "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            "text": "hello",
            "none": None,
        }
        for kind, value in strange.items():
            refusal(saved(state | {"visual.ln_pre.bias": value}, tmp_path / f"{kind}.pt"))


# --- formats ----------------------------------------------------------------------------------------------------------

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
def test_files_of_other_formats(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    refusal(tmp_path / "file")


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"a": 1}, {1: torch.zeros(1)}, "text", None, torch.zeros(3), {"a": {}}]
)
def test_pickles_of_other_things(tmp_path: Path, content: object) -> None:
    refusal(saved(content, tmp_path / "file.pt"))
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(content))
    refusal(tmp_path / "plain.pt")


def test_safetensors_are_no_pt_file(tiny_folder: Path) -> None:
    refusal(tiny_folder / "model.safetensors")


def test_nothing_there(tmp_path: Path) -> None:
    assert "there is no checkpoint" in refusal(tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError):
        load_checkpoint("null\0byte")
    os.mkfifo(tmp_path / "pipe")
    assert "neither a file nor a folder" in refusal(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refusal(tmp_path / "loop")


def test_compressed_archives(state: State, torchscript: Path, tmp_path: Path) -> None:
    plain = saved(state, tmp_path / "clip.pt")
    assert "compressed" in refusal(repacked(plain, tmp_path / "small.pt", {}, zipfile.ZIP_DEFLATED))
    assert "compressed" in refusal(repacked(torchscript, tmp_path / "small-script.pt", {}, zipfile.ZIP_DEFLATED))


def test_an_archive_on_several_disks(state: State, tmp_path: Path) -> None:
    # The one damage that makes even zipfile.is_zipfile raise.
    whole = bytearray(saved(state, tmp_path / "clip.pt").read_bytes())
    whole[whole.rindex(b"PK\x06\x07") + 16] = 2
    (tmp_path / "clip.pt").write_bytes(whole)
    assert "damaged" in refusal(tmp_path / "clip.pt")


# --- code -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["value", "root", "legacy", "torchscript", "torchscript attribute", "bin"])
def test_code_in_a_file_is_never_run(state: State, torchscript: Path, folder: Path, tmp_path: Path, place: str) -> None:
    proof = tmp_path / "it-ran"
    bomb, target = Bomb(proof), tmp_path / "bomb.pt"
    if place == "value":
        saved(state | {"logit_scale": bomb}, target)
    elif place == "root":
        saved(bomb, target)
    elif place == "legacy":
        torch.save(state | {"logit_scale": bomb}, target, _use_new_zipfile_serialization=False)
    elif place == "torchscript":
        repacked(torchscript, target, {"/data.pkl": pickle.dumps(bomb, 2)})
    elif place == "torchscript attribute":
        repacked(torchscript, target, {"/data.pkl": module_pickle(bomb)})
    else:
        config = json.loads((folder / "config.json").read_text()) | {"model_type": "clip"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").unlink()
        saved(state | {"logit_scale": bomb}, folder / "pytorch_model.bin")
        target = folder
    with pytest.raises(CheckpointError):
        load_checkpoint(target)
    assert not proof.exists()
    # The bomb is real.
    pickle.loads(pickle.dumps(bomb))
    assert proof.exists()


def module_pickle(value: object) -> bytes:
    """TorchScript's pickle of a module with one attribute."""
    inner = pickle.dumps({"attribute": value}, 2)[2:-1]
    return b"\x80\x02c__torch__\nModel\n)\x81" + inner + b"b."


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02cbuiltins\neval\n(V1\ntR.",
        b"\x80\x02cos\nsystem\n(Vtrue\ntR.",
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n.",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02ccollections\nOrderedDict.fromkeys\n.",
        # Attributes set on what the archive was given: a class, a function.
        b"\x80\x02c__torch__\nModel\nN}V__setstate__\nNs\x86b.",
        b"\x80\x02c__torch__\nModel\nN}V__init__\nNs\x86b.",
        b"\x80\x02ctorch.jit._pickle\nrestore_type_tag\nN}V__code__\nNs\x86b.",
        # A module that holds itself, twice.
        b"\x80\x02c__torch__\nModel\n)\x81q\x00}(Va\nh\x00Vb\nh\x00ub.",
        b"\x80\x02c__torch__\nModel\n)\x81}K\x01K\x02sb.",
        b"\x80\x02c__torch__\nModel\n)\x81Nb.",
        b"\x80\x02(" * 1000 + b".",
        b"\x80\x02K\x01Q.",
        b"\x80\x02(Vstorage\nctorch\nFloatStorage\nV../data.pkl\nVcpu\nK\x04tQ.",
        b"\x80\x02N.",
    ],
)
def test_torchscript_pickles_that_want_more(torchscript: Path, tmp_path: Path, program: bytes) -> None:
    refusal(repacked(torchscript, tmp_path / "bad.pt", {"/data.pkl": program}))
    load_checkpoint(torchscript)  # and the reader is what it was


def test_torchscript_tensors_beyond_their_storage(torchscript: Path, tmp_path: Path) -> None:
    def tensor(offset: int, size: int, stride: int) -> bytes:
        storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nK\x01tQ"
        numbers = (
            b"J" + struct.pack("<i", offset) + b"J" + struct.pack("<i", size) + b"\x85J" + struct.pack("<i", stride)
        )
        rebuild = (
            b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + numbers + b"\x85\x89ccollections\nOrderedDict\n)RtR"
        )
        return b"\x80\x02c__torch__\nModel\n)\x81}Vvisual.proj\n" + rebuild + b"sb."

    for offset, size, stride in [
        (0, 2**31 - 1, 0),
        (0, 2**31 - 1, 1),
        (2**31 - 1, 1, 1),
        (-4, 1, 1),
        (0, -1, 1),
        (0, 2, -1),
    ]:
        program = tensor(offset, size, stride)
        assert "TorchScript" in refusal(repacked(torchscript, tmp_path / "bad.pt", {"/data.pkl": program}))
    # The same with honest numbers gets as far as the missing weights.
    honest = repacked(torchscript, tmp_path / "bad.pt", {"/data.pkl": tensor(0, 1, 1)})
    assert "missing: visual.conv1.weight" in refusal(honest)


def test_another_byte_order(torchscript: Path, tmp_path: Path) -> None:
    assert "byte order" in refusal(repacked(torchscript, tmp_path / "big.pt", {"/byteorder": b"big"}))


# --- truncation -------------------------------------------------------------------------------------------------------


def cuts(size: int) -> list[int]:
    return sorted({0, 1, 3, 4, 8, 100, 1000, size // 3, size // 2, size - 100_000, size - 1000, size - 22, size - 1})


@pytest.mark.parametrize("kind", ["zip", "legacy", "torchscript"])
def test_truncated_files(state: State, torchscript: Path, tmp_path: Path, kind: str) -> None:
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
def test_truncated_folders(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in [n for n in cuts(len(whole)) if 0 <= n < len(whole.rstrip())]:
        (folder / name).write_bytes(whole[:length])
        try:
            load_checkpoint(folder)
        except LrclrError as error:
            assert str(folder) in str(error)  # noqa: PT017
        else:
            assert name == "findings.toml"  # half a list of findings may be a list of findings
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_checkpoint(folder)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_folders_that_are_no_checkpoints(tmp_path: Path) -> None:
    assert "has no config.json" in refusal(tmp_path)
    for content, words in [
        ("[]", "holds no JSON object"),
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
def test_configurations_that_do_not_fit(folder: Path, place: tuple[str, ...], value: object, words: str) -> None:
    raw = json.loads((folder / "config.json").read_text())
    table = raw
    for name in place[:-1]:
        table = table[name]
    table[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(raw))
    assert words in refusal(folder)


def test_a_preprocessing_of_another_size(folder: Path) -> None:
    raw = json.loads((folder / "preprocessing.json").read_text()) | {"image_size": 224}
    (folder / "preprocessing.json").write_text(json.dumps(raw))
    assert "makes images of 224 pixels, the network takes 112" in refusal(folder)
    (folder / "preprocessing.json").write_text("{}")
    assert "preprocessing.json" in refusal(folder)


def test_findings_that_cannot_be_used(folder: Path) -> None:
    (folder / "findings.toml").write_text("[[finding]]\nname = 3\n")
    with pytest.raises(FindingsError, match=r"findings\.toml"):
        load_checkpoint(folder)


def clip_folder(folder: Path) -> Path:
    """The tiny folder as a transformers CLIP's, with weights that do not belong."""
    raw = json.loads((folder / "config.json").read_text()) | {"model_type": "clip"}
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "model.safetensors").unlink()
    return folder


def test_clip_folders_that_lack_something(folder: Path) -> None:
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
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in refusal(folder)
