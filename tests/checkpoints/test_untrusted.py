"""Reading a file never runs code from it."""

from __future__ import annotations

import json
import os
import pickle
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from lrclr.checkpoints import load_checkpoint
from lrclr.errors import CheckpointError
from tests.checkpoints.spoiling import refusal, saved, with_entries

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, Tensor]


class Bomb:
    """An object that runs a command when Python's pickle loads it."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.proof}'",)


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
        with_entries(torchscript, target, {"/data.pkl": pickle.dumps(bomb, 2)})
    elif place == "torchscript attribute":
        with_entries(torchscript, target, {"/data.pkl": module_pickle(bomb)})
    else:
        config = json.loads((folder / "config.json").read_text()) | {"model_type": "clip"}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "model.safetensors").unlink()
        saved(state | {"logit_scale": bomb}, folder / "pytorch_model.bin")
        target = folder
    with pytest.raises(CheckpointError):
        load_checkpoint(target)
    assert not proof.exists()
    # The command does run in an ordinary `pickle.load`.
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
        # Attributes that are set on names the reader knows: a class, a function.
        b"\x80\x02c__torch__\nModel\nN}V__setstate__\nNs\x86b.",
        b"\x80\x02c__torch__\nModel\nN}V__init__\nNs\x86b.",
        b"\x80\x02ctorch.jit._pickle\nrestore_type_tag\nN}V__code__\nNs\x86b.",
        # A module that contains itself twice.
        b"\x80\x02c__torch__\nModel\n)\x81q\x00}(Va\nh\x00Vb\nh\x00ub.",
        b"\x80\x02c__torch__\nModel\n)\x81}K\x01K\x02sb.",
        b"\x80\x02c__torch__\nModel\n)\x81Nb.",
        b"\x80\x02(" * 1000 + b".",
        b"\x80\x02K\x01Q.",
        b"\x80\x02(Vstorage\nctorch\nFloatStorage\nV../data.pkl\nVcpu\nK\x04tQ.",
        b"\x80\x02N.",
    ],
)
def test_torchscript_pickles_with_other_operations_are_refused(
    torchscript: Path, tmp_path: Path, program: bytes
) -> None:
    refusal(with_entries(torchscript, tmp_path / "bad.pt", {"/data.pkl": program}))
    load_checkpoint(torchscript)  # and the reader's objects are unchanged


def test_torchscript_tensors_beyond_their_storage_are_refused(torchscript: Path, tmp_path: Path) -> None:
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
        assert "TorchScript" in refusal(with_entries(torchscript, tmp_path / "bad.pt", {"/data.pkl": program}))
    # The same file with correct numbers is read until the missing weights.
    honest = with_entries(torchscript, tmp_path / "bad.pt", {"/data.pkl": tensor(0, 1, 1)})
    assert "no tensor's name ends with visual.conv1.weight" in refusal(honest)


def test_another_byte_order_is_refused(torchscript: Path, tmp_path: Path) -> None:
    assert "byte order" in refusal(with_entries(torchscript, tmp_path / "big.pt", {"/byteorder": b"big"}))
