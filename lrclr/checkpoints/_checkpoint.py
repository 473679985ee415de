"""A checkpoint in memory, and the LRCLR folder it is written to."""

from __future__ import annotations

import copy
import json
import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from lrclr._files import replace_directory
from lrclr.card import CARD, ModelCard

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from lrclr.model import LrclrConfig, LrclrModel
    from lrclr.preprocessing import PreprocessSpec, Triple
    from lrclr.text import ClipTokenizer, FindingSet

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
PREPROCESSING, FINDINGS = "preprocessing.json", "findings.toml"
# The key of `Checkpoint.origin` in the configuration of an LRCLR folder.
ORIGIN = "origin"
FOLDER_FILES = (CONFIG, WEIGHTS, TOKENIZER, PREPROCESSING, FINDINGS, CARD)


@dataclass(frozen=True)
class Checkpoint:
    """A network and all that belongs to it.

    Attributes:
        model: in float32, in evaluation mode.
        tokenizer: its `context_length` is the text tower's.
        preprocess: its `image_size` is the image tower's.
        findings: the default findings and prompts.
        source: what it was read from: ``"lrclr"``, ``"openai state dict"``, ``"openai torchscript"``,
            ``"transformers clip"``, ``"transformers state dict"``, ``"transformers torchscript"``, ``"open_clip"`` or
            ``"random"``.
        sha256: SHA-256 of the weights file, or of the list of hashes for several files. ``""`` for a checkpoint without
            a file.
        origin: where the original weights came from, such as ``"hf:OWNER/NAME@COMMIT"``; "" if that is not known.
        card: what its authors state about it.
    """

    model: LrclrModel
    tokenizer: ClipTokenizer
    preprocess: PreprocessSpec
    findings: FindingSet
    source: str
    sha256: str
    origin: str = ""
    card: ModelCard = field(default_factory=ModelCard)

    @property
    def config(self) -> LrclrConfig:
        config: LrclrConfig = self.model.config
        return config

    @property
    def assumed(self) -> tuple[str, ...]:
        """What the original weights do not record, and the values that were assumed: a clause each."""
        return tuple(self.model.config.assumed or ())

    def changed(
        self,
        *,
        mean: Triple | None = None,
        std: Triple | None = None,
        region_top_k: int | None = None,
        findings: FindingSet | None = None,
        card: ModelCard | None = None,
    ) -> Checkpoint:
        """Return this checkpoint with other settings. The weights stay the same, and `self` is not changed.

        A calibration of single findings that has its own scale and bias is kept only for findings whose prompts stay
        the same. So are the metrics of the card; other numbers and regions leave none of them valid.

        Args:
            mean, std: one number for each channel, on the scale of `PreprocessSpec`.
            region_top_k: patches to select, in each attention head or in all, as `LrclrConfig.region_rollout` says.
            findings: the default findings and prompts.
            card: what is stated about the changed checkpoint, instead of this one's card.

        Raises:
            UsageError: the preprocessing or the network cannot have these values.
        """
        spec = replace(self.preprocess, mean=mean or self.preprocess.mean, std=std or self.preprocess.std)
        config, changes = self.config, dict[str, Any]()
        if region_top_k is not None:
            changes["region_top_k"] = region_top_k
        same = {one.name for one in (findings or self.findings).findings if one in self.findings.findings}
        if findings is not None and config.finding_calibration:
            kept = {name: pair for name, pair in config.finding_calibration.items() if name in same}
            changes["finding_calibration"] = kept or None
        model = self.model
        if changes:
            checked = type(config).from_dict({**config.to_dict(), **changes})
            model = copy.deepcopy(model)
            for name in changes:
                setattr(model.config, name, getattr(checked, name))
        changed = replace(self, model=model, preprocess=spec, findings=findings or self.findings)
        if card is None:
            card = self.card
            if spec != self.preprocess or changed.config.num_regions != config.num_regions:
                card = card.without_metrics()
            elif changed.findings != self.findings:
                card = card.without_metrics(same)
        return replace(changed, card=card)

    def save(self, folder: Path, *, overwrite: bool = False, half: bool = False) -> None:
        """Write an LRCLR folder; all of it or nothing.

        Args:
            folder: where.
            overwrite: whether an LRCLR folder that is there may be replaced.
            half: weights in float16, half the size; they are read back to float32.

        Raises:
            UsageError: `folder` exists and `overwrite` is not set, or holds anything but an LRCLR folder's files.
            LrclrError: the disk is full or not writable; what was there before is whole.
        """
        with replace_directory(folder, expected=FOLDER_FILES, overwrite=overwrite) as staging:
            config = self.config.to_dict()
            config["architectures"] = [type(self.model).__name__]
            if self.origin:
                config[ORIGIN] = self.origin
            (staging / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
            state = self.model.state_dict()
            if half:
                state = {name: tensor.half() for name, tensor in state.items()}
            _save_weights(state, staging / WEIGHTS)
            self.tokenizer.save(staging / TOKENIZER)
            (staging / PREPROCESSING).write_text(json.dumps(self.preprocess.to_dict(), indent=2) + "\n")
            self.findings.save(staging / FINDINGS)
            self.card.save(staging)


def _save_weights(state: dict[str, Tensor], file: Path) -> None:
    try:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file, metadata={"format": "pt"})
    except SafetensorError as error:
        # It tells the system's error by its number in the text only.
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(file)) from error


def eval_model(model: LrclrModel) -> LrclrModel:
    """`model`, frozen and in evaluation mode, as every reader hands it out."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.to(torch.float32)
    return model
