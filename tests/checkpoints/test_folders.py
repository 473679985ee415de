"""Checkpoint folders of lrclr, saved and loaded, and folders of transformers' CLIP."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from lrclr.checkpoints import Checkpoint, init_checkpoint, load_checkpoint
from lrclr.errors import CheckpointError, LrclrError, UsageError
from lrclr.model import LrclrModel
from lrclr.text import FindingSet
from tests import bundles

if TYPE_CHECKING:
    from pathlib import Path

    from tests.checkpoints.conftest import OpenAiClip
    from tests.conftest import Prompts

TEXTS = ("Edema", "no Edema", "Enlarged Cardiomediastinum")
FILES = {"config.json", "findings.toml", "model.safetensors", "preprocessing.json", "tokenizer.json"}


def assert_equal(first: Checkpoint, second: Checkpoint) -> None:
    # A network that was never saved has not recorded its class.
    assert first.config.to_dict() | {"architectures": None} == second.config.to_dict() | {"architectures": None}
    assert (first.preprocess, first.findings) == (second.preprocess, second.findings)
    assert first.tokenizer.sha256 == second.tokenizer.sha256
    assert first.tokenizer.context_length == second.tokenizer.context_length
    first_weights, second_weights = first.model.state_dict(), second.model.state_dict()
    assert first_weights.keys() == second_weights.keys()
    assert all(torch.equal(tensor, second_weights[name]) for name, tensor in first_weights.items())


def test_a_folder_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    saved = init_checkpoint(
        "tiny", seed=3, preprocess="clip", region_rollout="mean", region_top_k=5, alpha=0.25, fusion_trained=True
    )
    saved = dataclasses.replace(saved, findings=FindingSet.from_names(["Edema", "Œdème"], ("{} here",), ("no {}",)))
    saved.save(tmp_path / "a")
    loaded = load_checkpoint(tmp_path / "a")
    assert_equal(loaded, saved)
    assert loaded.source == "lrclr"
    assert loaded.sha256 == bundles.sha256_of(tmp_path / "a" / "model.safetensors")
    assert loaded.config.effective_alpha == 0.25
    assert not loaded.model.training
    loaded.save(tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert {path.name for path in (tmp_path / "a").iterdir()} == FILES


def test_files_are_readable_for_other_users(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        tiny_checkpoint.save(tmp_path / "folder")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "folder").iterdir()} == {0o644}


def test_transformers_can_read_the_folder(tiny_checkpoint: Checkpoint, tiny_folder: Path) -> None:
    read = LrclrModel.from_pretrained(tiny_folder, local_files_only=True).state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in tiny_checkpoint.model.state_dict().items())


def test_the_same_seed_gives_the_same_weights(tiny_checkpoint: Checkpoint) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert_equal(init_checkpoint("tiny"), tiny_checkpoint)
    assert torch.equal(torch.get_rng_state(), before)
    first, other = (each.model.state_dict() for each in (tiny_checkpoint, init_checkpoint("tiny", seed=1)))
    assert not torch.equal(first["visual_projection.weight"], other["visual_projection.weight"])


def test_half_precision_is_saved_and_loaded_as_float32(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    half = init_checkpoint("tiny").model.half()
    dataclasses.replace(tiny_checkpoint, model=half).save(tmp_path / "half")
    read = load_checkpoint(tmp_path / "half").model.state_dict()
    assert all(torch.equal(read[name], tensor.float()) for name, tensor in half.state_dict().items())
    assert all(tensor.dtype == torch.float32 for tensor in read.values())


def test_a_type_in_the_configuration_does_not_round_the_weights(
    tiny_folder: Path, tiny_checkpoint: Checkpoint, edited: Any
) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["dtype"] = raw["text_config"]["dtype"] = raw["vision_config"]["dtype"] = "float16"

    read = load_checkpoint(edited(tiny_folder, "config.json", change)).model.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in tiny_checkpoint.model.state_dict().items())


def test_a_preprocessing_can_be_chosen_by_name(tiny_folder: Path) -> None:
    assert load_checkpoint(tiny_folder).preprocess.kind == "chexzero"
    assert load_checkpoint(tiny_folder, preprocess="clip").preprocess.kind == "clip"
    with pytest.raises(UsageError, match="no preprocessing 'imagenet'"):
        load_checkpoint(tiny_folder / "not there", preprocess="imagenet")


def test_a_folder_is_replaced_only_on_request(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    tiny_checkpoint.save(tmp_path / "folder")
    with pytest.raises(UsageError, match="exists already"):
        tiny_checkpoint.save(tmp_path / "folder")
    other = init_checkpoint("tiny", seed=1)
    other.save(tmp_path / "folder", overwrite=True)
    assert_equal(load_checkpoint(tmp_path / "folder"), other)
    (tmp_path / "folder" / "optimizer.pt").write_text("hours of work")
    with pytest.raises(UsageError, match=r"optimizer\.pt"):
        tiny_checkpoint.save(tmp_path / "folder", overwrite=True)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"no architecture 'vit-g'.*vit-b-32"):
        init_checkpoint("vit-g")
    with pytest.raises(UsageError, match="no preprocessing 'x'"):
        init_checkpoint("tiny", preprocess="x")
    with pytest.raises(UsageError, match="region_top_k"):
        init_checkpoint("tiny", region_top_k=0)


@pytest.fixture
def edited(tmp_path: Path) -> Any:
    """Copies a folder (links to all files but one) and changes that one JSON file with a function."""

    def edit(folder: Path, name: str, change: Any) -> Path:
        copy = tmp_path / "edited"
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).symlink_to(file)
        (copy / name).unlink()
        raw = json.loads((folder / name).read_text())
        change(raw)
        (copy / name).write_text(json.dumps(raw))
        return copy

    return edit


def clip_model(**text: Any) -> Any:
    """A small transformers CLIP with random weights."""
    act = text.pop("hidden_act", "quick_gelu")
    sizes = {"intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": act}
    config = CLIPConfig(
        projection_dim=24,
        vision_config={**sizes, "hidden_size": 48, "image_size": 60, "patch_size": 12},
        text_config={**sizes, "hidden_size": 32, "max_position_embeddings": 30, **text},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CLIPModel(config).eval().requires_grad_(False)


def clip_folder(model: Any, folder: Path, tokenizer: Checkpoint, **save: Any) -> Path:
    """Save a CLIP as it is stored on the Hugging Face Hub."""
    model.save_pretrained(folder, **save)
    tokenizer.tokenizer.save(folder / "tokenizer.json")
    processor = {
        "crop_size": {"height": 60, "width": 60},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.2, 0.3, 0.4],
        "resample": 3,
        "size": {"shortest_edge": 70},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@torch.no_grad()
def assert_same_embeddings(loaded: Checkpoint, model: Any, prompts: Prompts) -> None:
    ids, mask = prompts(*TEXTS)
    pixels: Tensor = torch.randn(2, 3, 60, 60, generator=torch.Generator().manual_seed(0))
    model.set_attn_implementation("eager")
    expected, actual = model(input_ids=ids, pixel_values=pixels), loaded.model(ids, pixels, mask)
    for name in ("image_embeds", "text_embeds", "logits_per_image"):
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_a_clip_folder_gives_the_same_embeddings(
    tiny_checkpoint: Checkpoint, prompts: Prompts, tmp_path: Path, act: str
) -> None:
    model = clip_model(hidden_act=act)
    read = load_checkpoint(clip_folder(model, tmp_path / "clip", tiny_checkpoint))
    assert read.source == "transformers clip"
    assert read.config.vision_config.hidden_act == read.config.text_config.hidden_act == act
    assert (read.preprocess.kind, read.preprocess.image_size, read.preprocess.resize) == ("clip", 60, 70)
    assert read.tokenizer.context_length == 30
    assert read.findings == FindingSet.default()
    assert read.sha256 == bundles.sha256_of(tmp_path / "clip" / "model.safetensors")
    assert_same_embeddings(read, model, prompts)
    read.save(tmp_path / "ours")
    assert_equal(load_checkpoint(tmp_path / "ours"), read)


def test_the_end_token_of_old_configurations_is_supported(
    tiny_checkpoint: Checkpoint, prompts: Prompts, tmp_path: Path
) -> None:
    model = clip_model(eos_token_id=2)
    read = load_checkpoint(clip_folder(model, tmp_path / "clip", tiny_checkpoint))
    assert read.config.text_config.eos_token_id == 49407
    assert_same_embeddings(read, model, prompts)


def test_sharded_weights_are_read(tiny_checkpoint: Checkpoint, prompts: Prompts, tmp_path: Path) -> None:
    model = clip_model()
    folder = clip_folder(model, tmp_path / "clip", tiny_checkpoint, max_shard_size="300KB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    read = load_checkpoint(folder)
    assert_same_embeddings(read, model, prompts)
    digest = read.sha256
    # The hash covers every shard, not only the first.
    weights = bytearray(shards[-1].read_bytes())
    weights[-2] ^= 1
    shards[-1].write_bytes(weights)
    assert load_checkpoint(folder).sha256 != digest
    shards[-1].unlink()
    with pytest.raises(CheckpointError, match=shards[-1].name):
        load_checkpoint(folder)


def test_pickled_weights_with_position_ids_are_read(
    tiny_checkpoint: Checkpoint, prompts: Prompts, tmp_path: Path
) -> None:
    model = clip_model()
    folder = clip_folder(model, tmp_path / "clip", tiny_checkpoint)
    (folder / "model.safetensors").unlink()
    state = model.state_dict()
    state["text_model.embeddings.position_ids"] = torch.arange(30).expand(1, -1)
    state["vision_model.embeddings.position_ids"] = torch.arange(26).expand(1, -1)
    torch.save(state, folder / "pytorch_model.bin")
    assert_same_embeddings(load_checkpoint(folder), model, prompts)


def test_vocab_json_and_merges_txt_are_read(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = clip_folder(clip_model(), tmp_path / "clip", tiny_checkpoint)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    read = load_checkpoint(folder)
    texts = [*TEXTS, "Pleural effusion, 2.5cm (left); didn't resolve!", "Œdème  pulmonaire", "肺炎 😀", ""]
    ours, theirs = read.tokenizer.encode(texts, length=30), tiny_checkpoint.tokenizer.encode(texts, length=30)
    assert (ours.input_ids == theirs.input_ids).all()
    (folder / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer"):
        load_checkpoint(folder)


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(
        command, env=environment | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_reading_and_writing_print_nothing(
    tiny_checkpoint: Checkpoint, small_openai: OpenAiClip, tmp_path: Path
) -> None:
    clip_folder(clip_model(eos_token_id=2), tmp_path / "clip", tiny_checkpoint)
    torch.save(small_openai.state_dict(), tmp_path / "clip.pt")
    done = run(
        """
        import sys
        from pathlib import Path
        from lrclr.checkpoints import init_checkpoint, load_checkpoint
        here = Path(sys.argv[1])
        init_checkpoint("tiny").save(here / "tiny")
        for name in ("tiny", "clip", "clip.pt"):
            heads = (2, 1) if name == "clip.pt" else None
            load_checkpoint(here / name, heads=heads).save(here / "again", overwrite=True)
        """,
        tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_full_disk_is_reported(tiny_folder: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_folder)
    with pytest.raises(LrclrError) as raised, bundles.no_large_files(1_000_000):
        checkpoint.save(tmp_path / "full")
    expected = f"{tmp_path}/full could not be written: File too large. What was there before is unchanged."
    assert str(raised.value) == expected
    assert list(tmp_path.iterdir()) == []
