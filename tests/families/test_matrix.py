"""What every family supports, from its original files to an answer: the table in docs/families/index.md.

With ``LRCLR_WRITE_MATRIX=1``, the row of each tested family is written into the page. Without it, results must equal
the page.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
import torch

from lrclr import ZeroShotClassifier
from lrclr.bundle import Bundle
from lrclr.checkpoints import load_checkpoint
from lrclr.engines import EngineOptions, OnnxRuntimeEngine, open_named_engine
from lrclr.images import read_image
from lrclr.inference import ScoreCalibration, draw_heatmap
from lrclr.samples import sample_paths
from lrclr.text import Finding, FindingSet
from lrclr.verification import verify
from lrclr_export import BuildOptions, ExportOptions, build_bundle, export_bundle

# Private: transformers' preprocessing, so that no step on the way to the original class is lrclr's.
from lrclr_export.onnx.reference_inputs import reference_pixel_values
from tests import bundles
from tests.families.test_families import ORIGINALS, Original, pixels_of, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from lrclr.inference import Prediction

PAGE: Final = Path(__file__).parents[2] / "docs/families/index.md"
ROWS: Final = (
    *("clip", "open_clip clip", "siglip", "open_clip siglip", "biomedclip"),
    *("vit and bert", "clip and bert", "vit and roberta"),
)
COLUMNS: Final = (
    *("convert", "fp32", "fp16", "int8", "verify", "predict", "heat map", "serve", "train a step", "OpenVINO"),
    "RTX build",
)
# Random weights lose more in int8 than trained weights.
LOOSE: Final = {
    "cosine": 0.8,
    "centred_cosine": 0.4,
    "max_error": 1.0,
    "region_gap": 1.0,
    "probability_error": 0.5,
    "spread": 0.8,
}
HALF: Final = {"centred_cosine": 0.95, "max_error": 1e-1}
TEXTS: Final = ("Edema", "no Pleural Effusion of the heart", "lung opacity")


class _Row:
    """The cells of one family, measured by comparison with the original class."""

    def __init__(self, original: Original, folder: Path) -> None:
        self.original, self.folder, self.checkpoint = original, folder, original.checkpoint
        self.pixels = pixels_of(self.checkpoint, 4)
        self.ids = self.checkpoint.tokenizer.encode(TEXTS).input_ids
        self.images, self.texts = self._image_embeddings(self.pixels), self._text_embeddings(TEXTS)
        # What the original class says about a file.
        self.file = sample_paths()[0]
        pixels = reference_pixel_values([read_image(self.file)], self.checkpoint.preprocess)
        self.embedding = self._image_embeddings(torch.from_numpy(pixels))
        findings = self.checkpoint.findings
        calibration = ScoreCalibration.from_dict(self.checkpoint.config.to_dict())
        score = self.embedding @ self._text_embeddings(findings.prompts).T
        self.probabilities = calibration.probabilities(score, findings, findings)

    @torch.no_grad()
    def _image_embeddings(self, pixels: torch.Tensor) -> NDArray[np.float32]:
        found: NDArray[np.float32] = unit(self.original.images(pixels)).numpy()
        return found

    @torch.no_grad()
    def _text_embeddings(self, texts: Sequence[str]) -> NDArray[np.float32]:
        tokens = self.checkpoint.tokenizer.encode(texts)
        ids, mask = torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.mask)
        found: NDArray[np.float32] = unit(self.original.texts(ids, mask)).numpy()
        return found

    def cells(self) -> dict[str, str]:
        """The cells by column."""
        self.checkpoint.save(self.folder / "lrclr")
        found = {"convert": self._of_network(load_checkpoint(self.folder / "lrclr").model)}
        for precision in ("fp32", "fp16", "int8"):
            limits = {"int8": LOOSE, "fp16": HALF}.get(precision, {})
            options = ExportOptions(precision, max_batch=4, tolerances=limits)
            export_bundle(self.checkpoint, self.folder / precision, options)
            found[precision] = self._of_engine(OnnxRuntimeEngine(Bundle(self.folder / precision)))
        bundle = Bundle(self.folder / "fp16")
        report = verify(bundle, OnnxRuntimeEngine(bundle))
        assert report.passed
        worst = min(gate.value for gate in report.gates if gate.gate == "cosine")
        found["verify"] = f"{_shown(1 - worst)} in {len(report.gates)} gates"
        found["predict"] = self._predicted(bundle.path)
        found["heat map"] = self._drawn(bundle.path)
        found["serve"] = self._served(bundle.path)
        openvino = open_named_engine(Bundle(self.folder / "fp32"), EngineOptions("openvino", "cpu", None))
        found["OpenVINO"] = self._of_engine(openvino)
        build_bundle(bundle.path, BuildOptions("tensorrt-rtx", ("8.9",)))
        (plans,) = Bundle(bundle.path).manifest.plans
        assert plans["engine"] == "tensorrt-rtx"
        found["RTX build"] = ", ".join(_fused(plans, graph) for graph in ("image_encoder", "text_encoder"))
        # Last, since it changes the network.
        found["train a step"] = self._trained()
        return found

    @torch.no_grad()
    def _of_network(self, model: Any) -> str:
        image = model.encode_image(self.pixels).embedding.numpy()
        return _cosine((image, self.images), (model.encode_text(torch.from_numpy(self.ids)).embedding, self.texts))

    def _of_engine(self, engine: Any) -> str:
        image = engine.run("image_encoder", {"pixel_values": self.pixels.numpy()})["image_embedding"]
        text = engine.run("text_encoder", {"input_ids": self.ids})["text_embedding"]
        return _cosine((image, self.images), (text, self.texts))

    def _predicted(self, bundle: Path) -> str:
        done = bundles.call("predict", self.file, "-b", bundle, "--json")
        assert done.returncode == 0, done.stderr
        findings = json.loads(done.stdout)["findings"]
        classifier = ZeroShotClassifier.from_bundle(bundle)
        self._judges_a_single_prompt(classifier.predict)
        embedding = classifier.embed_images([self.file])
        return self._answer(embedding, [finding["probability"] for finding in findings])

    def _served(self, bundle: Path) -> str:
        from lrclr.triton.client import Client
        from lrclr.triton.server import ServeOptions, TritonServer

        options = ServeOptions(grpc_port=0, http_port=0, metrics_port=0, instances=1)
        with TritonServer(bundle, options) as server, Client(server.grpc) as client:
            reply = client.ask([self.file.read_bytes()], embedding=True)
            self._judges_a_single_prompt(client.predict)
        return self._answer(reply.image_embedding, [each.probability for each in reply.predictions[0].findings])

    def _judges_a_single_prompt(self, predict: Callable[..., list[Prediction]]) -> None:
        """A finding without negative prompts has the original class's own sigmoid, if that has one."""
        network = self.original.network
        if getattr(network, "logit_bias", None) is None:
            return
        (answer,) = predict([self.file.read_bytes()], findings=FindingSet((Finding("Edema", ("edema",), ()),)))
        cosine = float((self.embedding @ self._text_embeddings(("edema",)).T)[0, 0])
        wanted = torch.sigmoid(network.logit_scale.exp() * cosine + network.logit_bias)
        assert abs(answer.findings[0].probability - float(wanted)) < 5e-3

    def _answer(self, embedding: Any, found: Sequence[float]) -> str:
        """Cosine of an image's embedding to the original class, and the largest error of a probability."""
        error = float(np.abs(np.array(found) - self.probabilities[0]).max())
        assert error < 5e-3
        return f"{_cosine((embedding, self.embedding))}; {error:.0e}"

    def _drawn(self, bundle: Path) -> str:
        def picked(classifier: ZeroShotClassifier) -> tuple[Prediction, Counter[int]]:
            (answer,) = classifier.predict([self.file])
            return answer, Counter(region.patch for region in answer.regions)

        answer, ours = picked(ZeroShotClassifier.from_bundle(bundle))
        _, wanted = picked(ZeroShotClassifier.from_checkpoint(self.checkpoint))
        assert draw_heatmap(read_image(self.file), answer).width > 100
        return f"{(ours & wanted).total()} of {wanted.total()}"

    def _trained(self) -> str:
        # Private: the loss of one step, without a dataset.
        from lrclr.training._task import ContrastiveTask, LossSettings

        start = self._of_network(self.checkpoint.model)
        model = self.checkpoint.model.train().requires_grad_(True)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
        tokens = self.checkpoint.tokenizer.encode(TEXTS)
        batch = (self.pixels[:3], torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.mask), torch.arange(3))
        losses = []
        for _ in range(3):
            torch.manual_seed(0)
            loss = ContrastiveTask(model, LossSettings())(*batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]
        return f"{start}; {losses[0]:.2f} to {losses[-1]:.2f}"


def _cosine(*pairs: tuple[Any, Any]) -> str:
    """The least cosine of any row of any pair."""
    return _shown(max(float(1 - (np.asarray(one, np.float64) * other).sum(-1).min()) for one, other in pairs))


def _shown(lost: float) -> str:
    assert lost < 0.2
    return "1 - 1e-6" if lost < 1e-6 else f"{1 - lost:.5f}"


def _fused(plans: Mapping[str, Any], graph: str) -> str:
    """How many attentions the builder fused, of how many softmaxes, in the profile with the fewest."""
    described = plans["graphs"][graph]
    fewest = min(profile["fused_attention"] for profile in described["built"]["profiles"])
    total = sum(described["precision_histogram"]["SOFTMAX"].values())
    return f"{graph.partition('_')[0]} {fewest} of {total}"


def rows_of_page() -> dict[str, list[str]]:
    lines = PAGE.read_text(encoding="utf-8").partition("<!-- matrix -->")[2].partition("<!-- end -->")[0].splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert table[0] == ["family", *COLUMNS]
    return {name: cells for name, *cells in table[2:]}


def write_row(name: str, cells: Mapping[str, str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    line = f"| {name} | {' | '.join(cells[column] for column in COLUMNS)} |"
    PAGE.write_text(re.sub(rf"(?m)^\| {re.escape(name)} \|.*$", lambda _: line, text), encoding="utf-8")


def test_the_page_has_every_family() -> None:
    assert list(rows_of_page()) == list(ROWS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ROWS)
def test_the_matrix(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make: Callable[[Path, pytest.MonkeyPatch], Original] = ORIGINALS[name]
    cells = _Row(make(tmp_path / "source", monkeypatch), tmp_path).cells()
    if os.environ.get("LRCLR_WRITE_MATRIX"):
        write_row(name, cells)
    assert cells.keys() == set(COLUMNS)
    for column, written in zip(COLUMNS, rows_of_page()[name], strict=True):
        if column in ("convert", "fp32"):
            assert cells[column] == written
