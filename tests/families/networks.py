"""Tiny random networks of the original classes, and their folders as the libraries write them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from lrclr.text import FindingSet

if TYPE_CHECKING:
    from pathlib import Path

VISION = {"hidden_size": 72, "intermediate_size": 134, "num_hidden_layers": 3, "num_attention_heads": 4}
IMAGE = {"image_size": 70, "patch_size": 14}
WORDS = tuple(sorted({word for text in FindingSet.default().prompts for word in text.lower().split()}))


def perturbed(module: Any, seed: int = 0) -> Any:
    """Change norms, biases and positions from their initial values, so that a lost parameter changes the result."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim <= 1 and parameter.numel() > 1:
                parameter.copy_(noise * 0.2 + (1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0))
            elif any(part in name for part in ("cls_token", "pos_embed", "position_embedding", "probe", "latent")):
                parameter.copy_(noise * 0.3)
            elif any(part in name for part in ("q_proj", "k_proj", "query", "key", "qkv")):
                parameter.mul_(2)
            elif parameter.ndim == 4:
                # Images, and words, must differ by more than positions do. Otherwise their embeddings coincide.
                parameter.mul_(4)
            elif any(part in name for part in ("word_embeddings", "token_embedding")):
                parameter.copy_(noise)
    return module.eval().requires_grad_(False)


def siglip(**vision: Any) -> Any:
    """A SigLIP with the vocabulary of `write_pieces`."""
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(0)
    text = {**VISION, "vocab_size": 220, "projection_size": 72, "bos_token_id": 3, "eos_token_id": 1}
    model = SiglipModel(SiglipConfig(vision_config={**VISION, **IMAGE, **vision}, text_config=text))
    perturbed(model)
    model.logit_scale.data.fill_(2.3)
    model.logit_bias.data.fill_(-3.1)
    return model


def dual_encoder(vision: str = "vit", text: str = "bert") -> Any:
    """A ``VisionTextDualEncoderModel``. The vocabulary of BERT is that of `write_vocabulary`."""
    from transformers import (
        BertConfig,
        CLIPVisionConfig,
        RobertaConfig,
        VisionTextDualEncoderConfig,
        VisionTextDualEncoderModel,
        ViTConfig,
    )

    torch.manual_seed(0)
    image = {"vit": ViTConfig, "clip": CLIPVisionConfig}[vision](**VISION, **IMAGE)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    words = {
        "bert": lambda: BertConfig(vocab_size=len(vocabulary()), max_position_embeddings=64, **sizes),
        "roberta": lambda: RobertaConfig(vocab_size=300, max_position_embeddings=66, type_vocab_size=1, **sizes),
    }[text]()
    config = VisionTextDualEncoderConfig.from_vision_text_configs(image, words, projection_dim=24)
    model = VisionTextDualEncoderModel(config)
    perturbed(model)
    model.logit_scale.data.fill_(1.7)
    return model


def vocabulary() -> list[str]:
    """A WordPiece vocabulary."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return [
        *special,
        *sorted(set(WORDS) - set(letters)),
        *letters,
        *".,!?-'();",
        *(f"##{letter}" for letter in letters),
    ]


def write_vocabulary(folder: Path) -> None:
    """BERT's ``vocab.txt``."""
    (folder / "vocab.txt").write_text("\n".join(vocabulary()))


def write_pieces(folder: Path, size: int = 220) -> None:
    """SigLIP's ``spiece.model``, trained on `WORDS`."""
    import random

    import sentencepiece

    drawn = random.Random(0)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(" ".join(drawn.choices(WORDS, k=12)) for _ in range(2000)))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(corpus),
        model_prefix=str(folder / "spiece"),
        vocab_size=size,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
        num_threads=1,
    )
    corpus.unlink()
    (folder / "spiece.vocab").unlink()


def write_gemma(folder: Path) -> None:
    """A ``tokenizer.json`` like Gemma's, which SigLIP 2 uses: byte-pair encoding, with `<bos>` at the beginning."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=[*special, *bytes_], show_progress=False)
    made.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    made.save(str(folder / "tokenizer.json"))


def write_processor(folder: Path, kind: str, size: int, **more: Any) -> None:
    """transformers' ``preprocessor_config.json``."""
    square = {"height": size, "width": size}
    content: dict[str, Any] = {"image_processor_type": kind, "size": square}
    if kind.startswith("CLIP"):
        content |= {"size": {"shortest_edge": size}, "crop_size": square}
    (folder / "preprocessor_config.json").write_text(json.dumps(content | more))


def saved(model: Any, folder: Path) -> Path:
    """`model.save_pretrained`, without its progress bar."""
    from transformers.utils import logging

    folder.mkdir(parents=True, exist_ok=True)
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model.save_pretrained(folder)
    finally:
        logging.set_verbosity(level)
    return folder


def clip() -> Any:
    """A transformers ``CLIPModel`` with the vocabulary of CLIP."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    words = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    text = {**words, "max_position_embeddings": 40}
    return perturbed(CLIPModel(CLIPConfig(vision_config={**VISION, **IMAGE}, text_config=text, projection_dim=24)))


def clip_folder(folder: Path) -> Path:
    """A CLIP as transformers writes it."""
    from lrclr.text import ClipTokenizer

    saved(clip(), folder)
    ClipTokenizer.default().save(folder / "tokenizer.json")
    write_processor(folder, "CLIPImageProcessor", IMAGE["image_size"])
    return folder


def siglip_folder(folder: Path, **vision: Any) -> Path:
    """A SigLIP as transformers writes it."""
    saved(siglip(**vision), folder)
    write_pieces(folder)
    write_processor(folder, "SiglipImageProcessor", vision.get("image_size", IMAGE["image_size"]))
    return folder


def dual_encoder_folder(folder: Path, vision: str = "vit", text: str = "bert") -> Path:
    """A ``VisionTextDualEncoder`` as transformers writes it."""
    saved(dual_encoder(vision, text), folder)
    if text == "bert":
        write_vocabulary(folder)
    else:
        write_roberta(folder)
    kind = "ViTImageProcessor" if vision == "vit" else "CLIPImageProcessor"
    write_processor(folder, kind, IMAGE["image_size"])
    return folder


def write_roberta_files(folder: Path) -> None:
    """RoBERTa's ``vocab.json`` and ``merges.txt``, of the vocabulary of `write_roberta`."""
    from tokenizers import Tokenizer

    write_roberta(folder)
    Tokenizer.from_file(str(folder / "tokenizer.json")).model.save(str(folder))
    (folder / "tokenizer.json").unlink()


def write_t5(folder: Path) -> None:
    """A ``tokenizer.json`` of T5's kind, as open_clip's repositories of SigLIP 1 have it: nothing cleans a text."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), "▁")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=220, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.save(str(folder / "tokenizer.json"))
    _write_settings(folder, "</s>", "</s>")


def write_gemma_without_bos(folder: Path) -> None:
    """`write_gemma` as open_clip's repositories of SigLIP 2 have it."""
    write_gemma(folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    # In Gemma's file bytes are ordinary tokens.
    raw["added_tokens"] = [token for token in raw["added_tokens"] if not token["content"].startswith("<0x")]
    raw["post_processor"]["single"] = [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<eos>", "type_id": 0}},
    ]
    raw["post_processor"]["special_tokens"] = {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}}
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    _write_settings(folder, "<eos>", "<pad>")


def _write_settings(folder: Path, end: str, padding: str) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "pad_token": padding}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_roberta(folder: Path) -> None:
    """A ``tokenizer.json`` like RoBERTa's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    made.save(str(folder / "tokenizer.json"))


def stub_torchvision() -> None:
    """Install an empty torchvision: open_clip and timm import it for transforms, which no test runs.

    open_clip and timm are not in the extra `dev`, since they would install a torchvision, which must match torch.
    `make setup` installs them without it.
    """
    for library in ("open_clip", "timm"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed; `make setup` installs it")
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return

    # transformers looks for torchvision when this module is imported.
    import transformers.image_utils  # noqa: F401

    class Stub(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            levels = {"NEAREST": 0, "LANCZOS": 1, "BILINEAR": 2, "BICUBIC": 3, "BOX": 4, "HAMMING": 5}
            return type(name, (nn.Module,), dict(levels))

    parts = ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets", ".models", ".utils")
    for part in (*parts, ".models.feature_extraction"):
        name = f"torchvision{part}"
        module = Stub(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        module.__version__ = "0.0"  # type: ignore[attr-defined]
        sys.modules[name] = module
        if part:
            parent, _, child = name.rpartition(".")
            setattr(sys.modules[parent], child, module)


OPEN_CLIP_RECIPE = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
TIMM_NAME = "vit_base_patch16_siglip_224"


def _tiny_timm(**sizes: Any) -> Any:
    """Replaces `timm.create_model`, and creates a tiny network of timm's own class."""
    from timm.models.vision_transformer import VisionTransformer

    def create(_: str, pretrained: bool = False, **given: Any) -> Any:
        trunk = VisionTransformer(
            img_size=IMAGE["image_size"],
            patch_size=IMAGE["patch_size"],
            embed_dim=VISION["hidden_size"],
            depth=VISION["num_hidden_layers"],
            num_heads=VISION["num_attention_heads"],
            **{**sizes, **given},
        )
        trunk.default_cfg = {}
        return trunk

    return create


def open_clip_siglip(monkeypatch: Any) -> Any:
    """open_clip's ``CustomTextCLIP`` of a SigLIP."""
    stub_torchvision()
    import open_clip
    import timm

    monkeypatch.setattr(timm, "create_model", _tiny_timm(class_token=False))
    torch.manual_seed(0)
    model = open_clip.model.CustomTextCLIP(**_without_names(OPEN_CLIP_SIGLIP))
    perturbed(model)
    model.logit_scale.data.fill_(2.3)
    model.logit_bias.data.fill_(-3.1)
    return model


OPEN_CLIP_SIGLIP: dict[str, Any] = {
    "embed_dim": 72,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 70, "timm_model_name": TIMM_NAME, "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 220,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 72,
        "heads": 4,
        "layers": 2,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
    },
}
BIOMEDCLIP: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {
        "timm_model_name": "vit_base_patch16_224",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "linear",
        "image_size": 70,
    },
    "text_cfg": {
        "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 64,
    },
}


def _without_names(config: dict[str, Any]) -> dict[str, Any]:
    model = json.loads(json.dumps(config))
    del model["custom_text"]
    return {**model, "text_cfg": {key: value for key, value in model["text_cfg"].items() if "hf_" not in key}}


class BiomedClip(nn.Module):
    """The network that open_clip builds for `BIOMEDCLIP`, with tiny sizes, from open_clip's own classes."""

    visual: Any
    text: Any

    def __init__(self, monkeypatch: Any, projection: str = "mlp") -> None:
        stub_torchvision()
        import timm
        from open_clip.hf_model import HFTextEncoder
        from open_clip.timm_model import TimmModel
        from transformers import BertConfig

        super().__init__()
        monkeypatch.setattr(timm, "create_model", _tiny_timm())
        torch.manual_seed(0)
        self.visual = TimmModel("vit_base_patch16_224", 24, image_size=70, pool="", proj="linear")
        bert = BertConfig(
            vocab_size=len(vocabulary()),
            hidden_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            max_position_embeddings=64,
        )
        pooler = "cls_last_hidden_state_pooler"
        self.text = HFTextEncoder("x", 24, config=bert, pooler_type=pooler, proj_type=projection, pretrained=False)
        self.logit_scale = nn.Parameter(torch.tensor(1.9))
        perturbed(self)


def open_clip_folder(folder: Path, model: nn.Module, config: dict[str, Any], recipe: dict[str, Any]) -> Path:
    """A folder in the layout of open_clip's repositories."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": recipe}))
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def open_clip_clip(
    head_width: int, mlp_ratio: float, *, custom: bool, quick_gelu: bool, vocab_size: int = 49408, **vision: Any
) -> tuple[Any, dict[str, Any]]:
    """open_clip's own CLIP with another context and other head widths, and its configuration.

    Args:
        head_width: width of the heads in the image tower, which is 72 wide.
        mlp_ratio: ratio of the MLP in the image tower.
        custom: whether the text tower is a separate module, as in ``CustomTextCLIP``.
        quick_gelu: whether both towers use QuickGELU.
        vocab_size: tokens of the text tower.
        vision: other fields of the image tower's configuration.
    """
    stub_torchvision()
    import open_clip

    vision = {"image_size": 70, "layers": 3, "width": 72, "patch_size": 14} | vision
    config: dict[str, Any] = {
        "embed_dim": 24,
        "quick_gelu": quick_gelu,
        "vision_cfg": {**vision, "head_width": head_width, "mlp_ratio": mlp_ratio},
        "text_cfg": {"context_length": 40, "vocab_size": vocab_size, "width": 48, "heads": 3, "layers": 2},
    }
    torch.manual_seed(0)
    model = (open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP)(**config)
    perturbed(model)
    return model, config


def with_outliers(model: Any, size: float, *, compensated: bool = True) -> Any:
    """A network with two channels of `size` in its residual stream, as trained Vision Transformers have them.

    Args:
        model: a SigLIP or CLIP; it is changed.
        size: magnitude of the two channels.
        compensated: whether the gains of the LayerNorms compensate for them: small on these channels and large
            elsewhere, so that the values in the blocks keep their usual magnitude.
    """
    vision = model.vision_model
    high, low = 7, 20
    with torch.no_grad():
        vision.encoder.layers[0].mlp.fc2.bias[high] += size
        vision.encoder.layers[0].mlp.fc2.bias[low] -= size
        if not compensated:
            return model
        width = vision.config.hidden_size
        usual = (size**2 * 2 / width + 1) ** 0.5
        norms = [norm for layer in vision.encoder.layers[1:] for norm in (layer.layer_norm1, layer.layer_norm2)]
        for norm in (*norms, vision.post_layernorm):
            norm.weight.mul_(usual)
            norm.weight[[high, low]] /= size
    return model
