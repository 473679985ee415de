"""Every command reads an image with the same function and default, and records how it was read."""

from __future__ import annotations

import csv
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lrclr import ZeroShotClassifier
from lrclr.archive import ScoreOptions, score
from lrclr.bench import BenchOptions, open_targets

# Private: results do not contain the arrays that a command passes to the model.
from lrclr.bench._stages import Files, _pixels
from lrclr.cli import main
from lrclr.datasets import PixelCache, read_dataset
from lrclr.errors import UsageError
from lrclr.evaluation import EvaluationOptions, compare, evaluate, load_scores, save_scores, score_rows
from lrclr.images import read_for_model, read_image
from lrclr.inference import predict_files
from lrclr.preprocessing import from_canvas, preprocess
from tests import bundles
from tests.archive import archives

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.images import ReducedImage

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bundle(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with labels, which the default reads at a lower resolution."""
    folder = tmp_path_factory.mktemp("large")
    names = [path.rename(folder / f"{number}.dcm").name for number, path in enumerate(bundles.enlarged(folder))]
    with (folder / "manifest.csv").open("w", newline="") as file:
        rows = [[name, "test", "Oedema.", number] for number, name in enumerate(names)]
        csv.writer(file).writerows([["image", "split", "report", "Edema"], *rows])
    return folder


@pytest.fixture(scope="module")
def classifier(bundle: Path) -> ZeroShotClassifier:
    return ZeroShotClassifier.from_bundle(bundle, threads=1)


def cosines(classifier: ZeroShotClassifier, images: Path, *, exact: bool) -> np.ndarray[Any, Any]:
    """Scores of the model for images that are read in full or by default."""
    spec = classifier.spec.preprocess
    pixels = [preprocess(read_for_model(images / f"{n}.dcm", spec, exact=exact), spec) for n in range(2)]
    return np.concatenate([classifier.answer_pixels(image[None]).global_positive for image in pixels])


def test_the_two_ways_of_reading_differ_here(classifier: ZeroShotClassifier, images: Path) -> None:
    """Otherwise the other tests could not distinguish them."""
    spec = classifier.spec.preprocess
    read = read_for_model(images / "0.dcm", spec)
    assert read.pixels.shape[0] < read.height
    np.testing.assert_array_equal(
        read_for_model(images / "0.dcm", spec, exact=True).pixels, read_image(images / "0.dcm")
    )
    difference = cosines(classifier, images, exact=True) - cosines(classifier, images, exact=False)
    assert np.abs(difference).max() > 1e-4


@pytest.mark.parametrize("exact", [False, True])
def test_predict_score_and_evaluate_give_the_same_answers(
    exact: bool, classifier: ZeroShotClassifier, bundle: Path, images: Path, tmp_path: Path
) -> None:
    expected = cosines(classifier, images, exact=exact)
    files = [images / "0.dcm", images / "1.dcm"]
    results = list(predict_files(classifier, files, batch_size=1, exact=exact))
    assert [result.exact for result in results] == [exact, exact]
    predicted = [[f.global_positive for f in result.prediction.findings] for result in results if result.prediction]
    np.testing.assert_allclose(predicted, expected, atol=2e-6)

    summary = score(str(images / "*.dcm"), tmp_path / "out", ScoreOptions(bundle, exact=exact))
    rows = archives.rows(tmp_path / "out")
    assert [row["exact"] for row in rows] == [exact, exact]
    assert json.loads((tmp_path / "out" / "_run.json").read_text())["exact"] is exact
    assert summary.to_dict()["exact"] is exact
    np.testing.assert_allclose([row["global_positive"] for row in rows], expected, atol=2e-6)

    scores = score_rows(classifier, read_dataset(images / "manifest.csv").rows, exact=exact)
    np.testing.assert_allclose(scores.models[0].answers.global_positive, expected, atol=2e-6)
    save_scores(scores, tmp_path / "scores.npz")
    assert load_scores(tmp_path / "scores.npz").models[0].info["exact"] is exact


@pytest.mark.slow
@pytest.mark.parametrize("exact", [False, True])
def test_every_command_has_the_option_and_records_it(
    exact: bool, bundle: Path, images: Path, tmp_path: Path, capsys: Capture
) -> None:
    option = ["--exact"] * exact

    def run_command(*command: object) -> Any:
        assert main([*map(str, command), *option, "--json"]) == 0
        return [json.loads(text) for text in capsys.readouterr().out.replace("}\n{", "}\n\0{").split("\0")]

    assert [answer["exact"] for answer in run_command("predict", images, "-b", bundle)] == [exact, exact]
    assert run_command("score", images, "-b", bundle, "-o", tmp_path / "scores")[0]["exact"] is exact
    report = tmp_path / "report"
    (evaluated,) = run_command("evaluate", bundle, images / "manifest.csv", "--bootstrap", "3", "-o", report)
    assert evaluated["model"]["exact"] is exact
    words = "read in full (--exact)" if exact else "read as `lrclr predict` and the server do"
    assert words in (report / "report.md").read_text()
    (measured,) = run_command("bench", bundle, *bundles.BRIEF_BENCH, "--file", images)
    assert measured["settings"]["exact"] is exact
    assert measured["settings"]["input"]["files"] == 2
    assert measured["settings"]["input"]["passed_over"] == {"other": 1}


@pytest.mark.parametrize("exact", [False, True])
def test_the_benchmark_reads_like_the_other_commands(
    exact: bool, classifier: ZeroShotClassifier, bundle: Path, images: Path
) -> None:
    files = Files.read([images], exact=BenchOptions(exact=exact).exact)
    spec = classifier.spec.preprocess
    expected = [preprocess(read_for_model(path, spec, exact=exact), spec) for path in files.paths]
    with open_targets([str(bundle)]) as (target,):
        np.testing.assert_array_equal(_pixels(target, files, 2), expected)
        answers = target.predict_files(files.paths, files.contents, None, exact=exact)
    got = [[finding.global_positive for finding in answer.findings] for answer in answers]
    np.testing.assert_allclose(got, cosines(classifier, images, exact=exact), atol=2e-6)


def test_training_reads_like_the_server_and_its_cache_records_the_reading(
    classifier: ZeroShotClassifier, images: Path, tmp_path: Path
) -> None:
    rows, spec = read_dataset(images / "manifest.csv").rows, classifier.spec.preprocess
    notes: list[str] = []
    for exact in (False, True, False):
        cache = PixelCache.build(rows, spec, tmp_path / "cache", exact=exact, on_note=notes.append)
        for number in range(2):
            expected = preprocess(read_for_model(rows[number].image, spec, exact=exact), spec)
            np.testing.assert_array_equal(from_canvas(cache.pixels(number), spec), expected)
            assert cache.sizes(number) == (1300, 1250)
        assert json.loads((tmp_path / "cache" / "cache.json").read_text())["exact"] is exact
    assert len(notes) == 2
    assert "the way of reading have changed" in notes[0]


def test_calibration_reads_like_the_server(classifier: ZeroShotClassifier, images: Path, tmp_path: Path) -> None:
    from lrclr_export.quantize import read_calibration

    for number in range(16):
        (tmp_path / f"{number:02d}.1").write_bytes((images / f"{number % 2}.dcm").read_bytes())
    spec = classifier.spec.preprocess
    read = read_calibration(tmp_path, spec).pixel_values
    np.testing.assert_array_equal(read[0], preprocess(read_for_model(images / "0.dcm", spec), spec))


def test_scores_of_two_ways_of_reading_are_not_mixed(
    classifier: ZeroShotClassifier, bundle: Path, images: Path, tmp_path: Path
) -> None:
    score(images, tmp_path / "out", ScoreOptions(bundle))
    with pytest.raises(UsageError, match=r"holds scores with another way of reading \(--exact\)"):
        score(images, tmp_path / "out", ScoreOptions(bundle, exact=True))
    assert score(images, tmp_path / "out", ScoreOptions(bundle, exact=True, rescore=True)).scored == 2
    assert [row["exact"] for row in archives.rows(tmp_path / "out")] == [True, True]

    rows = read_dataset(images / "manifest.csv").rows
    default, in_full = (score_rows(classifier, rows, exact=exact) for exact in (False, True))
    with pytest.raises(UsageError, match="cannot be compared: the images were read in full"):
        compare(default, in_full)
    with pytest.raises(UsageError, match="differ in exact"):
        default.joined(in_full)


def test_an_evaluation_draws_the_regions_that_it_evaluated(
    classifier: ZeroShotClassifier, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The examples of the page are predicted again, with the same way of reading."""
    from lrclr.evaluation import _gallery

    seen: list[bool] = []

    def record(*source: Any, exact: bool, **options: Any) -> ReducedImage:
        seen.append(exact)
        return read_for_model(*source, exact=exact, **options)

    monkeypatch.setattr(_gallery, "read_for_model", record)
    data = read_dataset(images / "manifest.csv")
    for exact in (False, True):
        evaluated = evaluate(classifier, data, EvaluationOptions(resamples=0, exact=exact))
        scores = evaluated.scores
        probability = scores.probability(scores.alpha)
        findings = evaluated.selection.findings
        _gallery.gallery(classifier, evaluated.selection.rows, probability, scores.labels, findings, exact=exact)
    assert seen
    assert seen == [False] * (len(seen) // 2) + [True] * (len(seen) // 2)


def test_a_training_run_is_not_resumed_with_another_reading() -> None:
    from lrclr.training import TrainSettings

    settings = TrainSettings()
    assert settings.exact is False
    assert settings.differences(dataclasses.replace(settings, exact=True).to_dict()) == ["exact"]
