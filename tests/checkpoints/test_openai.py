"""OpenAI's state dicts and TorchScript archives, compared with the CLIP in `conftest.py`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from lrclr.checkpoints import load_checkpoint

# Private: the detected type of a file, before it becomes a checkpoint.
from lrclr.checkpoints._files import read_file
from lrclr.checkpoints._network import config_of
from lrclr.checkpoints._openai import renamed
from lrclr.model import LrclrConfig, LrclrModel
from tests import bundles
from tests.checkpoints.spoiling import SMALL

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from tests.checkpoints.conftest import OpenAiClip, OpenAiFactory
    from tests.conftest import Prompts

TEXTS = ("Edema", "no Edema", "Enlarged Cardiomediastinum")

SIZES: list[dict[str, int]] = [
    {},
    {"width": 64, "layers": 1, "patch": 8, "grid": 5, "text_width": 128, "text_layers": 3, "dimension": 8},
    {"width": 192, "layers": 4, "patch": 14, "grid": 2, "context": 20, "dimension": 64},
]


def pixels(checkpoint: Checkpoint, count: int = 3) -> Tensor:
    size = checkpoint.config.vision_config.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def assert_same_embeddings(checkpoint: Checkpoint, reference: OpenAiClip, prompts: Prompts) -> None:
    ids, mask = prompts(*TEXTS)
    given = pixels(checkpoint)
    image, text = reference(given, ids)
    embeddings = checkpoint.model(ids, given, mask)
    torch.testing.assert_close(embeddings.image_embeds, image, rtol=0, atol=1e-5)
    torch.testing.assert_close(embeddings.text_embeds, text, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        embeddings.logits_per_image, image @ text.t() * reference.logit_scale.exp(), rtol=0, atol=1e-4
    )
    # Different inputs must give different embeddings. Otherwise equal outputs would prove little.
    assert float((image[0] - image[1]).abs().max()) > 1e-2
    assert float((text[0] - text[1]).abs().max()) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("sizes", SIZES)
def test_a_state_dict_gives_the_same_embeddings(
    openai_clip: OpenAiFactory, prompts: Prompts, tmp_path: Path, sizes: dict[str, int], dtype: torch.dtype
) -> None:
    reference = openai_clip(**sizes).to(dtype)
    torch.save(reference.state_dict(), tmp_path / "clip.pt")
    heads = (sizes.get("width", 128) // 64, sizes.get("text_width", 64) // 64)
    checkpoint = load_checkpoint(tmp_path / "clip.pt", heads=heads)
    assert_same_embeddings(checkpoint, reference.float(), prompts)
    assert checkpoint.source == "openai state dict"
    assert checkpoint.sha256 == bundles.sha256_of(tmp_path / "clip.pt")
    assert checkpoint.preprocess.kind == "chexzero"
    assert not checkpoint.model.training
    assert not checkpoint.config.fusion_trained
    assert all(weight.dtype == torch.float32 and not weight.requires_grad for weight in checkpoint.model.parameters())
    sizes = {"width": 128, "layers": 2, "patch": 16, "grid": 3, "context": 77, "dimension": 24} | sizes
    vision = checkpoint.config.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers) == (sizes["width"], sizes["layers"])
    assert (vision.patch_size, vision.image_size) == (sizes["patch"], sizes["patch"] * sizes["grid"])
    assert vision.num_attention_heads == sizes["width"] // 64
    assert checkpoint.preprocess.image_size == vision.image_size
    assert checkpoint.tokenizer.context_length == sizes["context"]
    assert checkpoint.config.projection_dim == sizes["dimension"]


def test_the_fusion_head_of_a_bare_state_dict_is_reproducible(small_openai: OpenAiClip, tmp_path: Path) -> None:
    torch.save(small_openai.state_dict(), tmp_path / "clip.pt")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = load_checkpoint(tmp_path / "clip.pt", heads=SMALL).model.fusion_head
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = load_checkpoint(tmp_path / "clip.pt", heads=SMALL).model.fusion_head.state_dict()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.state_dict().items())
    for module in first.modules():
        if isinstance(module, nn.LayerNorm):
            assert bool((module.weight == 1).all() and (module.bias == 0).all())
        elif isinstance(module, nn.Linear):
            assert float(module.weight.std()) == pytest.approx(module.in_features**-0.5, rel=0.1)


@pytest.mark.parametrize("wrapping", ["module", "state_dict", "both", "parameters", "legacy", "counts"])
def test_wrapped_state_dicts_are_read(
    small_openai: OpenAiClip, prompts: Prompts, tmp_path: Path, wrapping: str
) -> None:
    content: Any = small_openai.state_dict()
    if wrapping in ("module", "both"):
        content = {f"module.{name}": tensor for name, tensor in content.items()}
    if wrapping in ("state_dict", "both"):
        content = {"state_dict": content, "epoch": 3}
    if wrapping == "parameters":
        content = {name: nn.Parameter(tensor) for name, tensor in content.items()}
    if wrapping == "counts":
        content |= {name: torch.tensor(48) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save(content, tmp_path / "clip.pt", _use_new_zipfile_serialization=wrapping != "legacy")
    assert_same_embeddings(load_checkpoint(tmp_path / "clip.pt", heads=SMALL), small_openai, prompts)


@pytest.mark.parametrize(("name", "mean"), [("clip", 0.48145466), ("chexzero", 101.48761)])
def test_a_preprocessing_can_be_chosen_by_name(
    small_openai: OpenAiClip, tmp_path: Path, name: str, mean: float
) -> None:
    torch.save(small_openai.state_dict(), tmp_path / "clip.pt")
    spec = load_checkpoint(tmp_path / "clip.pt", preprocess=name, heads=SMALL).preprocess
    assert (spec.kind, spec.image_size, spec.mean[0]) == (name, 48, mean)


def as_torchscript(model: OpenAiClip, kind: str, file: Path) -> None:
    """Save `model` as OpenAI publishes its models, with the three counts beside the weights."""
    for name, value in (("input_resolution", 48), ("context_length", 77), ("vocab_size", 49408)):
        model.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that TorchScript is deprecated
        if kind == "script":
            module = torch.jit.script(model)
        else:
            example = (torch.zeros(1, 3, 48, 48), torch.ones(1, 77, dtype=torch.int64))
            module = torch.jit.trace(model, example)  # type: ignore[no-untyped-call]
        torch.jit.save(module, str(file))


@pytest.mark.parametrize("kind", ["script", "trace"])
@pytest.mark.parametrize("half", [False, True])
def test_a_torchscript_archive_gives_the_same_embeddings(
    openai_clip: OpenAiFactory, prompts: Prompts, tmp_path: Path, kind: str, *, half: bool
) -> None:
    theirs = openai_clip()
    if half:
        for parameter in theirs.parameters():
            parameter.data = parameter.data.half().float()
    expected = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    as_torchscript(theirs, kind, tmp_path / "clip.pt")
    file = read_file(tmp_path / "clip.pt")
    assert file.script
    read = file.tensors(expected)
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())
    checkpoint = load_checkpoint(tmp_path / "clip.pt", heads=SMALL)
    assert checkpoint.source == "openai torchscript"
    assert checkpoint.preprocess.kind == "clip"
    assert_same_embeddings(checkpoint, theirs, prompts)


def test_views_of_shared_storages_are_read(tmp_path: Path) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(24.0).reshape(4, 6)
            self.register_buffer("whole", whole)
            self.register_buffer("turned", whole.t())
            self.register_buffer("part", whole[1:3, ::2])
            self.register_buffer("empty", torch.empty(0, 3))
            self.register_buffer("scalar", torch.tensor(7, dtype=torch.int32))

        def forward(self) -> Tensor:
            return torch.zeros(1)

    model = Views()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model), str(tmp_path / "views.pt"))
    file = read_file(tmp_path / "views.pt")
    read = file.tensors(file.entries)
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items())


def test_chexzeros_302_tensors_fit_vit_b_32(openai_clip: OpenAiFactory, tmp_path: Path) -> None:
    with torch.device("meta"):
        theirs = openai_clip(
            width=768, layers=12, patch=32, grid=7, text_width=512, text_layers=12, dimension=512
        ).state_dict()
    assert len(theirs) == 302
    assert sum(tensor.numel() for tensor in theirs.values()) == 151_277_313
    state = renamed(theirs)
    config = config_of(state, [], tmp_path)
    assert sum(tensor.numel() for tensor in state.values()) == 151_277_313
    with torch.device("meta"):
        ours = LrclrModel(config).state_dict()
    wanted = {name: tensor.shape for name, tensor in ours.items() if not name.startswith("fusion_head.")}
    assert {name: tensor.shape for name, tensor in state.items()} == wanted
    default = LrclrConfig()
    for tower in ("vision_config", "text_config"):
        for field in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"):
            assert getattr(getattr(config, tower), field) == getattr(getattr(default, tower), field)
    assert (config.num_patches, config.num_regions) == (49, 12)
