"""An adapter of PEFT beside whole weights, which transformers would apply and lrclr does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lrclr.checkpoints import load_checkpoint
from tests.families.networks import clip_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_model.bin", None])
def test_an_adapter_beside_the_weights_is_stated(tmp_path: Path, file: str | None) -> None:
    clip_folder(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    if file:
        (tmp_path / file).write_bytes(b"")
    read = load_checkpoint(tmp_path)
    line = "adapter: not applied, although adapter_config.json of PEFT is beside the weights"
    assert (line in read.assumed) is bool(file)
    read.save(tmp_path / "ours")
    assert load_checkpoint(tmp_path / "ours").assumed == read.assumed
