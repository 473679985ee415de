"""The mutants: faults of a graph, of a bundle's other files, and of the code around the graphs."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.gates import bundle_faults, code_faults, faults, output_faults
from benchmarks.gates.graph_edit import spoil
from lrclr.bundle import Bundle
from lrclr.engines import OnnxRuntimeEngine
from lrclr.errors import LrclrError
from lrclr.verification import GateResult, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from benchmarks.gates.graph_edit import Fault

__all__ = ["MUTANTS", "Mutant", "Verdict", "judge", "judge_all"]

IMAGE, TEXT, FUSION = "image_encoder", "text_encoder", "fusion_head"


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: name in the table.
        kind: heading in the table.
        graph: name of the graph that `fault` changes.
        fault: makes the change of the ONNX file for a bundle, on whose sizes it may depend.
        files: changes other files in the bundle's folder.
        code: changes lrclr's code while the gates run.
    """

    name: str
    kind: str
    graph: str = ""
    fault: Callable[[Bundle], Fault] | None = None
    files: Callable[[Path], None] | None = None
    code: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Verdict:
    """The result of verifying a mutant.

    Attributes:
        refused: the first three gates that refused, exact comparisons first; empty if the mutant got through.
        count: number of gates that refused.
        error: message of an error that ended the check early.
    """

    refused: tuple[GateResult, ...]
    count: int
    error: str = ""

    @property
    def found(self) -> bool:
        """Whether the mutant was refused."""
        return bool(self.count or self.error)


def judge(mutant: Mutant, bundle: Path, scratch: Path) -> Verdict:
    """Put a mutant into a copy of a bundle, renew the hashes in its manifest, and verify it.

    Args:
        mutant: the fault.
        bundle: folder of a bundle that passes its gates.
        scratch: a folder that does not exist yet.
    """
    shutil.copytree(bundle, scratch)
    try:
        if mutant.fault is not None:
            whole = Bundle(bundle)
            spoil(scratch / whole.graph_path(mutant.graph).relative_to(bundle), mutant.fault(whole))
        if mutant.files is not None:
            mutant.files(scratch)
        bundle_faults.sign(scratch)
        with mutant.code():
            opened = Bundle(scratch)
            refused = verify(opened, OnnxRuntimeEngine(opened, threads=1)).refused
    except LrclrError as error:
        return Verdict((), 0, error.what)
    finally:
        shutil.rmtree(scratch)
    return Verdict(tuple(sorted(refused, key=_is_approximate)[:3]), len(refused))


def _is_approximate(result: GateResult) -> bool:
    """False for gates that compare exactly: they show the cause, the others its effects."""
    return result.tolerance != 0


def _fixed(fault: Fault) -> Callable[[Bundle], Fault]:
    return lambda _: fault


def _patches(bundle: Bundle) -> int:
    return (bundle.preprocess.image_size // bundle.patch_size) ** 2 + 1


def _usual(bundle: Bundle) -> int:
    return int(bundle.tokenizer.encode(bundle.findings.prompts, truncate=True).input_ids.shape[1])


def _of_graph(kind: str, graph: str, mutants: dict[str, Fault]) -> list[Mutant]:
    return [Mutant(name, kind, graph, _fixed(fault)) for name, fault in mutants.items()]


def _at(
    kind: str, given: str, axis: int, size: Callable[[Bundle], int], places: dict[str, tuple[str, str]]
) -> list[Mutant]:
    """Mutants that are wrong at one size of an input only: at `size` along `axis`."""

    def made(graph: str, output: str) -> Callable[[Bundle], Fault]:
        names = {IMAGE: "pixel_values", TEXT: "input_ids", FUSION: given}
        return lambda bundle: output_faults.only_at(size(bundle), axis, names[graph], output)

    return [Mutant(name, kind, graph, made(graph, output)) for name, (graph, output) in places.items()]


_ALL_IMAGE = ("image_embedding", "region_tokens", "region_index", "region_importance")


def _image_outputs(where: str) -> dict[str, tuple[str, str]]:
    return {f"{name} wrong {where}": (IMAGE, name) for name in _ALL_IMAGE}


def _text_outputs(where: str) -> dict[str, tuple[str, str]]:
    return {f"{name} wrong {where}": (TEXT, name) for name in ("text_embedding", "text_tokens")}


def _fusion_outputs(where: str) -> dict[str, tuple[str, str]]:
    return {f"{name} wrong {where}": (FUSION, name) for name in ("local_score", "region_attention")}


MUTANTS: tuple[Mutant, ...] = (
    *_of_graph(
        "weights",
        IMAGE,
        {
            "one weight off by 0.5, image encoder": faults.weight_off(),
            "noise on the weights of one layer, image encoder": faults.noisy_weights("image_embedding", amount=0.05),
            "LayerNorms exchanged, image encoder": faults.exchanged("LayerNormalization", (1, 2), 1, 2),
            "query and key exchanged, image encoder": faults.exchanged_products(0, 1),
            "a bias lost, image encoder": faults.without_bias,
        },
    ),
    Mutant("positions shifted by one, image encoder", "weights", IMAGE, lambda b: faults.shifted_rows(_patches(b))),
    *_of_graph(
        "weights",
        TEXT,
        {
            "one weight off by 0.5, text encoder": faults.weight_off(),
            "LayerNorms exchanged, text encoder": faults.exchanged("LayerNormalization", (1, 2), 0, 1),
            "a bias lost, text encoder": faults.without_bias,
        },
    ),
    Mutant(
        "positions shifted by one, text encoder",
        "weights",
        TEXT,
        lambda b: faults.shifted_rows(b.manifest.tokenizer["context_length"]),
    ),
    *_of_graph(
        "weights",
        FUSION,
        {
            "one weight off by 0.5, fusion head": faults.weight_off(),
            "a bias lost, fusion head": faults.without_bias,
        },
    ),
    *_of_graph(
        "layers",
        IMAGE,
        {
            "an attention layer dropped, image encoder": faults.without_layer(0),
            "an MLP dropped, image encoder": faults.without_layer(1),
            "LayerNorm with epsilon 1e-3, image encoder": faults.epsilon(1e-3),
            "LayerNorm with epsilon 0.3, image encoder": faults.epsilon(0.3),
            "softmax over the wrong axis": faults.softmax_over_queries,
            "attention without its factor": faults.without_attention_scale,
        },
    ),
    *_of_graph(
        "layers",
        TEXT,
        {
            "an MLP dropped, text encoder": faults.without_layer(2),
            "LayerNorm with epsilon 1e-12, text encoder": faults.epsilon(1e-12),
        },
    ),
    *_of_graph("layers", FUSION, {"LayerNorm with epsilon 0.3, fusion head": faults.epsilon(0.3)}),
    *_of_graph("activations", IMAGE, {"GELU for QuickGELU, image encoder": faults.gelu_for_quick_gelu}),
    *_of_graph("activations", TEXT, {"GELU for QuickGELU, text encoder": faults.gelu_for_quick_gelu}),
    *_of_graph("activations", FUSION, {"QuickGELU for GELU, fusion head": faults.quick_gelu_for_gelu}),
    *_of_graph(
        "masks and pooling",
        TEXT,
        {
            "causal mask lost": faults.without_causal_mask,
            "EOT not found": faults.another_eot,
            "the token before EOT pooled": faults.eot_one_too_early,
            "output depends on padding": output_faults.by_size("text_embedding", 1, 64, 0.01),
        },
    ),
    *_of_graph("masks and pooling", FUSION, {"padding mask lost": faults.without_padding_mask}),
    *_of_graph(
        "outputs",
        IMAGE,
        {
            "embedding not of unit length": output_faults.times("image_embedding", 1.01),
            "logit scale in the embedding": output_faults.times("image_embedding", 14.3),
            "embedding and importance exchanged": output_faults.exchanged_outputs(
                "image_embedding", "region_importance"
            ),
            "batch-mates mixed in": output_faults.blend_of_batch("image_embedding", 0.2),
            "region tokens shifted": output_faults.plus("region_tokens", 0.3),
        },
    ),
    *_of_graph(
        "outputs",
        TEXT,
        {
            "embedding and tokens exchanged": output_faults.exchanged_outputs("text_embedding", "text_tokens"),
            "text embedding negated": output_faults.times("text_embedding", -1.0),
        },
    ),
    *_of_graph(
        "outputs",
        FUSION,
        {
            "local score and attention exchanged": output_faults.exchanged_outputs("local_score", "region_attention"),
            "scores in the order of prompts reversed": output_faults.reversed_along(1, "local_score"),
            "region attention transposed": output_faults.transposed_inside("region_attention"),
            "region attention scaled": output_faults.times("region_attention", 1.2),
            "local score shifted": output_faults.plus("local_score", 0.02),
        },
    ),
    *_of_graph(
        "regions",
        IMAGE,
        {
            "least important regions": faults.least_important_regions,
            "one region again and again": output_faults.one_region_only,
            "regions of the last layer's attention alone": faults.last_layer_only,
            "patch numbers one too high": output_faults.plus("region_index", 1),
            "numbers in reversed order, tokens not": output_faults.reversed_along(1, "region_index"),
            "tokens in reversed order, numbers not": output_faults.reversed_along(1, "region_tokens", keep_first=True),
            "all of the regions in reversed order": output_faults.reversed_along(
                1, "region_index", "region_importance", "region_tokens", keep_first=True
            ),
        },
    ),
    *_at(
        "one size only", "region_tokens", 0, lambda _: 1, _image_outputs("at batch 1") | _fusion_outputs("at batch 1")
    ),
    *_at(
        "one size only",
        "region_tokens",
        0,
        lambda b: b.manifest.max_batch,
        _image_outputs("at the largest batch") | _fusion_outputs("at the largest batch"),
    ),
    *_at("one size only", "text_tokens", 0, lambda _: 1, _text_outputs("at 1 prompt") | _fusion_outputs("at 1 prompt")),
    *_at(
        "one size only",
        "text_tokens",
        0,
        lambda b: len(b.findings.prompts),
        _text_outputs("at the findings' prompts") | _fusion_outputs("at the findings' prompts"),
    ),
    *_at(
        "one size only",
        "text_tokens",
        0,
        lambda b: b.manifest.profiles[-1]["prompts"][2],
        _text_outputs("at the most prompts") | _fusion_outputs("at the most prompts"),
    ),
    *_at("one size only", "text_tokens", 1, _usual, _text_outputs("at the usual length")),
    *_at(
        "one size only",
        "text_tokens",
        1,
        lambda b: b.manifest.profiles[-1]["tokens"][2],
        _text_outputs("at the longest prompts") | _fusion_outputs("at the longest prompts"),
    ),
    Mutant("mirrored", "preprocessing", code=code_faults.pixels(lambda pixels: pixels[..., ::-1])),
    Mutant("upside down", "preprocessing", code=code_faults.pixels(lambda pixels: pixels[:, ::-1])),
    Mutant(
        "rows and columns exchanged", "preprocessing", code=code_faults.pixels(lambda pixels: pixels.transpose(0, 2, 1))
    ),
    Mutant("colours in the order BGR", "preprocessing", code=code_faults.pixels(lambda pixels: pixels[::-1])),
    Mutant("mean off by 0.2", "preprocessing", files=bundle_faults.channel_values("mean", lambda value: value + 0.2)),
    Mutant(
        "deviation off by 1 %", "preprocessing", files=bundle_faults.channel_values("std", lambda value: value * 1.01)
    ),
    Mutant("not divided by 255", "preprocessing", code=code_faults.pixels(lambda pixels: pixels * 255)),
    Mutant("inverted", "preprocessing", code=code_faults.canvas(lambda canvas: 255 - canvas)),
    Mutant(
        "one grey level brighter", "preprocessing", code=code_faults.canvas(lambda canvas: np.minimum(canvas, 254) + 1)
    ),
    Mutant("shifted by one pixel", "preprocessing", code=code_faults.canvas(lambda canvas: np.roll(canvas, 1, axis=1))),
    Mutant("bilinear", "preprocessing", code=code_faults.interpolation(Image.Resampling.BILINEAR)),
    Mutant("Lanczos for bicubic", "preprocessing", code=code_faults.interpolation(Image.Resampling.LANCZOS)),
    Mutant("no antialias", "preprocessing", code=code_faults.without_antialias),
    Mutant("token numbers off by one", "tokenizer", code=code_faults.tokens(code_faults.shifted_numbers)),
    Mutant("the last word dropped", "tokenizer", code=code_faults.texts(lambda text: text.rpartition(" ")[0] or text)),
    Mutant("capital letters kept", "tokenizer", files=bundle_faults.without_normalizer),
    Mutant("two words exchanged in the vocabulary", "tokenizer", files=bundle_faults.exchanged_words),
    Mutant("mask without EOT", "tokenizer", code=code_faults.tokens(code_faults.mask_without_eot)),
    Mutant("another prompt", "findings", files=bundle_faults.longer_prompt),
    Mutant("names of two findings exchanged", "findings", files=bundle_faults.exchanged_names),
    Mutant("alpha 0", "scores", files=bundle_faults.alpha(lambda _: 0.0)),
    Mutant(
        "alpha off by 0.3",
        "scores",
        files=bundle_faults.alpha(lambda value: value + (0.3 if value < 0.5 else -0.3)),
    ),
    Mutant("score scale one and a half times as large", "scores", files=bundle_faults.larger_scales),
    Mutant(
        "positive and negative prompts exchanged",
        "scores",
        code=code_faults.classifier("probabilities", lambda whole, *given: 1 - whole(*given)),
    ),
    Mutant(
        "local score left out",
        "scores",
        code=code_faults.classifier("combined_score", lambda whole, global_, local, _: whole(global_, local, 0.0)),
    ),
    Mutant(
        "findings in reversed order",
        "scores",
        code=code_faults.classifier("probabilities", lambda whole, *given: whole(*given)[:, ::-1]),
    ),
)
"""Every mutant. `benchmarks/results/gates` shows which gates refuse each."""


def judge_all(bundle: Path) -> dict[str, Verdict]:
    """Judge every mutant of a bundle, by the name of the mutant.

    It is not in ``__main__``, which a new process cannot import.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {mutant.name: judge(mutant, bundle, Path(folder) / "mutant") for mutant in MUTANTS}
