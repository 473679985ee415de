"""What every family supports, from its original files to an answer: the table in docs/families/index.md.

With ``LRCLR_WRITE_MATRIX=1``, the row of each tested family is written into the page. Without it, results must equal
the page.
"""

from __future__ import annotations

import os
import re
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
from lrclr.inference import draw_heatmap
from lrclr.samples import sample_paths
from lrclr.verification import verify
from lrclr_export import BuildOptions, ExportOptions, build_bundle, export_bundle
from tests.families.test_families import ORIGINALS, Original, pixels_of, unit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# Private: the loss of one step, without a dataset.
PAGE: Final = Path(__file__).parents[2] / "docs/families/index.md"
ROWS: Final = ("open_clip clip", "siglip", "open_clip siglip", "biomedclip", "vit and bert", "vit and roberta")
COLUMNS: Final = (
    *(
        "convert",
        "fp32",
        "fp16",
        "int8",
        "verify",
        "predict",
        "heat map",
        "serve",
        "train a step",
        "OpenVINO",
        "RTX build",
    ),
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
        tokens = self.checkpoint.tokenizer.encode(TEXTS)
        self.ids = tokens.input_ids
        with torch.no_grad():
            self.images = unit(original.images(self.pixels)).numpy()
            self.texts = unit(original.texts(torch.from_numpy(tokens.input_ids), torch.from_numpy(tokens.mask))).numpy()

    def cells(self) -> dict[str, str]:
        """The cells by column."""
        found = {"convert": self._converted()}
        for precision in ("fp32", "fp16", "int8"):
            limits = {"int8": LOOSE, "fp16": HALF}.get(precision, {})
            options = ExportOptions(precision, max_batch=4, tolerances=limits)
            export_bundle(self.checkpoint, self.folder / precision, options)
            found[precision] = self._cosine(OnnxRuntimeEngine(Bundle(self.folder / precision)))
        bundle = Bundle(self.folder / "fp16")
        report = verify(bundle, OnnxRuntimeEngine(bundle))
        assert report.passed
        found["verify"] = f"{len(report.gates)} gates"
        image = read_image(sample_paths()[0])
        (answer,) = ZeroShotClassifier.from_bundle(bundle.path).predict([image])
        (wanted,) = ZeroShotClassifier.from_checkpoint(self.checkpoint).predict([image])
        error = max(abs(a.probability - b.probability) for a, b in zip(answer.findings, wanted.findings, strict=True))
        assert error < 5e-3
        found["predict"] = f"{error:.0e}"
        assert draw_heatmap(image, answer).width > 100
        found["heat map"] = "yes"
        found["serve"] = self._served(bundle.path, [finding.probability for finding in answer.findings])
        found["train a step"] = self._trained()
        openvino = open_named_engine(Bundle(self.folder / "fp32"), EngineOptions("openvino", "cpu", None))
        found["OpenVINO"] = self._cosine(openvino)
        build_bundle(bundle.path, BuildOptions("tensorrt-rtx", ("8.9",)))
        (plans,) = Bundle(bundle.path).manifest.plans
        assert plans["engine"] == "tensorrt-rtx"
        found["RTX build"] = ", ".join(_fused(plans, graph) for graph in ("image_encoder", "text_encoder"))
        return found

    def _converted(self) -> str:
        self.checkpoint.save(self.folder / "lrclr")
        model = load_checkpoint(self.folder / "lrclr").model
        with torch.no_grad():
            image = model.encode_image(self.pixels).embedding.numpy()
            text = model.encode_text(torch.from_numpy(self.ids)).embedding.numpy()
        return self._shown(image, text)

    def _cosine(self, engine: Any) -> str:
        image = engine.run("image_encoder", {"pixel_values": self.pixels.numpy()})["image_embedding"]
        return self._shown(image, engine.run("text_encoder", {"input_ids": self.ids})["text_embedding"])

    def _shown(self, image: Any, text: Any) -> str:
        pairs = ((image, self.images), (text, self.texts))
        lost = max(float(1 - (a.astype(np.float64) * b).sum(-1).min()) for a, b in pairs)
        assert lost < 0.2
        return "1 - 1e-6" if lost < 1e-6 else f"{1 - lost:.5f}"

    def _served(self, bundle: Path, wanted: list[float]) -> str:
        from lrclr.triton.client import Client
        from lrclr.triton.server import ServeOptions, TritonServer

        options = ServeOptions(grpc_port=0, http_port=0, metrics_port=0, instances=1)
        with TritonServer(bundle, options) as server, Client(server.grpc) as client:
            (answer,) = client.predict([sample_paths()[0].read_bytes()])
        np.testing.assert_allclose([finding.probability for finding in answer.findings], wanted, atol=1e-5)
        return "equal"

    def _trained(self) -> str:
        from lrclr.training._task import ContrastiveTask, LossSettings

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
        return f"{losses[0]:.2f} to {losses[-1]:.2f}"


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
    PAGE.write_text(re.sub(rf"(?m)^\| {re.escape(name)} \|.*$", line, text), encoding="utf-8")


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
