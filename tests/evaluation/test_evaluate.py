"""Complete evaluations: checkpoint and bundle agree, fitted values, splits, presets, ensembles, comparisons."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lrclr import Bundle, FindingSet, ZeroShotClassifier
from lrclr.bundle import write_manifest
from lrclr.datasets import ImageDataset, read_dataset
from lrclr.errors import GateError, UsageError
from lrclr.evaluation import (
    EvaluationOptions,
    EvaluationRun,
    Selection,
    compare,
    evaluate,
    evaluate_scores,
    markdown,
    score_rows,
    select,
    store,
)

# Private: the reports as texts, without a folder.
from lrclr.evaluation._reports import html as page
from lrclr.evaluation._reports import report_json
from lrclr.images import read_image
from lrclr.inference import ScoreCalibration
from lrclr.preprocessing import PreprocessSpec
from lrclr.reports import p_value
from tests import bundles
from tests.kept_exports import exporting_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrclr.evaluation import Evaluation
    from tests.evaluation.conftest import MakeScores

    MakeData = Callable[..., Path]

OPTIONS = EvaluationOptions(resamples=60)


@pytest.fixture(scope="module")
def evaluated(classifier: ZeroShotClassifier, data: ImageDataset) -> EvaluationRun:
    return evaluate(classifier, data, OPTIONS)


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, list | tuple):
        return [number for each in value for number in numbers(each)]
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def figures(evaluation: Evaluation) -> dict[str, Any]:
    kept = asdict(evaluation)
    return {key: kept[key] for key in ("alpha", "alpha_sweep", "score_scale", "findings", "mean", "grounding")}


def test_a_checkpoint_and_its_bundle_have_the_same_figures(
    evaluated: EvaluationRun, torch_classifier: ZeroShotClassifier, data: ImageDataset
) -> None:
    torch_evaluated = evaluate(torch_classifier, data, OPTIONS)
    assert torch_evaluated.evaluation.model["kind"] == "checkpoint"
    assert evaluated.evaluation.model["kind"] == "bundle"
    for key in ("checkpoint_sha256", "fusion_trained", "alpha"):
        assert torch_evaluated.evaluation.model[key] == evaluated.evaluation.model[key]
    of_bundle, of_checkpoint = numbers(figures(evaluated.evaluation)), numbers(figures(torch_evaluated.evaluation))
    assert len(of_bundle) > 200
    assert of_bundle == pytest.approx(of_checkpoint, abs=2e-3)
    comparison = compare(evaluated.scores, torch_evaluated.scores, evaluated.selection.rows)
    assert all(abs(each.difference.value or 0) < 1e-3 for each in comparison.differences)


def test_figures_are_computed_from_the_scores(evaluated: EvaluationRun) -> None:
    evaluation, scores = evaluated.evaluation, evaluated.scores
    assert [finding.name for finding in evaluation.findings] == ["Edema", "Fracture", "Pneumothorax"]
    probability = scores.probability(evaluation.alpha)
    for f in (0, 2):
        finding, label = evaluation.findings[f], scores.labels[:, f]
        used = label >= 0
        assert (finding.positives, finding.negatives, finding.left_out) == tuple(
            int(part.sum()) for part in (label == 1, label == 0, label < 0)
        )
        assert finding.left_out == 1
        assert finding.auroc.value == pytest.approx(roc_auc_score(label[used], probability[used, f]), abs=1e-6)
        assert finding.threshold is not None
        called = probability[:, f] >= finding.threshold
        assert finding.sensitivity.value == pytest.approx(called[label == 1].mean())
        assert finding.specificity.value == pytest.approx((~called)[label == 0].mean())
        for estimate in (finding.auroc, finding.average_precision, finding.auroc_local, finding.f1):
            assert estimate.value is not None
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high
    # Fourteen validation images are too few to fit alpha.
    assert (evaluation.alpha, evaluation.alpha_from) == (bundles.ALPHA, "model")
    assert evaluation.settings["resampled"] == "patients"
    assert evaluation.data["patients"] == 13
    assert [each.name for each in evaluation.grounding] == ["Edema", "Pneumothorax", "mean"]


def test_an_absent_class_is_marked_in_every_report(evaluated: EvaluationRun) -> None:
    fracture = evaluated.evaluation.findings[1]
    assert fracture.undefined == "no labelled image has it"
    assert (fracture.auroc.value, fracture.f1.value, fracture.calibration_error, fracture.roc) == (None, None, None, ())
    assert fracture.threshold is not None  # the validation split has both classes
    assert evaluated.evaluation.mean.findings == 2
    assert evaluated.evaluation.mean.auroc.value is not None
    assert "undefined: no labelled image has it" in markdown(evaluated.evaluation)
    assert json.loads(evaluated.evaluation.to_json())["findings"][1]["auroc"]["value"] is None


def test_results_depend_on_the_seed_only(
    classifier: ZeroShotClassifier, data: ImageDataset, evaluated: EvaluationRun
) -> None:
    assert evaluate(classifier, data, OPTIONS).evaluation.to_json() == evaluated.evaluation.to_json()
    other = evaluate(classifier, data, replace(OPTIONS, seed=1)).evaluation
    first, second = evaluated.evaluation.findings[0], other.findings[0]
    assert second.average_precision.value == first.average_precision.value
    assert second.average_precision.low != first.average_precision.low
    # Intervals of AUROCs are computed without draws.
    assert second.auroc == first.auroc


def test_json_has_all_figures_and_no_path(evaluated: EvaluationRun, data: ImageDataset) -> None:
    text = evaluated.evaluation.to_json()
    content = json.loads(text)
    assert content["schema"] == 1
    assert content["mean"]["auroc"]["value"] == round(evaluated.evaluation.mean.auroc.value or 0, 6)
    assert content["data"]["manifest_sha256"] == data.sha256
    for secret in (str(data.path.parent), "patient1", ".png"):
        assert secret not in text


def test_alpha_is_the_best_on_enough_validation_images(classifier: ZeroShotClassifier, data: ImageDataset) -> None:
    options = replace(OPTIONS, split="validation", validation_split="test")
    rows = tuple(replace(row, labels={"edema": row.line % 2}, masks={}) for row in data.rows)
    evaluation = evaluate(classifier, replace(data, rows=rows), options).evaluation
    assert evaluation.alpha_from == "validation"
    assert evaluation.data["validation"]["split"] == "test"
    best = max(area for _, area in evaluation.alpha_sweep)
    assert dict(evaluation.alpha_sweep)[evaluation.alpha] == best


def test_without_validation_nothing_is_fitted(classifier: ZeroShotClassifier, data: ImageDataset) -> None:
    alone = replace(data, rows=data.only("test").rows)
    evaluation = evaluate(classifier, alone, OPTIONS).evaluation
    assert (evaluation.alpha, evaluation.alpha_from) == (bundles.ALPHA, "model")
    assert (evaluation.alpha_sweep, evaluation.score_scale) == ((), None)
    assert all(finding.threshold is None and finding.f1.value is None for finding in evaluation.findings)
    assert evaluation.findings[0].calibration_error is not None
    assert "No validation images" in markdown(evaluation)


def test_validation_can_be_another_dataset(
    classifier: ZeroShotClassifier, data: ImageDataset, evaluated: EvaluationRun
) -> None:
    test = replace(data, rows=data.only("test").rows)
    fitted = replace(data, rows=tuple(replace(row, split="") for row in data.only("validation").rows))
    evaluation = evaluate(classifier, test, OPTIONS, validation=fitted).evaluation
    assert figures(evaluation) == figures(evaluated.evaluation)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_given_alpha_is_used(alpha: float, classifier: ZeroShotClassifier, data: ImageDataset) -> None:
    evaluation = evaluate(classifier, data, replace(OPTIONS, alpha=alpha)).evaluation
    assert (evaluation.alpha, evaluation.alpha_from) == (alpha, "given")
    edema = evaluation.findings[0]
    assert edema.auroc == (edema.auroc_local if alpha else edema.auroc_global)


def test_an_untrained_head_has_no_figures(classifier: ZeroShotClassifier, data: ImageDataset) -> None:
    untrained = ZeroShotClassifier(replace(classifier.spec, fusion_trained=False, alpha=0.0), classifier.engine)
    evaluation = evaluate(untrained, data, OPTIONS).evaluation
    assert (evaluation.alpha, evaluation.alpha_from, len(evaluation.alpha_sweep)) == (0.0, "model", 1)
    assert evaluation.findings[0].auroc_local.value is None
    assert evaluation.findings[0].auroc == evaluation.findings[0].auroc_global
    assert evaluation.grounding[0].pointing.value is None
    assert evaluation.grounding[0].pointing_rollout.value is not None
    assert "never trained" in markdown(evaluation)
    with pytest.raises(UsageError, match="is not trained"):
        evaluate(untrained, data, replace(OPTIONS, alpha=0.5))


def test_splits_are_found_or_chosen(data: ImageDataset) -> None:
    asked = FindingSet.from_names(["edema", "Cyst"])
    chosen = select(data, asked)
    assert (chosen.split, len(chosen.rows), len(chosen.validation)) == ("test", 26, 14)
    assert (chosen.findings.names, chosen.not_labelled) == (("edema",), ("Cyst",))
    same = select(data, asked, split="validation")
    assert (len(same.rows), same.validation) == (14, ())
    for name in ("external", ""):
        renamed = replace(data, rows=tuple(replace(row, split=name) for row in data.rows))
        assert (select(renamed, asked).split, len(select(renamed, asked).rows)) == (name, 40)
    with pytest.raises(UsageError, match=r"no split 'dev'.*test, validation"):
        select(data, asked, split="dev")
    three = replace(data, rows=tuple(replace(row, split=f"s{row.line % 3}") for row in data.rows))
    with pytest.raises(UsageError, match="--split"):
        select(three, asked)
    with pytest.raises(UsageError, match=r"nothing in common.*model has Cyst.*dataset has edema"):
        select(data, FindingSet.from_names(["Cyst"]))


def test_training_rows_are_not_evaluated_unless_asked(data: ImageDataset) -> None:
    asked = FindingSet.from_names(["edema"])
    rows = tuple(replace(row, split="train" if row.split == "test" else row.split) for row in data.rows)
    with pytest.raises(UsageError, match=r"no split 'test'.*--split"):
        select(replace(data, rows=rows), asked)
    assert len(select(replace(data, rows=rows), asked, split="train").rows) == 26


def test_rows_of_unusual_splits_are_counted(data: ImageDataset) -> None:
    names = {2: "Testing", 3: ""}
    rows = tuple(replace(row, split=names.get(row.line, row.split)) for row in data.rows)
    chosen = select(replace(data, rows=rows), FindingSet.from_names(["edema"]))
    assert chosen.unused == "1 of 'Testing', 1 of no split"


def test_rows_to_fit_on_are_never_of_another_split(data: ImageDataset) -> None:
    asked = FindingSet.from_names(["edema"])
    with pytest.raises(UsageError, match=r"no split 'holdout'.*--validation-split"):
        select(data, asked, validation_split="holdout")
    assert select(data, asked, validation_split="none").validation == ()
    test, own = data.only("test"), data.only("validation")
    several = replace(own, rows=tuple(replace(row, split=f"s{row.line % 2}") for row in own.rows))
    with pytest.raises(UsageError, match=r"no split 'validation'.*it has s"):
        select(test, asked, validation=several)
    for name in ("dev", ""):
        one = replace(own, rows=tuple(replace(row, split=name) for row in own.rows))
        chosen = select(test, asked, validation=one)
        assert (chosen.validation_split, len(chosen.validation)) == (name, 14)


def test_rows_without_a_split_are_apart_from_the_validation_rows(data: ImageDataset) -> None:
    rows = (replace(row, split="" if row.split == "test" else row.split) for row in data.rows)
    chosen = select(replace(data, rows=tuple(rows)), FindingSet.from_names(["edema"]))
    assert {row.split for row in chosen.rows} == {""}
    assert {row.split for row in chosen.validation} == {"validation"}


def test_the_chexzero_preset_follows_its_protocol(classifier: ZeroShotClassifier, data: ImageDataset) -> None:
    clip = ZeroShotClassifier(
        replace(classifier.spec, preprocess=PreprocessSpec.clip(112), calibration=ScoreCalibration(7.0, 1.0)),
        classifier.engine,
    )
    evaluation = evaluate(clip, data, EvaluationOptions(preset="chexzero", resamples=20)).evaluation
    expected = evaluate(
        classifier, data, EvaluationOptions(alpha=0.0, threshold="mcc", findings=FindingSet.default(), resamples=20)
    ).evaluation
    assert figures(evaluation) == figures(expected)
    assert evaluation.settings["published"]["auroc"]["Edema"] == 0.899
    text = markdown(evaluation)
    assert "CheXzero's published figures" in text
    assert "0.899" in text
    assert evaluate(clip, data, EvaluationOptions(preset="chexzero-5", resamples=0)).selection.findings.names == (
        "Edema",
    )
    for wrong in ({"preset": "chexnet"}, {"threshold": "best"}, {"resamples": -1}):
        with pytest.raises(UsageError):
            EvaluationOptions(**wrong)


def test_an_ensemble_averages_probabilities(classifier: ZeroShotClassifier, data: ImageDataset) -> None:
    names = FindingSet.from_names(["Edema"])
    other = ZeroShotClassifier(replace(classifier.spec, sha256="f" * 64), ReversedEmbedding(classifier.engine))
    options = replace(OPTIONS, findings=names, alpha=0.0)
    alone = [evaluate(each, data, options).scores for each in (classifier, other)]
    both = evaluate(iter([classifier, other]), data, options)
    mean = (alone[0].probability(0.0) + alone[1].probability(0.0)) / 2
    assert both.scores.probability(0.0) == pytest.approx(mean)
    assert np.ptp(mean - alone[0].probability(0.0)) > 0
    assert both.evaluation.model["ensemble"] == [classifier.spec.sha256, "f" * 64]
    assert "ensemble of 2" in markdown(both.evaluation)
    with pytest.raises(UsageError, match="no model"):
        evaluate(iter(()), data, options)


class ReversedEmbedding:
    """Another model of the same shape: the dimensions of the image embedding are in reverse order."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.name = inner, inner.name

    def run(self, graph: str, inputs: Any) -> Any:
        outputs = self.inner.run(graph, inputs)
        if graph == "image_encoder":
            outputs["image_embedding"] = outputs["image_embedding"][:, ::-1]
        return outputs


def test_a_paired_difference_is_narrower_than_two_intervals(make_scores: MakeScores) -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, (400, 2))
    gap = labels + draw.normal(size=(400, 2)) * 1.5
    first = make_scores(labels, gap + 0.3 * (labels - 0.5) + draw.normal(size=gap.shape) * 0.05)
    second = make_scores(labels, gap)
    result = compare(first, second)
    assert [each.name for each in result.differences] == ["finding 0", "finding 1", "mean"]
    for each in result.differences:
        low, middle, high = each.difference.low, each.difference.value, each.difference.high
        assert low is not None
        assert middle is not None
        assert high is not None
        assert each.value is not None
        assert each.against is not None
        assert middle == pytest.approx(each.value - each.against)
        assert 0 < low < middle < high < 0.08
    swapped = compare(second, first)
    for each, back in zip(result.differences, swapped.differences, strict=True):
        assert each.difference.low == pytest.approx(-(back.difference.high or 0))
    same = compare(first, first).differences[0].difference
    assert (same.value, same.low, same.high) == (0.0, None, None)
    with pytest.raises(UsageError, match="no finding in common"):
        compare(first, replace(second, findings=("a", "b")))
    with pytest.raises(UsageError, match="labels of the two models differ"):
        compare(first, make_scores(1 - labels, gap))
    with pytest.raises(UsageError, match="images differ"):
        compare(first, replace(second, image=second.image[::-1]))


@pytest.mark.slow
def test_calibration_is_the_same_in_torch_and_in_the_bundle(
    bundle_folder: Path,
    checkpoint_folder: Path,
    data: ImageDataset,
    tmp_path: Path,
) -> None:
    import shutil

    folder, checkpoint = bundles.copied(bundle_folder, tmp_path / "bundle"), tmp_path / "checkpoint"
    shutil.copytree(checkpoint_folder, checkpoint)
    names = FindingSet.from_names(["Edema", "Fracture", "Tuberculosis"])
    rows = data.rows[:4]
    plain = score_rows(ZeroShotClassifier.from_bundle(folder), rows, names)
    for place in (folder, checkpoint):
        store(place, alpha=0.25, score_scale=1.0, score_bias=3.0, finding_calibration={"Fracture": (5.0, 5.0)})
        store(place, alpha=0.25, score_scale=2.0, score_bias=-0.5, finding_calibration={"Edema": (30.0, 1.5)})
    exported = tmp_path / "exported"
    from lrclr.checkpoints import load_checkpoint
    from lrclr_export import ExportOptions, export_bundle

    with exporting_once():
        export_bundle(load_checkpoint(checkpoint), exported, ExportOptions("fp32"))
    assert Bundle(exported).manifest.scoring == Bundle(folder).manifest.scoring
    gap = plain.models[0].gap(0.25)
    expected = 1 / (1 + np.exp(-(gap * [30.0, 2.0, 2.0] + [1.5, -0.5, -0.5])))
    for classifier in (
        ZeroShotClassifier.from_bundle(folder),
        ZeroShotClassifier.from_checkpoint(checkpoint),
        ZeroShotClassifier.from_bundle(exported),
    ):
        got = classifier.predict([read_image(row.image) for row in rows], findings=names)
        table = [[prediction.finding(name).probability for name in names.names] for prediction in got]
        assert np.array(table) == pytest.approx(expected, abs=1e-4)
        scores = score_rows(classifier, rows, names)
        assert scores.probability(0.25) == pytest.approx(expected, abs=1e-4)


def test_the_manifest_has_a_bias_only_if_one_was_fitted(bundle_folder: Path, tmp_path: Path) -> None:
    folder = bundles.copied(bundle_folder, tmp_path / "bundle")
    assert set(Bundle(folder).manifest.scoring) == {"alpha", "score_scale", "fusion_trained"}
    store(folder, alpha=None, score_scale=1.0, score_bias=0.5)
    assert Bundle(folder).manifest.scoring["score_bias"] == 0.5
    # Without a scale, both stay.
    store(folder, alpha=None, score_scale=None, finding_calibration={"Edema": (2.0, 0.1)})
    kept = Bundle(folder).manifest.scoring
    assert (kept["score_bias"], kept["finding_calibration"]) == (0.5, {"Edema": [2.0, 0.1]})
    store(folder, alpha=None, score_scale=1.0)
    assert set(Bundle(folder).manifest.scoring) == {"alpha", "score_scale", "fusion_trained"}


def test_the_same_images_in_both_splits_are_refused(
    classifier: ZeroShotClassifier, data: ImageDataset, tmp_path: Path
) -> None:
    import shutil

    test = replace(data, rows=data.only("test").rows)
    own = replace(data, rows=tuple(replace(row, split="", patient="") for row in data.only("validation").rows))
    unknown = replace(test, rows=tuple(replace(row, patient="") for row in test.rows))
    with pytest.raises(UsageError, match="26 images to fit on are evaluated as well"):
        evaluate(classifier, test, OPTIONS, validation=unknown)
    with pytest.raises(UsageError, match="13 patients to fit on are evaluated as well"):
        evaluate(classifier, test, OPTIONS, validation=test)
    # The same pixels under another name, or through a link.
    copy, link = tmp_path / "copy.png", tmp_path / "link.png"
    shutil.copyfile(test.rows[0].image, copy)
    link.symlink_to(test.rows[1].image)
    for other in (copy, link):
        rows = (*own.rows[:-1], replace(own.rows[-1], image=other))
        with pytest.raises(UsageError, match="1 image to fit on is evaluated as well"):
            evaluate(classifier, test, OPTIONS, validation=replace(own, rows=rows))
    patient = replace(own.rows[0], patient=test.rows[0].patient)
    with pytest.raises(UsageError, match="1 patient to fit on is evaluated as well"):
        evaluate(classifier, test, OPTIONS, validation=replace(own, rows=(patient, *own.rows[1:])))


def test_names_of_findings_are_compared_without_case_and_punctuation(
    make_data: MakeData, classifier: ZeroShotClassifier
) -> None:
    data = read_dataset(make_data({"edema": "pleural_effusion", "Fracture": "SUPPORT-DEVICES"}))
    chosen = select(data, FindingSet.from_names(["Pleural Effusion", "Support Devices", "Mass"]))
    assert chosen.findings.names == ("Pleural Effusion", "Support Devices")
    scores = score_rows(classifier, chosen.rows, chosen.findings)
    assert set(scores.labels[:, 0].tolist()) == {0, 1, -1}


def test_a_finding_without_one_class_is_named(make_data: MakeData, classifier: ZeroShotClassifier) -> None:
    def spoil(row: dict[str, str]) -> dict[str, str]:
        return {**row, "Pneumothorax": "-1"} if row["Pneumothorax"] == "1" else row

    data = read_dataset(make_data({}, spoil))
    evaluation = evaluate(classifier, data, replace(OPTIONS, split="test")).evaluation
    finding = next(each for each in evaluation.findings if each.name == "Pneumothorax")
    assert finding.undefined == "no labelled image has it"
    assert (finding.auroc.value, finding.positives) == (None, 0)


def test_stored_values_are_in_the_bundle_and_its_gates_hold(bundle_folder: Path, tmp_path: Path) -> None:
    from lrclr.cli import main

    original = bundles.digests(bundle_folder)
    folder = bundles.copied(bundle_folder, tmp_path / "bundle")
    (folder / "card.toml").write_text('name = "Mine"\n[[metrics]]\nname = "AUROC"\nvalue = 0.5\n')
    write_manifest(folder, Bundle(bundle_folder).manifest)
    before = bundles.digests(folder)
    store(folder, alpha=0.4, score_scale=1.5)
    assert "| all findings | AUROC | 0.500 |" in (folder / "README.md").read_text()
    # Another alpha changes the order of the images.
    store(folder, alpha=0.75, score_scale=2.5)
    assert "| all findings | AUROC | 0.500 |" not in (folder / "README.md").read_text()
    scoring = Bundle(folder).manifest.scoring
    assert (scoring["alpha"], scoring["score_scale"], scoring["fusion_trained"]) == (0.75, 2.5, True)
    assert main(["verify", str(folder)]) == 0
    changed = {name for name, digest in bundles.digests(folder).items() if before[name] != digest}
    assert changed == {"manifest.json", "golden.npz", "README.md", "card.toml"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    assert bundles.digests(bundle_folder) == original
    # A slope so steep that rounding changes the probabilities is refused, and nothing is changed.
    now = bundles.digests(folder)
    with pytest.raises(GateError, match="probabilities"):
        store(folder, alpha=0.75, score_scale=1e3)
    assert bundles.digests(folder) == now


@pytest.mark.slow
def test_the_task_gate_holds_after_alpha_was_changed(
    bundle_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrclr.bundle import Golden
    from lrclr.cli import main

    # Random weights do not recognise findings. Without this threshold there would be no task gate.
    monkeypatch.setattr("lrclr.verification._task.LEAST_AUROC", 0.0)
    folder = bundles.copied(bundle_folder, tmp_path / "bundle")
    before = float(Golden.load(folder / "golden.npz").task_auroc)
    store(folder, alpha=None, score_scale=2.0)
    assert float(Golden.load(folder / "golden.npz").task_auroc) == before
    store(folder, alpha=1.0, score_scale=2.0)
    after = float(Golden.load(folder / "golden.npz").task_auroc)
    assert abs(after - before) > 2e-3  # otherwise the gate would have held anyway
    assert main(["verify", str(folder)]) == 0


def test_stored_values_are_in_the_checkpoint(checkpoint_folder: Path, data_file: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "checkpoint"
    shutil.copytree(checkpoint_folder, folder)
    store(folder, alpha=None, score_scale=3.5)
    store(folder, alpha=0.25, score_scale=4.5)
    spec = ZeroShotClassifier.from_checkpoint(folder).spec
    assert (spec.alpha, spec.calibration) == (0.25, ScoreCalibration(4.5))
    for wrong in (data_file, tmp_path):
        with pytest.raises(UsageError, match="cannot hold fitted values"):
            store(wrong, alpha=0.5, score_scale=1.0)


def test_too_few_patients_have_no_interval_and_no_test(make_scores: MakeScores) -> None:
    draw = np.random.default_rng(0)
    labels = np.stack([np.arange(60) < 4, draw.random(60) < 0.5], axis=1).astype(np.int8)
    gap = labels + draw.normal(size=labels.shape)
    for group, reason in (
        (np.arange(60) // 2, "only 2 patients with it; an interval or a test needs 3"),
        (np.arange(60) // 4, "only 1 patient with it; an interval or a test needs 3"),
    ):
        scores = make_scores(labels, gap, group=group)
        selection = Selection("", (), (), (), FindingSet.from_names(scores.findings), ())
        table = ImageDataset(Path("x.csv"), (), scores.findings, (), "")
        evaluation, _ = evaluate_scores(scores, scores, selection, table, EvaluationOptions(resamples=100))
        rare, common = evaluation.findings
        assert rare.no_interval == reason
        for each in (rare.auroc, rare.average_precision, rare.f1, rare.sensitivity, rare.specificity):
            assert (each.value is None, each.low, each.high) == (False, None, None)
        assert None not in (common.auroc.low, common.average_precision.low, evaluation.mean.auroc.low)
        assert evaluation.mean.average_precision.low is None
        comparison = compare(scores, make_scores(labels, gap + draw.normal(size=gap.shape), group=group))
        first, second, mean = comparison.differences
        assert (first.verdict, first.p, first.difference.low, first.reason) == ("not defined", None, None, reason)
        assert first.difference.value is not None
        assert (second.reason, mean.findings, mean.value) == ("", 1, second.value)
        for text in (
            markdown(evaluation, comparison),
            page(evaluation, comparison),
            report_json(evaluation, comparison),
        ):
            assert text.count(reason) >= 2


def test_reports_have_the_notes_and_the_numbers_in_full(
    classifier: ZeroShotClassifier, data: ImageDataset, evaluated: EvaluationRun
) -> None:
    evaluation = evaluated.evaluation
    assert any("the dataset has no labels of" in text for text in evaluation.notes)
    content = json.loads(evaluation.to_json())
    assert content["notes"] == list(evaluation.notes)
    assert [each["threshold"] for each in content["findings"]] == [each.threshold for each in evaluation.findings]
    small = replace(evaluation.findings[0], threshold=0.0000123456789)
    few = replace(evaluation, findings=(small, *evaluation.findings[1:]))
    for text in (markdown(few), page(few)):
        assert "0.00001235" in text
        assert "not fitted: Edema" in text
    alone = replace(data, rows=tuple(replace(row, patient="") for row in data.only("test").rows))
    unknown = evaluate(classifier, alone, replace(OPTIONS, resamples=0)).evaluation
    assert unknown.data["patients"] is None
    for text in (markdown(unknown), page(unknown)):
        assert "26 images, patients not given" in text


def test_a_p_value_is_never_0() -> None:
    assert [p_value(p) for p in (None, 0.0, 0.00099, 0.001, 1.0)] == ["–", "< 0.001", "< 0.001", "0.001", "1.000"]
