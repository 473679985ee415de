"""From a checkpoint to a quantised network, except for the layers that lose too much."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lrclr.errors import GateError
from lrclr.inference import ScoreCalibration, combined_score, global_score
from lrclr.model import Regions, rollout_row, select_regions
from lrclr.preprocessing import preprocess_batch
from lrclr.text import TokenBatch
from lrclr.verification import absolute_error, centred_cosine, cosine, gate_images, region_gap
from lrclr_export.progress import NO_PROGRESS
from lrclr_export.quantize._calibration import calibration_tokens
from lrclr_export.quantize._groups import PARTS, Switchable, groups_of
from lrclr_export.quantize._patches import with_patch_product
from lrclr_export.quantize._ranges import watched
from lrclr_export.quantize._schemes import scheme_of
from lrclr_export.quantize._search import MOST_FEW_RUNS, Losses, Outcome, most_runs, search

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from lrclr.checkpoints import Checkpoint
    from lrclr.model import LrclrModel, TextEncoding
    from lrclr.model.towers import LinearGroup
    from lrclr.verification import Tolerances
    from lrclr_export.progress import ProgressCallbacks
    from lrclr_export.quantize._calibration import Calibration

_BATCH = 16
# Of more inputs, so many evenly spaced ones judge a trial.
_MOST_TRIED = 64
# One of so many of these is enough to order the groups by their losses.
_FEW = 8
_MOST_PROMPTS = 32
_TOO_LARGE = "float16 cannot hold its output"


@dataclass(frozen=True)
class Quantized:
    """Attributes: model, with `QuantizedLinear` layers; record, for the manifest."""

    model: LrclrModel
    record: dict[str, Any]


def quantized(
    checkpoint: Checkpoint,
    calibration: Calibration,
    tolerances: Tolerances,
    *,
    precision: str = "int8",
    too_large: Collection[str] = (),
    search_layers: bool = True,
    progress: ProgressCallbacks = NO_PROGRESS,
) -> Quantized:
    """Quantise linear layers of the towers and of the fusion head; those that lose too much keep their type.

    These are the layers of the blocks and, for int8, the embedding of patches. What is too much is judged on at most 64
    calibration images, and the error of probabilities on the gates' eight images, against the network in float32, by
    the gates' own limits with a quarter to spare. The number of runs is bounded; see `search`.

    Args:
        checkpoint: the checkpoint. It is not changed.
        calibration: the images.
        tolerances: tolerances of the gates.
        precision: one of `QUANTISED`.
        too_large: names of layers whose output float16 cannot hold, so that they stay in float32.
        search_layers: False to quantise all of these layers without a trial; the gates then decide.
        progress: progress callbacks.

    Raises:
        GateError: too little could be quantised.
    """
    scheme = scheme_of(precision)
    model = with_patch_product(checkpoint.model) if scheme.patches else checkpoint.model
    tokens = calibration_tokens(checkpoint)
    of_graph = {graph: groups_of(model, part) if graph in scheme.graphs else [] for graph, part in PARTS.items()}
    groups = {
        graph: [group for group in some if not set(group.layers) & set(too_large)] for graph, some in of_graph.items()
    }
    everything = [group for some in groups.values() for group in some]
    layers = {name: model.get_submodule(name) for group in everything for name in group.layers}
    progress.task(
        f"take ranges from {len(calibration.pixel_values)} images ({calibration.kind}) and {len(tokens.mask)} texts"
    )
    findings = _Findings.of(checkpoint)
    with watched({name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}) as inputs:
        image = _images(model, calibration.pixel_values)
        text = _texts(model, tokens)
        pairs = _Pairs.of(findings, image)
        fused = pairs.fused(model)
    switchable = Switchable(model, everything, inputs, scheme)

    def image_losses(names: set[str], step: int = 1) -> Losses:
        step *= _step(len(calibration.pixel_values))
        switched = switchable.switch(names)
        found = _images(switched, calibration.pixel_values[::step])
        return {
            "centred cosine": 1 - centred_cosine(found.embedding, image.embedding[::step]),
            "region gap": region_gap(found.index, image.rollout[::step])[0],
            "probability": findings.error(image_model=switched),
        }

    def text_losses(names: set[str], step: int = 1) -> Losses:
        rows = slice(None, None, step * _step(len(tokens.mask)))
        some = TokenBatch(tokens.input_ids[rows], tokens.mask[rows])
        switched = switchable.switch(names)
        found = _texts(switched, some)
        token, expected = (each[some.mask.astype(bool)] for each in (found.tokens, text.tokens[rows]))
        return {
            "centred cosine": 1 - centred_cosine(found.embedding, text.embedding[rows]),
            "cosine of tokens": 1 - cosine(token, expected),
            "centred cosine of tokens": 1 - centred_cosine(token, expected),
            "probability": findings.error(text_model=switched),
        }

    def fusion_losses(names: set[str], step: int = 1) -> Losses:
        step *= _step(len(calibration.pixel_values))
        found = pairs.fused(switchable.switch(names), step)
        kinds = ("local score", "region attention")
        return {kind: absolute_error(one, other[::step]) for kind, one, other in zip(kinds, found, fused, strict=True)}

    limits = {
        "centred cosine": 1 - tolerances.centred_cosine,
        "cosine of tokens": 1 - tolerances.cosine,
        "centred cosine of tokens": 1 - tolerances.centred_cosine,
        "region gap": tolerances.region_gap,
        "probability": tolerances.probability_error,
        "local score": tolerances.score_error,
        "region attention": tolerances.score_error,
    }
    losses = {"image_encoder": image_losses, "text_encoder": text_losses, "fusion_head": fusion_losses}
    record: dict[str, Any] = {
        "calibration": {**calibration.to_dict(), "texts": len(tokens.mask)},
        "weights": scheme.weights,
        "activations": scheme.activations,
        "graphs": {},
    }
    kept: set[str] = set()
    for graph, some in groups.items():
        names = [group.name for group in some]
        if search_layers and names:
            outcome = _searched(graph, names, losses[graph], limits, progress, precision)
        else:
            outcome = Outcome({}, losses[graph](set(names)))
        left_out = {group.name for group in of_graph[graph]} - set(names)
        # The fusion head takes a small part of the time, and need not be quantised.
        if graph != "fusion_head" and 2 * len(outcome.floats) > len(some):
            raise GateError(
                f"{graph} loses too much in {precision}",
                why=f"{len(outcome.floats)} of {len(some)} groups of layers would have to stay in {scheme.otherwise}",
                fix="Export with --fp16, calibrate on other images, or raise the limits with --tolerance.",
            )
        kept |= {group.name for group in some} - outcome.floats.keys()
        record["graphs"][graph] = {
            f"{precision}_layers": _layers(some, outcome.floats.keys()),
            "float_layers": dict(sorted({**outcome.floats, **dict.fromkeys(left_out, _TOO_LARGE)}.items())),
            "losses": {name: float(f"{value:.4g}") for name, value in outcome.losses.items()},
        }
    return Quantized(switchable.switch(kept), record)


def _searched(
    graph: str, names: list[str], losses: Any, limits: dict[str, float], progress: ProgressCallbacks, precision: str
) -> Outcome:
    """Call `search`, and report the work that is done as a share of the most that there can be."""
    steps = most_runs(len(names)) * _FEW + MOST_FEW_RUNS
    progress.task(f"look for layers of {graph} that {precision} does not suit, in at most {steps // _FEW} passes")
    done = 0

    def counted(names: set[str], step: int) -> Losses:
        nonlocal done
        found: Losses = losses(names, step)
        done += _FEW // step
        progress.step("of the longest search", done, steps)
        return found

    return search(names, partial(counted, step=1), limits, partial(counted, step=_FEW))


def _step(inputs: int) -> int:
    """Distance between the inputs that judge a trial."""
    return -(-inputs // _MOST_TRIED)


def _layers(groups: Sequence[LinearGroup], floats: Any) -> int:
    return sum(len(group.layers) for group in groups if group.name not in floats)


@dataclass(frozen=True)
class _Images:
    embedding: NDArray[np.float32]
    index: NDArray[np.int64]
    rollout: NDArray[np.float32]
    tokens: NDArray[np.float32]


@dataclass(frozen=True)
class _Texts:
    """Attributes: embedding ``[P, D]``; tokens ``[P, T, D_text]``, with those after a prompt's end."""

    embedding: NDArray[np.float32]
    tokens: NDArray[np.float32]


@dataclass(frozen=True)
class _Pairs:
    """Inputs of the fusion head: regions of the images, and the prompts of the findings, both from float32.

    Attributes:
        regions: ``[B, 1+R, D_image]``.
        text_tokens: ``[P, T, D_text]``.
        text_mask: ``[P, T]``.
    """

    regions: NDArray[np.float32]
    text_tokens: Tensor
    text_mask: Tensor

    @classmethod
    def of(cls, findings: _Findings, image: _Images) -> _Pairs:
        mask = findings.mask[:_MOST_PROMPTS]
        longest = max(2, int(mask.sum(1).max()))
        return cls(image.tokens, findings.text.tokens[:_MOST_PROMPTS, :longest], mask[:, :longest])

    def fused(self, model: LrclrModel, step: int = 1) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Local score and region attention of every pair, of one in `step` images."""
        return _fused(model, self.regions[::step], self.text_tokens, self.text_mask)


@dataclass(frozen=True)
class _Findings:
    """The checkpoint's findings and the gates' images, of which the gates compare the probabilities.

    Attributes:
        checkpoint: the checkpoint. Its fusion head is used.
        pixel_values: ``[B, 3, S, S]``, the images.
        ids, mask: ``[P, T]``, the tokens of the prompts.
        image, text: what the checkpoint makes of them.
        expected: ``[B, F]``, its probabilities.
    """

    checkpoint: Checkpoint
    pixel_values: NDArray[np.float32]
    ids: Tensor
    mask: Tensor
    image: _Images
    text: TextEncoding
    expected: NDArray[np.float32]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> _Findings:
        tokens = checkpoint.tokenizer.encode(checkpoint.findings.prompts, truncate=True)
        ids, mask = (torch.from_numpy(each) for each in (tokens.input_ids, tokens.mask))
        pixel_values = preprocess_batch(gate_images(), checkpoint.preprocess)
        image = _images(checkpoint.model, pixel_values)
        with torch.inference_mode():
            text = checkpoint.model.encode_text(ids)
        expected = _probabilities(checkpoint, image, text, mask)
        return cls(checkpoint, pixel_values, ids, mask, image, text, expected)

    def error(self, *, image_model: LrclrModel | None = None, text_model: LrclrModel | None = None) -> float:
        """The largest error of a probability if another network encodes the images or the prompts."""
        image = self.image if image_model is None else _images(image_model, self.pixel_values)
        with torch.inference_mode():
            text = self.text if text_model is None else text_model.encode_text(self.ids)
        return absolute_error(_probabilities(self.checkpoint, image, text, self.mask), self.expected)


def _probabilities(checkpoint: Checkpoint, image: _Images, text: TextEncoding, mask: Tensor) -> NDArray[np.float32]:
    config, findings = checkpoint.config, checkpoint.findings
    calibration = ScoreCalibration.from_dict(config.to_dict())
    score = global_score(image.embedding, text.embedding.numpy())
    if config.effective_alpha:
        longest = max(2, int(mask.sum(1).max()))
        local, _ = _fused(checkpoint.model, image.tokens, text.tokens[:, :longest], mask[:, :longest])
        score = combined_score(score, local, config.effective_alpha)
    return calibration.probabilities(score, findings, findings)


def _fused(
    model: LrclrModel, regions: NDArray[np.float32], text_tokens: Tensor, text_mask: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Local scores ``[B, P]`` and region attention ``[B, P, R]`` of all pairs."""
    scores, attentions = [], []
    with torch.inference_mode():
        for start in range(0, len(regions), _BATCH):
            rows = torch.from_numpy(regions[start : start + _BATCH])
            score, attention = model.fusion_head(rows, text_tokens, text_mask)
            scores.append(score.numpy())
            attentions.append(attention.numpy())
    return np.concatenate(scores), np.concatenate(attentions)


def _images(model: LrclrModel, pixel_values: NDArray[np.float32]) -> _Images:
    rollouts: list[NDArray[np.float32]] = []

    def select(maps: Sequence[Tensor], rows: Tensor, top_k: int, mean: bool, prefix: int) -> Regions:
        rollouts.append(rollout_row(maps, mean=mean, prefix=prefix).numpy())
        return select_regions(maps, rows, top_k, mean, prefix)

    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixel_values), _BATCH):
            batch = torch.from_numpy(pixel_values[start : start + _BATCH])
            # As the graph computes it: the last block for the selected rows only.
            parts.append(model.encode_image(batch, select=select, prune=True))
    return _Images(
        np.concatenate([part.embedding.numpy() for part in parts]),
        np.concatenate([part.regions.index.numpy() for part in parts]),
        np.concatenate(rollouts),
        np.concatenate([part.regions.tokens.numpy() for part in parts]),
    )


def _texts(model: LrclrModel, tokens: TokenBatch) -> _Texts:
    with torch.inference_mode():
        found = model.encode_text(torch.from_numpy(tokens.input_ids))
    return _Texts(found.embedding.numpy(), found.tokens.numpy())
