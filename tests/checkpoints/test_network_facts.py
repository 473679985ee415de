"""Facts that tensors do not determine: read from files beside them, given by options, or assumed and recorded."""

from __future__ import annotations

import json
import warnings
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from lrclr.bench import reference_from
from lrclr.checkpoints import load_checkpoint

# Private: facts of networks that are too large to be saved and loaded here.
from lrclr.checkpoints._network import config_of
from lrclr.checkpoints._openai import renamed
from lrclr.cli import main
from lrclr.errors import CheckpointError, UsageError
from lrclr.inference import ModelSpec
from lrclr.model import LrclrModel
from lrclr.text import ClipTokenizer
from lrclr_export.repository.entries import model_entry
from tests.checkpoints.spoiling import SMALL, refusal, saved
from tests.checkpoints.test_openai import assert_same_embeddings
from tests.families.networks import open_clip_clip, open_clip_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.checkpoints.conftest import OpenAiClip, OpenAiFactory
    from tests.conftest import Prompts

State = dict[str, Tensor]
# A ViT-H/14 with fewer and narrower layers: heads of 80 in the image tower, GELU.
LIKE_VIT_H: dict[str, Any] = {
    "width": 160,
    "patch": 14,
    "grid": 3,
    "text_width": 128,
    "dimension": 32,
    "head_width": 80,
    "gelu": True,
}
OPEN_CLIP: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 42, "layers": 2, "width": 160, "head_width": 80, "patch_size": 14},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


@pytest.fixture(scope="module")
def like_vit_h(openai_clip: OpenAiFactory) -> OpenAiClip:
    return openai_clip(**LIKE_VIT_H)


@pytest.fixture
def weights(like_vit_h: OpenAiClip, tmp_path: Path) -> Path:
    return saved(like_vit_h.state_dict(), tmp_path / "open_clip_pytorch_model.bin")


def beside(weights: Path, name: str, content: dict[str, Any]) -> Path:
    (weights.parent / name).write_text(json.dumps(content))
    return weights


def changed(*path: str, value: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(OPEN_CLIP))
    table = config
    for name in path[:-1]:
        table = table[name]
    table[path[-1]] = value
    return config  # type: ignore[no-any-return]


def test_wide_heads_are_set_by_options(like_vit_h: OpenAiClip, weights: Path, prompts: Prompts) -> None:
    read = load_checkpoint(weights, heads=(2, 2), activation="gelu")
    assert_same_embeddings(read, like_vit_h, prompts)
    assert read.assumed == (
        "layer norm epsilon: 1e-05 (image) and 1e-05 (text)",
        "pooling: CLS (image) and the prompt's end (text)",
        "attention: causal (text)",
        "preprocessing: chexzero",
    )
    # Each of these facts matters: another value changes the embeddings.
    for heads, activation in (((4, 2), "gelu"), ((2, 4), "gelu"), ((2, 2), "quick_gelu")):
        wrong = load_checkpoint(weights, heads=heads, activation=activation)
        with pytest.raises(AssertionError):
            assert_same_embeddings(wrong, like_vit_h, prompts)


def test_wide_heads_equal_transformers(weights: Path, prompts: Prompts) -> None:
    read = load_checkpoint(weights, heads=(2, 2), activation="gelu")
    tower = {"hidden_act": "gelu", "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        projection_dim=32,
        vision_config=tower | {"hidden_size": 160, "intermediate_size": 640, "image_size": 42, "patch_size": 14},
        text_config=tower | {"hidden_size": 128, "intermediate_size": 512},
    )
    theirs = CLIPModel(config).eval()
    theirs.set_attn_implementation("eager")
    own = read.model.state_dict()
    theirs.load_state_dict({name: own[name] for name in theirs.state_dict()})
    ids, mask = prompts("Edema", "no Edema")
    pixels = torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, actual = theirs(input_ids=ids, pixel_values=pixels), read.model(ids, pixels, mask)
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=1e-6)


def test_open_clips_configuration_beside_a_file_is_read(
    like_vit_h: OpenAiClip, weights: Path, prompts: Prompts
) -> None:
    read = load_checkpoint(beside(weights, "open_clip_config.json", OPEN_CLIP))
    assert_same_embeddings(read, like_vit_h, prompts)
    assert read.assumed == ()
    spec = read.preprocess
    assert (spec.kind, spec.mean, spec.std, spec.resize) == ("clip", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 42)
    # The caller's preprocessing has precedence. Heads that contradict a configuration are an error.
    assert load_checkpoint(weights, preprocess="chexzero").preprocess.kind == "chexzero"
    with pytest.raises(CheckpointError, match=r"4 by the caller, and 2 by open_clip_config\.json"):
        load_checkpoint(weights, heads=(4,))


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_an_open_clip_folder_is_read(like_vit_h: OpenAiClip, tmp_path: Path, prompts: Prompts, file: str) -> None:
    state = dict(like_vit_h.state_dict())
    if file.endswith("bin"):
        torch.save(state, tmp_path / file)
    else:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / file)
    beside(tmp_path / file, "open_clip_config.json", OPEN_CLIP)
    read = load_checkpoint(tmp_path)
    assert read.source == "open_clip"
    assert_same_embeddings(read, like_vit_h, prompts)


def test_a_transformers_configuration_beside_a_file_is_read(
    like_vit_h: OpenAiClip, weights: Path, prompts: Prompts
) -> None:
    tower = {"hidden_act": "gelu", "num_hidden_layers": 2, "num_attention_heads": 2, "layer_norm_eps": 1e-5}
    vision = tower | {"hidden_size": 160, "intermediate_size": 640, "image_size": 42, "patch_size": 14}
    config = {
        "model_type": "clip",
        "projection_dim": 32,
        "vision_config": vision,
        "text_config": tower | {"hidden_size": 128, "intermediate_size": 512},
    }
    beside(weights, "preprocessor_config.json", {"size": 50, "crop_size": 42})
    read = load_checkpoint(beside(weights, "config.json", config))
    assert_same_embeddings(read, like_vit_h, prompts)
    assert (read.assumed, read.preprocess.resize) == ((), 50)
    # The configuration of a training script with the same file name is ignored.
    with pytest.raises(CheckpointError, match="--heads"):
        load_checkpoint(beside(weights, "config.json", {"lr": 1e-4}))
    beside(weights, "config.json", config | {"vision_config": vision | {"num_hidden_layers": 3}})
    assert "does not fit config.json beside it: num_hidden_layers" in refusal(weights)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("model_cfg", "vision_cfg", "layers"), 3, "num_hidden_layers of the image tower"),
        (("model_cfg", "vision_cfg", "image_size"), 56, "image_size"),
        (("model_cfg", "text_cfg", "width"), 64, "hidden_size of the text tower"),
        (("model_cfg", "embed_dim"), 64, "projection_dim"),
        (("model_cfg", "vision_cfg", "pool_type"), "avg", "vision_cfg.pool_type is 'avg'"),
        (("model_cfg", "vision_cfg", "no_ln_pre"), True, "no_ln_pre"),
        (("model_cfg", "vision_cfg", "timm_model_name"), "vit_base", "timm_model_name"),
        (("model_cfg", "text_cfg", "no_causal_mask"), True, "no_causal_mask"),
        (("model_cfg", "text_cfg", "a_future_key"), 3, "a_future_key"),
        (("model_cfg", "text_cfg", "hf_model_name"), "bert", "hf_model_name"),
        (("model_cfg", "init_logit_bias"), -10, "sigmoid loss"),
        (("model_cfg", "vision_cfg", "head_width"), 50, "not a multiple"),
        (("model_cfg", "vision_cfg", "act_kwargs"), {"negative_slope": 1}, "activation"),
        (("model_cfg", "vision_cfg"), "ViT", "not an open_clip configuration"),
        (("model_cfg", "text_cfg", "heads"), "many", "heads is 'many'"),
        (("model_cfg", "text_cfg", "heads"), 0, "heads is 0"),
        (("model_cfg", "vision_cfg", "layers"), [3, 4, 6, 3], "layers is [3, 4, 6, 3]"),
        (("preprocess_cfg", "interpolation"), "bilinear", "interpolation is 'bilinear'"),
        (("preprocess_cfg", "mean"), [0.5], "mean"),
    ],
)
def test_an_open_clip_configuration_that_does_not_fit_is_refused(
    weights: Path, path: tuple[str, ...], value: Any, words: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(beside(weights, "open_clip_config.json", changed(*path, value=value)))
    assert words in str(caught.value)
    assert "open_clip_config.json" in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "field", "expected"),
    [
        (("model_cfg", "quick_gelu"), True, "hidden_act", "quick_gelu"),
        (("model_cfg", "vision_cfg", "act_kwargs"), {"approximate": "tanh"}, "hidden_act", "gelu_pytorch_tanh"),
        (("model_cfg", "vision_cfg", "norm_kwargs"), {"eps": 1e-6}, "layer_norm_eps", 1e-6),
        (("model_cfg", "vision_cfg", "patch_dropout"), 0.5, "hidden_act", "gelu"),
    ],
)
def test_fields_of_open_clip_are_read(
    weights: Path, path: tuple[str, ...], value: Any, field: str, expected: Any
) -> None:
    read = load_checkpoint(beside(weights, "open_clip_config.json", changed(*path, value=value)))
    assert getattr(read.config.vision_config, field) == expected


def test_an_edge_that_is_no_whole_patch_is_not_read(tmp_path: Path) -> None:
    model, config = open_clip_clip(18, 2.0, custom=False, quick_gelu=False, image_size=75)
    read = load_checkpoint(open_clip_folder(tmp_path, model, config, {}))
    assert (read.config.vision_config.image_size, read.preprocess.image_size, read.config.num_patches) == (75, 75, 25)
    pixels = torch.randn(2, 3, 75, 75, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.eval().encode_image(pixels), dim=-1)
        actual = read.model.encode_image(pixels).embedding
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def shapes(openai_clip: OpenAiFactory, **sizes: int) -> State:
    with torch.device("meta"):
        return renamed(openai_clip(**sizes).state_dict())


# Width, layers and heads that OpenAI published.
VISION = {"ViT-B": (768, 12, 12), "ViT-L": (1024, 24, 16)}
TEXT = {"B": (512, 12, 8), "L": (768, 12, 12)}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("text", TEXT)
@pytest.mark.parametrize("patch", [14, 16, 32])
def test_openais_networks_need_no_option(
    openai_clip: OpenAiFactory, tmp_path: Path, vision: str, text: str, patch: int
) -> None:
    width, layers, heads = VISION[vision]
    text_width, text_layers, text_heads = TEXT[text]
    sizes = {"width": width, "layers": layers, "text_width": text_width, "text_layers": text_layers}
    config = config_of(shapes(openai_clip, patch=patch, grid=2, **sizes), [], tmp_path)
    assert (config.vision_config.num_attention_heads, config.text_config.num_attention_heads) == (heads, text_heads)
    assert config.assumed == [
        f"attention heads: {heads} (image) and {text_heads} (text), as OpenAI published of these sizes",
        "activation: quick_gelu (image) and quick_gelu (text), as in OpenAI's networks (open_clip's own have gelu)",
        "layer norm epsilon: 1e-05 (image) and 1e-05 (text)",
        "pooling: CLS (image) and the prompt's end (text)",
        "attention: causal (text)",
    ]


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"width": 1280, "layers": 32}, "no image tower of 32 layers of width 1280"),
        ({"width": 1664, "layers": 48}, "ViT-bigG-14 has 16,20"),
        (
            {"width": 768, "layers": 12, "text_width": 1024, "text_layers": 24},
            "no text tower of 24 layers of width 1024",
        ),
        ({"width": 768, "layers": 11}, "no image tower of 11 layers of width 768"),
        ({"width": 896, "layers": 12}, "width 896"),
    ],
)
def test_other_sizes_need_an_option(
    openai_clip: OpenAiFactory, tmp_path: Path, sizes: dict[str, int], words: str
) -> None:
    sizes = {"text_width": 512, "text_layers": 12} | sizes
    with pytest.raises(CheckpointError, match=words) as caught:
        config_of(shapes(openai_clip, **sizes), [], tmp_path)
    assert "--heads IMAGE,TEXT" in str(caught.value)


def test_the_width_of_an_mlp_is_read_from_its_weights(openai_clip: OpenAiFactory, tmp_path: Path) -> None:
    state = shapes(openai_clip, width=768, layers=12, text_width=512, text_layers=12)
    for layer in range(12):
        name = f"vision_model.encoder.layers.{layer}.mlp.fc1.weight"
        state[name] = torch.zeros(3000, 768, device="meta")
    assert config_of(state, [], tmp_path).vision_config.intermediate_size == 3000


def test_wrong_options_are_refused(folder: Path, weights: Path) -> None:
    for heads in ((), (0,), (1, 2, 3), (True,), (2.0,)):
        with pytest.raises(UsageError, match="attention heads"):
            load_checkpoint(weights, heads=heads)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown activation 'relu'"):
        load_checkpoint(weights, activation="relu")
    # A folder has its configuration.
    load_checkpoint(folder, heads=(2, 1), activation="quick_gelu")
    with pytest.raises(UsageError, match=r"has 2 as vision_config\.num_attention_heads: the caller gave 4"):
        load_checkpoint(folder, heads=(4,))
    with pytest.raises(UsageError, match="hidden_act"):
        load_checkpoint(folder, activation="gelu")


def test_a_wrong_option_contradicts_the_modules_in_an_archive(torchscript: Path) -> None:
    read = load_checkpoint(torchscript)
    assert read.config.vision_config.hidden_act == "quick_gelu"
    assert [line.partition(":")[0] for line in read.assumed] == [
        "layer norm epsilon",
        "pooling",
        "preprocessing",
    ]
    with pytest.raises(CheckpointError, match="contradict each other"):
        load_checkpoint(torchscript, heads=(4, 1))


def test_assumptions_stay_with_the_network(state: State, tmp_path: Path) -> None:
    read = load_checkpoint(saved(state, tmp_path / "clip.pt"), heads=SMALL)
    assert len(read.assumed) == 5
    read.save(tmp_path / "folder")
    assert load_checkpoint(tmp_path / "folder").assumed == read.assumed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = LrclrModel.from_pretrained(tmp_path / "folder", local_files_only=True)
    assert theirs.config.assumed == list(read.assumed)
    # The manifest of a bundle contains the network's configuration.
    assert model_entry(read)["assumed"] == list(read.assumed)
    assert ModelSpec.of_checkpoint(read).assumed == read.assumed


def test_a_tokenizer_in_the_same_folder_needs_a_configuration(weights: Path) -> None:
    backend = Tokenizer.from_str(resources.files("lrclr").joinpath("data", "clip_tokenizer.json").read_text("utf-8"))
    backend.add_tokens(["<finding>"])
    backend.save(str(weights.parent / "tokenizer.json"))
    # It may belong to another network, unless a configuration shows that the folder belongs to this one.
    read = load_checkpoint(weights, heads=(2, 2))
    assert read.tokenizer.sha256 == ClipTokenizer.default().sha256
    assert "the tokenizer that it is read with has 49409" in refusal(
        beside(weights, "open_clip_config.json", OPEN_CLIP)
    )


def command(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    return code, " ".join(capfd.readouterr().err.split())


def test_convert_reports_its_assumptions(weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, output = command(capfd, "convert", weights, tmp_path / "out")
    assert code == 1
    assert "the number of attention heads" in output
    assert not (tmp_path / "out").exists()
    code, output = command(capfd, "convert", weights, tmp_path / "out", "--heads", "2,2", "--activation", "gelu")
    assert code == 0
    assert "assumed: layer norm epsilon: 1e-05 (image) and 1e-05 (text)" in output
    assert "assumed: preprocessing: chexzero" in output
    assert "activation:" not in output
    for wrong in ("many", "2,", "2;2", ""):
        assert command(capfd, "convert", weights, tmp_path / "b", "--heads", wrong)[0] == 2
    assert command(capfd, "convert", weights, tmp_path / "b", "--heads", "3,2")[0] == 1


@pytest.mark.parametrize("option", ["--heads", "--activation", "--key"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "{weights}", "-o", "{out}", "--engine", "onnxruntime"),
        ("convert", "{weights}", "{out}"),
        ("train", "{table}", "--base", "{weights}", "-o", "{out}"),
        ("evaluate", "{weights}", "{table}"),
        ("bench", "{weights}"),
    ],
    ids=["export", "convert", "train", "evaluate", "bench"],
)
def test_every_command_that_reads_a_checkpoint_takes_the_options(
    weights: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    phantom_table: Callable[[], Path],
    option: str,
    arguments: tuple[str, ...],
) -> None:
    """A value that does not fit is refused by the reader, which shows that the option reaches it."""
    names = {"weights": weights, "out": tmp_path / "out", "table": phantom_table()}
    wrong, words = {
        "--heads": ("3,2", "cannot have 3 attention heads"),
        "--activation": ("relu", "unknown activation 'relu'"),
        "--key": ("ema", "no CLIP under 'ema'"),
    }[option]
    filled = [argument.format(**names) for argument in arguments]
    code, output = command(capfd, *filled, option, wrong)
    assert code in {1, 2}
    assert words in output


def test_the_reference_of_bench_is_read_with_the_options(weights: Path) -> None:
    with pytest.raises(CheckpointError, match="3 attention heads"):
        reference_from(str(weights), {"heads": (3, 2)})


def test_reading_options_without_a_checkpoint_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for arguments in (("evaluate", tmp_path, tmp_path / "table.csv"), ("bench", tmp_path)):
        code, output = command(capfd, *arguments, "--heads", "2")
        assert code == 2
        assert "--heads cannot be used here" in output


@pytest.fixture
def phantom_table(tmp_path: Path) -> Callable[[], Path]:
    """A factory of a table with two images and a label."""

    def make() -> Path:
        from lrclr.samples import SAMPLES

        table = tmp_path / "table.csv"
        rows = [
            f"{SAMPLES[number].path('png')},clear lungs,{split},{number},{number}"
            for number, split in enumerate(("train", "test"))
        ]
        table.write_text("\n".join(["image,report,split,patient,Edema", *rows]) + "\n")
        return table

    return make
