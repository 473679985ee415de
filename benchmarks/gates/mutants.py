"""The mutants: faults of a graph, of a bundle's other files, and of the code around the graphs."""

from __future__ import annotations

import importlib
import json
import shutil
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks.gates import faults
from lrclr.bundle import FINDINGS, MANIFEST, TOKENIZER, Bundle, Manifest, file_table
from lrclr.engines import OnnxRuntimeEngine
from lrclr.errors import LrclrError
from lrclr.text import ClipTokenizer, FindingSet, TokenBatch
from lrclr.verification import GateResult, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.gates.faults import Fault

__all__ = ["MUTANTS", "Mutant", "Verdict", "judge"]

IMAGE, TEXT, FUSION = "image_encoder", "text_encoder", "fusion_head"
# By name: the package has a function of the same name as the module.
_preprocess: Any = importlib.import_module("lrclr.preprocessing._transform")
_classifier: Any = importlib.import_module("lrclr.inference._classifier")


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        name: in words.
        kind: what it is a fault of.
        graph: that `fault` is put into.
        fault: of the ONNX file; given the bundle, since sizes depend on it.
        files: change of other files of the bundle's folder.
        code: change of lrclr itself while the gates run.
    """

    name: str
    kind: str
    graph: str = ""
    fault: Callable[[Bundle], Fault] | None = None
    files: Callable[[Path], None] | None = None
    code: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        refused: the first gates that refused, most telling first; none where the mutant got through.
        count: how many gates refused.
        error: what ended the check before it was complete, in words.
    """

    refused: tuple[GateResult, ...]
    count: int
    error: str = ""

    @property
    def found(self) -> bool:
        """Whether the mutant was refused."""
        return bool(self.count or self.error)


def judge(mutant: Mutant, bundle: Path, scratch: Path) -> Verdict:
    """Put a mutant into a copy of a bundle, sign its manifest, and verify it.

    Args:
        mutant: the fault.
        bundle: folder of a bundle whose gates hold.
        scratch: a folder that does not exist yet.
    """
    shutil.copytree(bundle, scratch)
    try:
        if mutant.fault is not None:
            whole = Bundle(bundle)
            faults.spoil(scratch / whole.graph_path(mutant.graph).relative_to(bundle), mutant.fault(whole))
        if mutant.files is not None:
            mutant.files(scratch)
        _sign(scratch)
        with mutant.code():
            opened = Bundle(scratch)
            refused = verify(opened, OnnxRuntimeEngine(opened, threads=1)).refused
    except LrclrError as error:
        return Verdict((), 0, error.what)
    finally:
        shutil.rmtree(scratch)
    return Verdict(tuple(sorted(refused, key=_telling)[:3]), len(refused))


def _telling(result: GateResult) -> bool:
    """False for the gates that compare exactly: they say more than what follows from them."""
    return result.tolerance != 0


def _sign(folder: Path, **changes: Any) -> None:
    manifest = Manifest.from_json((folder / MANIFEST).read_text())
    renewed = replace(manifest, **{"files": file_table(folder), **changes})
    (folder / MANIFEST).write_text(renewed.to_json())


def _manifest(field: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        manifest = Manifest.from_json((folder / MANIFEST).read_text())
        _sign(folder, **{field: {**getattr(manifest, field), **changes}})

    return change


def _channel(field: str, change: Callable[[float], float]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        preprocess = Manifest.from_json((folder / MANIFEST).read_text()).preprocess
        values = [change(value) for value in preprocess[field]]
        _sign(folder, preprocess={**preprocess, field: values})

    return changed


def _finding(folder: Path) -> None:
    """One more word in a prompt."""
    first, *rest = Bundle(folder).findings.findings
    changed = replace(first, positive=(f"a {first.positive[0]}", *first.positive[1:]))
    (folder / FINDINGS).write_text(FindingSet((changed, *rest)).to_toml(), encoding="utf-8")


def _names_exchanged(folder: Path) -> None:
    """Give two findings each other's name, and leave their prompts."""
    one, other, *rest = Bundle(folder).findings.findings
    renamed = (replace(one, name=other.name), replace(other, name=one.name), *rest)
    (folder / FINDINGS).write_text(FindingSet(renamed).to_toml(), encoding="utf-8")


def _two_words(folder: Path) -> None:
    """Exchange the numbers of two words of the findings' prompts."""
    tokenizer = Bundle(folder).tokenizer
    first, second = tokenizer.encode(Bundle(folder).findings.prompts, truncate=True).input_ids[:2, 1].tolist()
    if first == second:
        second = int(tokenizer.encode(Bundle(folder).findings.prompts, truncate=True).input_ids[2, 1])
    file = folder / TOKENIZER
    content = json.loads(file.read_bytes())
    vocabulary = content["model"]["vocab"]
    names = {number: word for word, number in vocabulary.items()}
    vocabulary[names[first]], vocabulary[names[second]] = second, first
    file.write_text(json.dumps(content))


def _no_normalizer(folder: Path) -> None:
    """Keep capital letters as they are."""
    file = folder / TOKENIZER
    content = json.loads(file.read_bytes())
    content["normalizer"] = None
    file.write_text(json.dumps(content))


def _pixels(change: Callable[[Any], Any]) -> Callable[[], AbstractContextManager[Any]]:
    """Change what preprocessing makes of an image."""
    whole = _preprocess.preprocess
    return lambda: patch.object(
        _preprocess, "preprocess", lambda image, spec: np.ascontiguousarray(change(whole(image, spec)))
    )


def _canvas(change: Callable[[Any], Any]) -> Callable[[], AbstractContextManager[Any]]:
    """Change the 8-bit image after the resize."""
    whole = _preprocess.from_canvas
    return lambda: patch.object(
        _preprocess, "from_canvas", lambda canvas, spec: whole(np.ascontiguousarray(change(canvas)), spec)
    )


def _interpolation(other: Image.Resampling) -> Callable[[], AbstractContextManager[Any]]:
    whole = _preprocess._resized  # noqa: SLF001
    return lambda: patch.object(
        _preprocess,
        "_resized",
        lambda picture, columns, rows, _resample, box: whole(picture, columns, rows, other, box),
    )


@contextmanager
def _without_antialias() -> Iterator[None]:
    """Take single pixels where the recipe takes the mean of many."""

    def nearby(picture: Image.Image, columns: int, rows: int, _resample: Any, box: Any) -> Image.Image:
        return picture.transform((columns, rows), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)

    with patch.object(_preprocess, "_resized", nearby):
        yield


def _tokens(change: Callable[[ClipTokenizer, TokenBatch], TokenBatch]) -> Callable[[], AbstractContextManager[Any]]:
    """Change what the tokenizer gives."""
    whole = ClipTokenizer.encode

    def encode(self: ClipTokenizer, texts: Any, **options: Any) -> TokenBatch:
        return change(self, whole(self, texts, **options))

    return lambda: patch.object(ClipTokenizer, "encode", encode)


def _texts(change: Callable[[str], str]) -> Callable[[], AbstractContextManager[Any]]:
    """Change the prompts before they are encoded."""
    whole = ClipTokenizer.encode

    def encode(self: ClipTokenizer, texts: Any, **options: Any) -> TokenBatch:
        return whole(self, [change(text) for text in texts], **options)

    return lambda: patch.object(ClipTokenizer, "encode", encode)


def _one_higher(tokenizer: ClipTokenizer, batch: TokenBatch) -> TokenBatch:
    words = batch.mask.astype(bool) & ~np.isin(batch.input_ids, (tokenizer.bos_id, tokenizer.eot_id))
    return TokenBatch(np.where(words, np.maximum(batch.input_ids - 1, 3), batch.input_ids), batch.mask)


def _shorter_mask(_: ClipTokenizer, batch: TokenBatch) -> TokenBatch:
    last = batch.mask.sum(1) - 1
    mask = batch.mask.copy()
    mask[np.arange(len(mask)), last] = 0
    return TokenBatch(batch.input_ids, mask)


def _answers(name: str, change: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    """Change a function by which the classifier makes answers of the graphs' outputs."""
    whole = getattr(_classifier, name)
    return lambda: patch.object(_classifier, name, lambda *given, **named: change(whole, *given, **named))


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
    """Mutants that are wrong at one size of an input only."""

    def made(graph: str, output: str) -> Callable[[Bundle], Fault]:
        names = {IMAGE: "pixel_values", TEXT: "input_ids", FUSION: given}
        return lambda bundle: faults.only_at(size(bundle), axis, names[graph], output)

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
            "LayerNorm with epsilon 1e-12, image encoder": faults.tiny_epsilon,
            "LayerNorm with epsilon 0.3, image encoder": faults.large_epsilon,
            "softmax over the wrong axis": faults.softmax_over_queries,
            "attention without its factor": faults.without_attention_scale,
        },
    ),
    *_of_graph(
        "layers",
        TEXT,
        {
            "an MLP dropped, text encoder": faults.without_layer(2),
            "LayerNorm with epsilon 1e-12, text encoder": faults.tiny_epsilon,
        },
    ),
    *_of_graph("layers", FUSION, {"LayerNorm with epsilon 0.3, fusion head": faults.large_epsilon}),
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
            "output depends on padding": faults.by_size("text_embedding", 1, 64, 0.01),
        },
    ),
    *_of_graph("masks and pooling", FUSION, {"padding mask lost": faults.without_padding_mask}),
    *_of_graph(
        "outputs",
        IMAGE,
        {
            "embedding not of unit length": faults.times("image_embedding", 1.01),
            "logit scale in the embedding": faults.times("image_embedding", 14.3),
            "embedding and importance exchanged": faults.outputs_exchanged("image_embedding", "region_importance"),
            "batch-mates mixed in": faults.blend_of_batch("image_embedding", 0.2),
            "region tokens shifted": faults.plus("region_tokens", 0.3),
        },
    ),
    *_of_graph(
        "outputs",
        TEXT,
        {
            "embedding and tokens exchanged": faults.outputs_exchanged("text_embedding", "text_tokens"),
            "text embedding negated": faults.times("text_embedding", -1.0),
        },
    ),
    *_of_graph(
        "outputs",
        FUSION,
        {
            "local score and attention exchanged": faults.outputs_exchanged("local_score", "region_attention"),
            "scores in the order of prompts reversed": faults.reversed_along(1, "local_score"),
            "region attention transposed": faults.transposed_inside("region_attention"),
            "region attention scaled": faults.times("region_attention", 1.2),
            "local score shifted": faults.plus("local_score", 0.02),
        },
    ),
    *_of_graph(
        "regions",
        IMAGE,
        {
            "least important regions": faults.least_important_regions,
            "one region again and again": faults.one_region_only,
            "regions of the last layer's attention alone": faults.last_layer_only,
            "patch numbers one too high": faults.plus("region_index", 1),
            "numbers in reversed order, tokens not": faults.reversed_along(1, "region_index"),
            "tokens in reversed order, numbers not": faults.reversed_along(1, "region_tokens", keep_first=True),
            "all of the regions in reversed order": faults.reversed_along(
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
    Mutant("mirrored", "preprocessing", code=_pixels(lambda pixels: pixels[..., ::-1])),
    Mutant("upside down", "preprocessing", code=_pixels(lambda pixels: pixels[:, ::-1])),
    Mutant("rows and columns exchanged", "preprocessing", code=_pixels(lambda pixels: pixels.transpose(0, 2, 1))),
    Mutant("colours in the order BGR", "preprocessing", code=_pixels(lambda pixels: pixels[::-1])),
    Mutant("mean off by 0.2", "preprocessing", files=_channel("mean", lambda value: value + 0.2)),
    Mutant("deviation off by 1 %", "preprocessing", files=_channel("std", lambda value: value * 1.01)),
    Mutant("not divided by 255", "preprocessing", code=_pixels(lambda pixels: pixels * 255)),
    Mutant("inverted", "preprocessing", code=_canvas(lambda canvas: 255 - canvas)),
    Mutant("one grey level brighter", "preprocessing", code=_canvas(lambda canvas: np.minimum(canvas, 254) + 1)),
    Mutant("shifted by one pixel", "preprocessing", code=_canvas(lambda canvas: np.roll(canvas, 1, axis=1))),
    Mutant("bilinear", "preprocessing", code=_interpolation(Image.Resampling.BILINEAR)),
    Mutant("Lanczos for bicubic", "preprocessing", code=_interpolation(Image.Resampling.LANCZOS)),
    Mutant("no antialias", "preprocessing", code=_without_antialias),
    Mutant("token numbers off by one", "tokenizer", code=_tokens(_one_higher)),
    Mutant("the last word dropped", "tokenizer", code=_texts(lambda text: text.rpartition(" ")[0] or text)),
    Mutant("capital letters kept", "tokenizer", files=_no_normalizer),
    Mutant("two words exchanged in the vocabulary", "tokenizer", files=_two_words),
    Mutant("mask without EOT", "tokenizer", code=_tokens(_shorter_mask)),
    Mutant("another prompt", "findings", files=_finding),
    Mutant("names of two findings exchanged", "findings", files=_names_exchanged),
    Mutant("alpha 0", "scores", files=_manifest("scoring", alpha=0.0)),
    Mutant("alpha off by 0.3", "scores", files=_manifest("scoring", alpha=0.75)),
    Mutant("score scale one and a half times as large", "scores", files=_manifest("scoring", score_scale=45.0)),
    Mutant(
        "positive and negative prompts exchanged",
        "scores",
        code=_answers("probabilities", lambda whole, *given: 1 - whole(*given)),
    ),
    Mutant(
        "local score left out",
        "scores",
        code=_answers("combined_score", lambda whole, global_, local, _: whole(global_, local, 0.0)),
    ),
    Mutant(
        "findings in reversed order",
        "scores",
        code=_answers("probabilities", lambda whole, *given: whole(*given)[:, ::-1]),
    ),
)
"""Every mutant. `benchmarks/results/gates` has what the gates said of each."""
