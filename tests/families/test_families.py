"""Each family, compared with the original classes, from its folders to a step of training."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch

from lrclr.checkpoints import FAMILIES, load_checkpoint
from lrclr.errors import CheckpointError, EngineError, FindingsError, UsageError
from lrclr.evaluation import store
from lrclr.inference import ZeroShotClassifier
from lrclr.model import LrclrModel
from lrclr.model.attention import AttentionRecorder
from lrclr.model.towers.siglip import SiglipVision
from lrclr.text import Finding, FindingSet
from lrclr_export import ExportOptions, export_bundle
from lrclr_export.quantize._groups import groups_of
from tests import bundles
from tests.families import networks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from lrclr.checkpoints import Checkpoint

# Private: groups of int8, the loss of one step, and the gates on a network in PyTorch, since exports are too slow.
TEXTS = ("Edema", "no Pleural Effusion of the heart", "", "lung")


class Original(NamedTuple):
    """A network of the original classes.

    Attributes:
        checkpoint: the checkpoint that is read from its folder.
        images: function from pixel values to embeddings of any length.
        texts: function from token numbers and mask to embeddings of any length.
        network: the network.
    """

    checkpoint: Checkpoint
    images: Callable[[Tensor], Tensor]
    texts: Callable[[Tensor, Tensor], Tensor]
    network: Any


def _clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Original:
    del monkeypatch
    network = networks.clip()
    return Original(
        load_checkpoint(networks.clip_folder(folder)),
        lambda pixels: network.get_image_features(pixels).pooler_output,
        lambda ids, _: network.get_text_features(ids).pooler_output,
        network,
    )


def _siglip(folder: Path, monkeypatch: pytest.MonkeyPatch, **vision: Any) -> Original:
    del monkeypatch
    network = networks.siglip(**vision)
    return Original(
        load_checkpoint(networks.siglip_folder(folder, **vision)),
        lambda pixels: network.get_image_features(pixels).pooler_output,
        lambda ids, _: network.get_text_features(ids).pooler_output,
        network,
    )


def _dual(folder: Path, monkeypatch: pytest.MonkeyPatch, *, vision: str, text: str) -> Original:
    del monkeypatch
    network = networks.dual_encoder(vision, text)
    return Original(
        load_checkpoint(networks.dual_encoder_folder(folder, vision, text)),
        lambda pixels: network.get_image_features(pixels).pooler_output,
        lambda ids, mask: network.get_text_features(ids, mask).pooler_output,
        network,
    )


def _open_clip_siglip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Original:
    network = networks.open_clip_siglip(monkeypatch)
    networks.open_clip_folder(folder, network, networks.OPEN_CLIP_SIGLIP, networks.OPEN_CLIP_RECIPE)
    networks.write_pieces(folder)
    read = load_checkpoint(folder, heads=(4, 4))
    return Original(read, network.encode_image, lambda ids, _: network.encode_text(ids), network)


def _biomedclip(folder: Path, monkeypatch: pytest.MonkeyPatch, projection: str = "mlp") -> Original:
    network = networks.BiomedClip(monkeypatch, projection)
    config = json.loads(json.dumps(networks.BIOMEDCLIP))
    config["text_cfg"]["hf_proj_type"] = projection
    networks.open_clip_folder(folder, network, config, {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]})
    networks.write_vocabulary(folder)
    return Original(load_checkpoint(folder, heads=(4, 4)), network.visual, lambda ids, _: network.text(ids), network)


def _open_clip_clip(folder: Path, monkeypatch: pytest.MonkeyPatch, **shape: Any) -> Original:
    del monkeypatch
    network, config = networks.open_clip_clip(**shape)
    networks.open_clip_folder(folder, network, config, {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28]})

    def texts(ids: Tensor, _: Tensor) -> Tensor:
        embedding: Tensor = network.encode_text(torch.nn.functional.pad(ids, (0, 40 - ids.shape[1])))
        return embedding

    return Original(load_checkpoint(folder), network.encode_image, texts, network)


ORIGINALS: dict[str, Callable[[Path, pytest.MonkeyPatch], Original]] = {
    "clip": _clip,
    "siglip": _siglip,
    # Pixels at the right edge are not read, as in SigLIP so400m at 384.
    "siglip, odd size": partial(_siglip, image_size=75),
    "open_clip siglip": _open_clip_siglip,
    "biomedclip": _biomedclip,
    "biomedclip, linear": partial(_biomedclip, projection="linear"),
    # Heads of ViT-H/14 and ViT-bigG/14 are not 64 wide. bigG's MLP is not 4 times as wide as the tower.
    "open_clip clip": partial(_open_clip_clip, head_width=18, mlp_ratio=4.0, custom=False, quick_gelu=False),
    "open_clip clip, quick": partial(_open_clip_clip, head_width=24, mlp_ratio=4.9231, custom=True, quick_gelu=True),
    "vit and bert": partial(_dual, vision="vit", text="bert"),
    "clip and bert": partial(_dual, vision="clip", text="bert"),
    "vit and roberta": partial(_dual, vision="vit", text="roberta"),
}


@pytest.fixture(params=ORIGINALS)
def original(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Original:
    return ORIGINALS[request.param](tmp_path, monkeypatch)


def pixels_of(checkpoint: Checkpoint, count: int = 3) -> Tensor:
    side = checkpoint.config.vision_config.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)


def largest(difference: Tensor) -> float:
    return float(difference.abs().max())


@torch.no_grad()
def test_a_family_is_the_original_class(original: Original, tmp_path: Path) -> None:
    checkpoint = original.checkpoint
    model, pixels = checkpoint.model, pixels_of(checkpoint)
    tokens = checkpoint.tokenizer.encode(TEXTS)
    ids, mask = torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.mask)
    image, text = model.encode_image(pixels), model.encode_text(ids)
    assert largest(image.embedding - unit(original.images(pixels))) < 1e-6
    assert largest(text.embedding - unit(original.texts(ids, mask))) < 1e-6
    assert image.regions.tokens.shape == (3, 1 + checkpoint.config.num_regions, 72)
    # The image embeddings differ. Otherwise the test would show nothing.
    assert largest(image.embedding[0] - image.embedding[1]) > 1e-3
    pruned = model.encode_image(pixels, prune=True)
    assert largest(pruned.embedding - image.embedding) < 1e-5
    assert torch.equal(pruned.regions.index, image.regions.index)
    if not checkpoint.tokenizer.fixed_length:
        rows = zip(ids, mask.sum(1).tolist(), strict=True)
        alone = torch.cat([model.encode_text(row[None, :length]).embedding for row, length in rows])
        assert largest(alone - text.embedding) < 1e-6
    checkpoint.save(tmp_path / "lrclr")
    again = load_checkpoint(tmp_path / "lrclr")
    assert torch.equal(again.model.encode_text(ids).embedding, text.embedding)
    assert torch.equal(again.model.encode_image(pixels).embedding, image.embedding)
    assert again.tokenizer.encode(TEXTS).input_ids.tolist() == tokens.input_ids.tolist()
    assert again.preprocess == checkpoint.preprocess
    for field in ("family", "score_scale", "score_threshold", "text_pooler", "text_projection_kind", "assumed"):
        assert getattr(again.config, field) == getattr(checkpoint.config, field), field


def test_a_step_of_training(original: Original) -> None:
    from lrclr.training._parameters import frozen_parts
    from lrclr.training._settings import TrainSettings
    from lrclr.training._task import ContrastiveTask, LossSettings

    checkpoint = original.checkpoint
    model = checkpoint.model.train()
    tokens = checkpoint.tokenizer.encode(TEXTS)
    frozen_parts(model, TrainSettings())
    task = ContrastiveTask(model, LossSettings(local="pair+words"))
    loss = task(
        pixels_of(checkpoint, len(TEXTS)),
        torch.from_numpy(tokens.input_ids),
        torch.from_numpy(tokens.mask),
        torch.arange(len(TEXTS)),
    )["loss"]
    loss.backward()
    # In training with several processes, they would wait for a parameter without a gradient.
    without = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
    assert without == []
    assert bool(torch.isfinite(loss))


def test_every_linear_layer_of_the_blocks_has_a_group(original: Original) -> None:
    model = original.checkpoint.model
    for tower in ("vision_model", "text_model"):
        grouped = {name for group in groups_of(model, tower) for name in group.layers}
        blocks = "encoder.layer" if hasattr(getattr(model, tower).encoder, "layer") else "encoder.layers"
        linear = {
            name
            for name, module in model.named_modules()
            if name.startswith(f"{tower}.{blocks}.") and isinstance(module, torch.nn.Linear)
        }
        assert grouped == linear


def test_the_names_of_the_families() -> None:
    assert list(FAMILIES) == ["clip", "siglip", "biomedclip", "dual-encoder"]


# SigLIP.


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return _siglip(tmp_path_factory.mktemp("siglip"), pytest.MonkeyPatch())


@torch.no_grad()
def test_siglips_padding_is_visible(siglip: Original) -> None:
    checkpoint = siglip.checkpoint
    tokens = checkpoint.tokenizer.encode(["Edema", "x" * 0])
    assert tokens.input_ids.shape == (2, 64)
    assert tokens.mask.sum(1).tolist() == [int((tokens.input_ids[0] != 1).sum()) + 1, 1]
    ids = torch.from_numpy(tokens.input_ids)
    trimmed = checkpoint.model.encode_text(ids[:1, :3]).embedding
    assert largest(trimmed - checkpoint.model.encode_text(ids[:1]).embedding) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("mean", [False, True])
def test_siglips_rollout_starts_from_its_probe(siglip: Original, mean: bool) -> None:
    """Compared with a rollout in float64 from transformers' maps, and from the probe's attention, which it drops."""
    network, pixels = siglip.network, pixels_of(siglip.checkpoint, 2)
    config = siglip.checkpoint.config
    vision = network.vision_model
    vision.config._attn_implementation = "eager"
    out = vision(pixels, output_attentions=True)
    head = vision.head
    probe = head.probe.repeat(2, 1, 1)
    row = head.attention(probe, out.last_hidden_state, out.last_hidden_state, average_attn_weights=False)[1].double()
    for one in reversed(out.attentions):
        matrix = one.double()
        if mean:
            matrix = matrix.mean(1, keepdim=True) + torch.eye(25)
            matrix = matrix / matrix.sum(-1, keepdim=True)
            row = row.mean(1, keepdim=True)
        row = row @ matrix
    config.region_rollout, top_k = ("mean" if mean else "per_head"), config.region_top_k
    try:
        regions = siglip.checkpoint.model.encode_image(pixels).regions
    finally:
        config.region_rollout = "per_head"
    best = torch.sort(row[:, :, 0], dim=-1, descending=True, stable=True)
    np.testing.assert_array_equal(regions.index, best.indices[..., :top_k].flatten(1))
    np.testing.assert_allclose(regions.importance, best.values[..., :top_k].flatten(1), rtol=1e-4)


@torch.no_grad()
def test_siglips_probability_of_a_single_prompt_is_its_sigmoid(siglip: Original) -> None:
    checkpoint = siglip.checkpoint
    findings = FindingSet((Finding("Edema", ("edema",), ()), Finding("Fracture", ("fracture",), ("no fracture",))))
    classifier = ZeroShotClassifier.from_checkpoint(checkpoint)
    pixels = pixels_of(checkpoint, 2)
    answers = classifier.answer_pixels(pixels.numpy(), findings)
    ids = torch.from_numpy(checkpoint.tokenizer.encode(["edema", "fracture", "no fracture"]).input_ids)
    logits = siglip.network(input_ids=ids, pixel_values=pixels).logits_per_image
    np.testing.assert_allclose(answers.probability[:, 0], torch.sigmoid(logits[:, 0]), atol=1e-5)
    # With a pair of prompts, the bias cancels.
    pair = torch.softmax(logits[:, 1:], dim=-1)[:, 0]
    np.testing.assert_allclose(answers.probability[:, 1], pair, atol=1e-5)


@pytest.mark.slow
def test_stored_values_keep_the_threshold_of_a_single_prompt(siglip: Original, tmp_path: Path) -> None:
    findings = FindingSet((Finding("Edema", ("edema",), ()), Finding("Fracture", ("fracture",), ("no fracture",))))
    checkpoint = replace(siglip.checkpoint, findings=findings)
    export_bundle(checkpoint, tmp_path / "bundle", ExportOptions("fp32"))
    store(tmp_path / "bundle", alpha=None, score_scale=3.0, score_bias=0.5)
    assert bundles.call("verify", tmp_path / "bundle").returncode == 0
    pixels = pixels_of(checkpoint, 2).numpy()
    before = ZeroShotClassifier.from_checkpoint(checkpoint).answer_pixels(pixels)
    after = ZeroShotClassifier.from_bundle(tmp_path / "bundle").answer_pixels(pixels)
    gap = before.global_positive - before.global_negative
    np.testing.assert_allclose(after.probability, 1 / (1 + np.exp(-(3.0 * gap + 0.5))), atol=1e-4)


def test_a_single_prompt_needs_a_network_that_can_judge_it(tiny_checkpoint: Checkpoint) -> None:
    classifier = ZeroShotClassifier.from_checkpoint(tiny_checkpoint)
    image = np.zeros((40, 40), np.uint8)
    with pytest.raises(FindingsError, match="'Edema' has no negative prompts: this network was not trained"):
        classifier.predict([image], findings=FindingSet((Finding("Edema", ("edema",), ()),)))


ODD = (
    "",
    " ",
    "No pneumothorax.",
    "Pleural  effusion, right-sided!",
    "épanchement pleural",
    "両側下肺野",
    "A\tB\n C",
    "½ ﬁne",
)


def texts(seed: int, count: int) -> list[str]:
    drawn = random.Random(seed)
    letters = "abcdefghij XYZ.,!?-_/()[]{}'\"éÉßñ½ﬁ中文\t\u00a0Ⅳ"
    return [*ODD, *("".join(drawn.choices(letters, k=drawn.randint(0, 20))) for _ in range(count))]


def test_siglips_tokenizer_is_transformers(siglip: Original, tmp_path: Path) -> None:
    from transformers import SiglipTokenizer

    networks.write_pieces(tmp_path)
    theirs = SiglipTokenizer(str(tmp_path / "spiece.model"))
    ours = siglip.checkpoint.tokenizer
    for text in texts(0, 300):
        wanted = theirs(text, padding="max_length", max_length=64, truncation=True)["input_ids"]
        assert ours.encode([text], truncate=True).input_ids[0].tolist() == wanted, text


def test_siglip_2_has_gemmas_tokenizer_in_lower_case(tmp_path: Path) -> None:
    networks.saved(networks.siglip(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    networks.write_gemma(tmp_path)
    networks.write_processor(tmp_path, "SiglipImageProcessorFast", 70, resample=2)
    with pytest.raises(CheckpointError, match="entries, and the network 220"):
        load_checkpoint(tmp_path)
    wider = networks.siglip()
    wider.text_model.embeddings.token_embedding = torch.nn.Embedding(500, 72)
    networks.saved(wider, tmp_path)
    config["text_config"]["vocab_size"] = 500
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = load_checkpoint(tmp_path)
    assert (read.preprocess.kind, read.preprocess.resample) == ("squash", "bilinear")
    tokens = read.tokenizer.encode(["NO Edema", "no edema"])
    assert tokens.input_ids[0].tolist() == tokens.input_ids[1].tolist()
    assert (read.tokenizer.eot_id, read.tokenizer.pad_id, read.tokenizer.bos_id) == (1, 0, None)
    length = int(tokens.mask[0].sum())
    assert tokens.input_ids[0, length - 1 :].tolist() == [1] + [0] * (64 - length)
    with pytest.raises(FindingsError, match="meaning of its own"):
        read.tokenizer.encode(["edema <bos>"])


# BERT.


def test_a_vocabulary_is_berts_tokenizer(tmp_path: Path) -> None:
    from transformers import BertTokenizer

    from lrclr.checkpoints._wordpiece import bert_tokenizer

    networks.write_vocabulary(tmp_path)
    theirs = BertTokenizer(vocab=str(tmp_path / "vocab.txt"), do_lower_case=True)
    ours = bert_tokenizer(tmp_path, 64, 0)
    for text in texts(1, 300):
        wanted = theirs(text, truncation=True, max_length=64)["input_ids"]
        assert ours.encode([text], truncate=True).input_ids[0].tolist() == wanted, text
    for special in ("[PAD]", "[MASK]", "[SEP]", "[CLS]"):
        with pytest.raises(FindingsError, match="meaning of its own"):
            ours.encode([f"edema {special} x"])


@torch.no_grad()
def test_older_names_of_berts_tensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = networks.dual_encoder_folder(tmp_path)
    before = load_checkpoint(folder)
    state = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state.items()
    }
    old["text_model.embeddings.position_ids"] = torch.arange(64)[None]
    save_file(old, folder / "model.safetensors")
    after = load_checkpoint(folder)
    ids = torch.from_numpy(before.tokenizer.encode(TEXTS).input_ids)
    assert torch.equal(before.model.encode_text(ids).embedding, after.model.encode_text(ids).embedding)


# Networks that are refused.


def _changed(folder: Path, file: str, change: Callable[[dict[str, Any]], None]) -> Path:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw["vision_config"].update(vision_use_head=False), "without its pooling head"),
        (lambda raw: raw.update(model_type="siglip2"), "variable resolution"),
        (lambda raw: raw.update(model_type="resnet"), "no attention over patches"),
    ],
)
def test_a_siglip_that_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    folder = _changed(networks.siglip_folder(tmp_path), "config.json", change)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (torch.ones(3), "a logit_scale that is not a single number"),
        (torch.ones(0), "a logit_scale that is not a single number"),
        (torch.tensor(1000.0), "score_scale is not usable"),
        (torch.tensor(50.0), "score_scale is not usable"),
    ],
)
def test_a_scale_that_cannot_be_used(tmp_path: Path, scale: Tensor, words: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = networks.dual_encoder_folder(tmp_path)
    save_file({**load_file(folder / "model.safetensors"), "logit_scale": scale}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(folder)


@pytest.mark.parametrize("tower", ["vision_config", "text_config"])
@pytest.mark.parametrize("value", ["x", [1]])
def test_a_tower_that_is_not_a_table(tmp_path: Path, tower: str, value: object) -> None:
    makers: list[Callable[[Path], Path]] = [networks.siglip_folder, networks.dual_encoder_folder]
    for number, make in enumerate(makers):
        folder = _changed(make(tmp_path / str(number)), "config.json", lambda raw: raw.update({tower: value}))
        with pytest.raises(CheckpointError, match=f"its {tower} is not a table"):
            load_checkpoint(folder)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "ema"}, "Omit --key"),
        ({"activation": "quick_gelu"}, "the caller gave quick_gelu"),
        ({"heads": (2, 4)}, r"has 4 as vision_config\.num_attention_heads: the caller gave 2"),
    ],
)
def test_options_that_a_folder_contradicts(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    folder = networks.siglip_folder(tmp_path)
    with pytest.raises(UsageError, match=words):
        load_checkpoint(folder, **options)


@pytest.mark.parametrize("change", [{"norm_kwargs": 3}, {"act_kwargs": [1]}, {"context_length": "x", "heads": "x"}])
def test_values_of_other_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    config = json.loads(json.dumps(networks.OPEN_CLIP_SIGLIP))
    config["text_cfg"].update(change)
    folder = networks.open_clip_folder(tmp_path, networks.open_clip_siglip(monkeypatch), config, {})
    networks.write_pieces(folder)
    with pytest.raises(CheckpointError, match="cannot be used"):
        load_checkpoint(folder, heads=(4, 4))


def test_a_tokenizer_file_of_siglip_1_is_not_trusted(tmp_path: Path) -> None:
    folder = networks.siglip_folder(tmp_path)
    load_checkpoint(folder).tokenizer.save(folder / "tokenizer.json")
    (folder / "spiece.model").unlink()
    with pytest.raises(CheckpointError, match=r"Put spiece\.model of the original checkpoint there"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda raw: raw["vision_config"].update(model_type="swin"), "towers that lrclr cannot read"),
        (lambda raw: raw["vision_config"].update(pooler_act="gelu"), "pooler_act is 'gelu'"),
        (lambda raw: raw["vision_config"].update(num_attention_heads=5), "a divisor of hidden_size, 72"),
        (lambda raw: raw["text_config"].update(model_type="t5"), "towers that lrclr cannot read"),
        (lambda raw: raw["text_config"].update(is_decoder=True), "is_decoder is True"),
    ],
)
def test_a_dual_encoder_that_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], words: str) -> None:
    folder = _changed(networks.dual_encoder_folder(tmp_path), "config.json", change)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("tower", "key", "value", "words"),
    [
        ("vision_cfg", "timm_model_name", "resnet50", "resnet50 is not a plain Vision Transformer"),
        ("vision_cfg", "timm_model_name", "convnext_base", "regions are picked"),
        ("vision_cfg", "timm_model_name", "vit_base_patch16_clip_224", "not a plain Vision Transformer"),
        ("vision_cfg", "timm_proj", "mlp", "timm_proj is 'mlp'"),
        ("vision_cfg", "timm_pool", "avg", "timm_pool is 'avg'"),
        ("text_cfg", "hf_pooler_type", "mean_pooler", "hf_pooler_type is 'mean_pooler'"),
    ],
)
def test_a_biomedclip_that_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tower: str, key: str, value: str, words: str
) -> None:
    config = json.loads(json.dumps(networks.BIOMEDCLIP))
    config[tower][key] = value
    network = networks.BiomedClip(monkeypatch)
    folder = networks.open_clip_folder(tmp_path, network, config, {})
    networks.write_vocabulary(folder)
    with pytest.raises(CheckpointError, match=words):
        load_checkpoint(folder, heads=(4, 4))


def test_heads_that_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = networks.open_clip_folder(tmp_path, networks.BiomedClip(monkeypatch), networks.BIOMEDCLIP, {})
    networks.write_vocabulary(folder)
    with pytest.raises(CheckpointError, match="attention heads of the text tower"):
        load_checkpoint(folder)


def test_a_rollout_that_would_take_gigabytes_averages_the_heads() -> None:
    from lrclr.checkpoints.families._family import made_config

    tower = {"hidden_size": 64, "num_attention_heads": 16, "num_hidden_layers": 27, "intermediate_size": 64}
    fields = {
        "vision_config": {"model_type": "siglip_vision_model", **tower, "image_size": 448, "patch_size": 14},
        "text_config": {"model_type": "siglip_text_model", **tower},
        "projection_dim": 64,
    }
    folder: Any = None
    assert made_config(fields, folder).region_rollout == "mean"
    assert made_config({**fields, "region_rollout": "per_head"}, folder).region_rollout == "per_head"
    fields["vision_config"]["image_size"] = 224  # type: ignore[index]
    assert made_config(fields, folder).region_rollout == "per_head"


# Declarations of the towers.


def refused_gates(original: Original, mutate: Callable[[], None] = lambda: None, **declared: Any) -> set[str]:
    """The gates that refuse the network with another network's declarations. PyTorch runs the graphs.

    Args:
        original: the network, whose outputs the gates compare with.
        mutate: changes a tower after these outputs were computed.
        declared: other values of the declarations that gates are chosen by.
    """
    from lrclr.engines._torch import TorchEngine
    from lrclr.inference import ModelSpec
    from lrclr.verification import Tolerances
    from lrclr.verification._run import run_gates
    from lrclr_export.repository.golden import golden_from_checkpoint

    checkpoint = replace(original.checkpoint, findings=FindingSet.from_names(["Edema", "Lung Lesion"]))
    golden = golden_from_checkpoint(checkpoint)
    spec = ModelSpec.of_checkpoint(checkpoint)
    tokenizer = spec.tokenizer
    assert tokenizer is not None
    if "fixed_length" in declared:
        tokenizer._fixed_length = declared.pop("fixed_length")
    spec = replace(spec, tokenizer=tokenizer, **declared)
    mutate()
    results = run_gates(TorchEngine(checkpoint.model), golden, spec, Tolerances.for_precision("fp32"))
    return {result.gate for result in results if not result.passed}


def _read_from_a_patch(tower: Any, hidden: Tensor, recorder: Any) -> Tensor:
    """SigLIP's pooling with the last block's first row instead of the probe's attention."""
    recorder.add(recorder.maps[-1][:, :, :1])
    return SiglipVision.read(tower, hidden, AttentionRecorder(1, mean=recorder.mean))


def _read_a_patch(tower: Any, hidden: Tensor, recorder: Any) -> Tensor:
    """SigLIP's rollout with the first patch as the global token."""
    SiglipVision.read(tower, hidden, recorder)
    token: Tensor = tower.post_layernorm(hidden)[:, :1]
    return token


_PLAIN = partial(_dual, vision="vit", text="bert")
TOWER_MUTANTS: dict[str, tuple[Callable[..., Original], str, str, Any, str]] = {
    "clip, no token before the patches": (_clip, "vision_model", "prefix", 0, "error"),
    "siglip, a token before the patches": (_siglip, "vision_model", "prefix", 1, "error"),
    "siglip, rollout from a patch": (_siglip, "vision_model", "read", _read_from_a_patch, "region gap"),
    "siglip, a patch is the global token": (_siglip, "vision_model", "read", _read_a_patch, "cosine"),
    "clip, pooled without its LayerNorm": (_clip, "vision_model", "pool", lambda _tower, token: token, "cosine"),
    "vit, pooled without tanh": (_PLAIN, "vision_model", "pool", lambda _tower, token: token, "cosine"),
    "bert, other padding": (_PLAIN, "text_model", "pad_id", 4, "change by batch and padding"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWER_MUTANTS)
def test_a_mutant_of_what_a_tower_declares_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    make, part, declaration, wrong, gate = TOWER_MUTANTS[name]
    original = make(tmp_path, monkeypatch)
    tower = getattr(original.checkpoint.model, part)
    value = partial(wrong, tower) if callable(wrong) else wrong
    try:
        refused = refused_gates(original, lambda: monkeypatch.setattr(tower, declaration, value))
    except EngineError:
        refused = {"error"}
    assert gate in refused


@pytest.mark.slow
def test_declarations_of_bert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert = _dual(tmp_path, monkeypatch, vision="vit", text="bert")
    assert refused_gates(bert) == set()
    assert refused_gates(bert, causal=True) == {"change by tokens after EOT"}
    # Padding that is not masked.
    with monkeypatch.context() as patch:
        patch.setattr(bert.checkpoint.model.text_model, "pad_id", 4)
        assert "change by batch and padding" in refused_gates(bert)
    assert "prompts of another length taken" in refused_gates(bert, fixed_length=True)


@torch.no_grad()
def test_a_declaration_of_siglips_image_tower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    siglip = _siglip(tmp_path, monkeypatch)
    model = siglip.checkpoint.model
    # The last block would be computed for the selected patches alone, as in an exported graph; the probe reads all.
    monkeypatch.setattr(type(model.vision_model), "prunable", True)
    with pytest.raises(RuntimeError, match="attention maps were recorded"):
        model.encode_image(pixels_of(siglip.checkpoint), prune=True)


@pytest.mark.slow
def test_declarations_of_siglip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    siglip = _siglip(tmp_path, monkeypatch)
    # PyTorch supports prompts of any length, the exported graph does not.
    assert refused_gates(siglip) == {"prompts of another length taken"}
    assert "change by tokens after EOT" in refused_gates(siglip, causal=True)
    assert {"change by batch and padding", "cosine"} <= refused_gates(siglip, fixed_length=False)


@pytest.mark.slow
def test_declarations_of_clip(tiny_checkpoint: Checkpoint) -> None:
    clip = Original(load_checkpoint("default"), None, None, None)  # type: ignore[arg-type]
    assert refused_gates(clip, causal=False) == {"change by tokens after EOT"}


# open_clip.


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("ViT-H-14", (16, 16)),
        ("ViT-g-14", (16, 16)),
        ("ViT-bigG-14", (16, 20)),
        ("ViT-B-16-plus-240", (14, 10)),
        ("ViT-B-32-quickgelu", (12, 8)),
        ("ViT-L-14-336", (16, 12)),
    ],
)
def test_open_clips_networks_have_the_shapes_that_are_read(tmp_path: Path, name: str, heads: tuple[int, int]) -> None:
    """Of the published sizes, without their memory: names and shapes of all tensors, heads and activation."""
    networks.stub_torchvision()
    import open_clip

    from lrclr.checkpoints._beside import facts_beside
    from lrclr.checkpoints._network import config_of
    from lrclr.checkpoints._openai import renamed

    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        theirs = open_clip.model.CLIP(**config).state_dict()
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    state = renamed(theirs)
    read = config_of(state, facts_beside(tmp_path), tmp_path)
    with torch.device("meta"):
        ours = LrclrModel(read).state_dict()
    towers = {key: tensor.shape for key, tensor in ours.items() if not key.startswith("fusion_head.")}
    assert towers == {key: tensor.shape for key, tensor in state.items()}
    assert (read.vision_config.num_attention_heads, read.text_config.num_attention_heads) == heads
    quick = bool(config.get("quick_gelu"))
    assert read.vision_config.hidden_act == ("quick_gelu" if quick else "gelu")
