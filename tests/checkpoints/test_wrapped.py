"""State dicts wrapped by training frameworks are found in every file format. Objects beside them are not run."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime as dt
import pathlib
import random
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lrclr.checkpoints import load_checkpoint

# Private: where the network is found in a file, before it becomes a checkpoint.
from lrclr.checkpoints._files import read_file
from lrclr.checkpoints._find import find_clip
from lrclr.errors import CheckpointError
from tests.checkpoints.spoiling import SMALL, refusal, saved
from tests.checkpoints.test_folders import clip_folder, clip_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lrclr.checkpoints import Checkpoint
    from tests.checkpoints.conftest import OpenAiClip

State = dict[str, Tensor]


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def half_wrapped(state: State) -> State:
    """The names that ``model.visual = torch.compile(model.visual)`` gives."""
    return {name.replace("visual.", "visual._orig_mod."): tensor for name, tensor in state.items()}


def custom_text(state: State) -> State:
    """The names of open_clip's CustomTextCLIP."""
    outside = ("visual.", "logit_scale")
    return {name if name.startswith(outside) else f"text.{name}": tensor for name, tensor in state.items()}


def separate_towers(state: State) -> State:
    """A LightningModule that has the towers in two attributes and the scale in a third."""
    return {
        name
        if name == "logit_scale"
        else f"{'image' if name.startswith('visual.') else 'language'}_encoder.{name}": tensor
        for name, tensor in state.items()
    }


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "state_dict": lambda s: {"state_dict": s},
    "model_state_dict": lambda s: {"model_state_dict": s, "epoch": 3},
    "model": lambda s: {"model": s, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    "net and module.": lambda s: {"net": under("module.", s)},
    "clip.": lambda s: under("clip.", s),
    "_orig_mod.": lambda s: under("_orig_mod.", s),
    "Lightning": lambda s: {"state_dict": under("model.clip.", s), "callbacks": {}, "loops": [1, {"a": (2, 3)}]},
    "Lightning, with a loss": lambda s: {"state_dict": under("model.", s) | {"loss.weight": torch.ones(4)}},
    "DDP of compiled": lambda s: {"state_dict": under("module._orig_mod.", s)},
    "FSDP": lambda s: under("_fsdp_wrapped_module.", half_wrapped(s)),
    "one tower compiled": half_wrapped,
    "AveragedModel": lambda s: under("module.", s) | {"n_averaged": torch.tensor(5)},
    "deep": lambda s: {"a": {"b": [{"c": under("x.y.module.", s)}]}},
    "CustomTextCLIP": custom_text,
    "CustomTextCLIP, wrapped": lambda s: {"state_dict": under("module.", custom_text(s))},
    "towers apart": lambda s: {"state_dict": separate_towers(s)},
    "a scale with an axis": lambda s: s | {"logit_scale": s["logit_scale"].reshape(1)},
    "one object under two names": lambda s: {"model": s, "last": s},
    "one module under two names": lambda s: {"state_dict": under("clip.", s) | under("model.", s)},
    "half an average": lambda s: {"model": s, "ema": {n: t for n, t in s.items() if n.startswith("visual.")}},
    "the optimizer at the root": lambda s: s | {"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
}


def assert_complete(checkpoint: Checkpoint, state: State) -> None:
    read = checkpoint.model.state_dict()
    assert torch.equal(read["vision_model.post_layernorm.bias"], state["visual.ln_post.bias"])
    assert torch.equal(read["text_projection.weight"], state["text_projection"].t())
    assert torch.equal(read["logit_scale"], state["logit_scale"])
    last = state["transformer.resblocks.1.attn.in_proj_weight"].chunk(3)[2]
    assert torch.equal(read["text_model.encoder.layers.1.self_attn.v_proj.weight"], last)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrapped_state_dicts(state: State, tmp_path: Path, wrapping: str, *, legacy: bool) -> None:
    content = WRAPPINGS[wrapping](state)
    torch.save(content, tmp_path / "clip.pt", _use_new_zipfile_serialization=not legacy)
    assert_complete(load_checkpoint(tmp_path / "clip.pt", heads=SMALL), state)


# The other forms cannot be in one table, or share memory, which safetensors does not support.
FLAT = WRAPPINGS.keys() - {"one module under two names", "deep", "the optimizer at the root"}


@pytest.mark.parametrize("wrapping", sorted(FLAT))
def test_wrapped_safetensors(state: State, tmp_path: Path, wrapping: str) -> None:
    content = WRAPPINGS[wrapping](state)
    if not all(isinstance(value, Tensor) for value in content.values()):
        content = next(value for value in content.values() if isinstance(value, dict))
    save_file({name: tensor.contiguous() for name, tensor in content.items()}, tmp_path / "model.safetensors")
    assert_complete(load_checkpoint(tmp_path / "model.safetensors", heads=SMALL), state)


PREFIX = st.sampled_from(["module", "_orig_mod", "model", "clip", "net", "backbone", "student", "x.y"])
CONTAINER = st.sampled_from(["state_dict", "model_state_dict", "model", "weights", "ema_state_dict", "0"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prefixes=st.lists(PREFIX, max_size=4), containers=st.lists(CONTAINER, max_size=3), names=st.booleans())
def test_any_nesting_is_read(
    state: State, tmp_path: Path, prefixes: list[str], containers: list[str], *, names: bool
) -> None:
    content: Any = under("".join(f"{prefix}." for prefix in prefixes), half_wrapped(state) if names else state)
    for container in containers:
        content = {container: content, "epoch": 1}
    found = find_clip(read_file(saved(content, tmp_path / "clip.pt")))
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[name], tensor) for name, tensor in state.items())


def test_a_pickled_module_is_read(small_openai: OpenAiClip, state: State, tmp_path: Path) -> None:
    read = load_checkpoint(saved({"model": small_openai}, tmp_path / "clip.pt"))
    assert_complete(read, state)
    # Its modules contain their heads and activations.
    assert [line for line in read.assumed if "heads" in line or "activation" in line] == []


def test_torchscript_of_a_wrapped_module_is_read(small_openai: OpenAiClip, state: State, tmp_path: Path) -> None:
    class Lightning(nn.Module):
        def __init__(self, clip: nn.Module) -> None:
            super().__init__()
            self.model = clip

        def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            return self.model(pixels, ids)  # type: ignore[no-any-return]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Lightning(small_openai)), str(tmp_path / "script.pt"))
    read = load_checkpoint(tmp_path / "script.pt")
    assert_complete(read, state)
    assert (read.config.vision_config.num_attention_heads, read.config.text_config.num_attention_heads) == SMALL


@pytest.mark.parametrize("prefix", ["module.", "model.clip.", "_orig_mod."])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_transformers_folder_with_a_name_prefix_is_read(
    tiny_checkpoint: Checkpoint, tmp_path: Path, prefix: str, file: str
) -> None:
    model = clip_model()
    folder = clip_folder(model, tmp_path / "clip", tiny_checkpoint)
    state = under(prefix, dict(model.state_dict())) | {f"{prefix}logit_scale": torch.tensor([2.0])}
    (folder / "model.safetensors").unlink()
    if file == "model.safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / file)
    else:
        torch.save({"state_dict": state}, folder / file)
    read = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in model.state_dict().items() if name != "logit_scale")
    assert float(read["logit_scale"]) == 2.0


def test_an_lrclr_folder_with_a_name_prefix_is_read(folder: Path, tiny_checkpoint: Checkpoint) -> None:
    state = load_file(folder / "model.safetensors")
    save_file(under("module.model.", state), folder / "model.safetensors")
    read = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(read[name], tensor) for name, tensor in tiny_checkpoint.model.state_dict().items())


def test_a_single_file_with_transformers_names_is_read(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = clip_model(max_position_embeddings=30)
    path = saved({"model_state_dict": model.state_dict()}, tmp_path / "clip.pt")
    assert "--heads" in refusal(path)
    read = load_checkpoint(path, heads=(4, 4))
    assert (read.source, read.preprocess.kind) == ("transformers state dict", "clip")
    ours = read.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in model.state_dict().items())


# Objects that lie beside the weights.


@dataclasses.dataclass
class Config:
    lr: float = 1e-4
    path: pathlib.Path = pathlib.Path("/data")


class DictConfig(dict[str, Any]):
    """Like the classes of OmegaConf and Lightning: a class with state and items."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self._metadata = {"flags": None}

    def __reduce__(self) -> tuple[Any, ...]:
        return (DictConfig, (), {"_metadata": self._metadata, "_parent": self}, None, iter(self.items()))


BESIDE: dict[str, Any] = {
    "a namespace": argparse.Namespace(lr=1e-4, data=["a", "b"], nested=argparse.Namespace(x=1)),
    "numpy numbers": {"best": np.float32(0.9), "step": np.int64(3), "curve": np.arange(5.0), "flag": np.bool_(True)},
    "dates": [dt.datetime(2024, 1, 2, tzinfo=dt.UTC), dt.timedelta(seconds=3), dt.date.min],
    "paths": pathlib.PurePosixPath("/data/run"),
    "a dataclass": Config(),
    "a configuration": DictConfig(model=DictConfig(name="clip"), lr=1e-4),
    "types": {"dtype": torch.float16, "device": torch.device("cpu"), "size": torch.Size([1, 2]), "class": nn.Linear},
    "counters": [collections.Counter("abc"), collections.defaultdict(int, a=1), collections.deque([1])],
    "random states": {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()},
    "sets": [{1, 2}, frozenset("ab"), complex(1, 2), range(3), slice(1, 2), b"bytes", bytearray(b"x"), 2**100],
    "strange keys": {(1, 2): "a", b"x": 1, 2.5: 2, None: 3, frozenset((1,)): 4, 2**70: 5, True: 6},
    "other tensors": {"sparse": torch.eye(3).to_sparse(), "meta": torch.zeros(9, device="meta")},
    "an optimizer": torch.optim.AdamW([nn.Parameter(torch.ones(3))]).state_dict(),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("beside", BESIDE)
def test_objects_beside_the_weights_are_ignored(state: State, tmp_path: Path, beside: str, protocol: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(
            {"args": BESIDE[beside], "state_dict": state, "hyper_parameters": BESIDE[beside]},
            tmp_path / "clip.pt",
            pickle_protocol=protocol,
        )
    found = find_clip(read_file(tmp_path / "clip.pt"))
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[name], tensor) for name, tensor in state.items())


# More than one network, or none, beside the weights.


def test_two_networks_in_a_file_are_refused(state: State, tmp_path: Path) -> None:
    ema = {name: tensor + 1 for name, tensor in state.items()}
    path = saved({"model": state, "model_ema": {"module": ema}}, tmp_path / "clip.pt")
    message = refusal(path, SMALL)
    assert "holds 2 networks: under model, model_ema.module" in message
    assert "--key" in message
    assert_complete(load_checkpoint(path, heads=SMALL, key="model"), state)
    for key in ("model_ema", "model_ema.module"):
        assert_complete(load_checkpoint(path, heads=SMALL, key=key), ema)
    with pytest.raises(CheckpointError, match=r"no CLIP under 'ema'\. There are: model, model_ema\.module"):
        load_checkpoint(path, heads=SMALL, key="ema")
    at_root = saved(state | {"ema": ema}, tmp_path / "root.pt")
    assert "under ., ema" in refusal(at_root, SMALL)
    assert_complete(load_checkpoint(at_root, heads=SMALL, key="."), state)
    assert_complete(load_checkpoint(at_root, heads=SMALL, key="ema"), ema)


def test_ignored_tensors_are_recorded(state: State, tmp_path: Path) -> None:
    extra = {"loss.weight": torch.ones(4), "head.bias": torch.ones(2)}
    read = load_checkpoint(saved({"state_dict": under("model.", state) | extra}, tmp_path / "clip.pt"), heads=SMALL)
    assert any("2 (state_dict.loss.weight, state_dict.head.bias)" in line for line in read.assumed)
    # Within the network, no tensor is ignored.
    inside = saved({"state_dict": under("model.", state | extra)}, tmp_path / "inside.pt")
    assert "unexpected: head.bias, loss.weight" in refusal(inside, SMALL)


@pytest.mark.parametrize("wrapping", ["Lightning", "DDP of compiled", "CustomTextCLIP, wrapped", "towers apart"])
def test_existing_keys_are_not_reported_as_missing(state: State, tmp_path: Path, wrapping: str) -> None:
    del state["visual.ln_post.bias"]
    message = refusal(saved(WRAPPINGS[wrapping](state), tmp_path / "clip.pt"), SMALL)
    assert "missing: vision_model.post_layernorm.bias. Expected" in message


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["visual.trunk.patch_embed.proj.weight", "text.transformer.embeddings.word_embeddings.weight"], "timm"),
        (["vision_model.head.probe", "vision_model.embeddings.patch_embedding.weight"], "SigLIP"),
        (["visual.conv1.weight", "token_embedding.weight", "logit_bias"], "sigmoid loss"),
        (["state_dict.model.visual.layer1.0.conv1.weight"], "ResNet CLIP"),
        (["encoder.layer.0.weight"], "no CLIP Vision Transformer: no tensor's name ends with"),
    ],
)
def test_other_families_are_named(tmp_path: Path, names: list[str], words: str) -> None:
    assert words in refusal(saved({name: torch.zeros(1) for name in names}, tmp_path / "other.pt"))
