"""`evaluate`: an `Evaluation` of a model on a dataset."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lrclr._processors import processors
from lrclr._version import __version__, installed_versions
from lrclr.errors import UsageError
from lrclr.evaluation import _recognition
from lrclr.evaluation._bootstrap import Resamples
from lrclr.evaluation._compare import describe
from lrclr.evaluation._grounding import ground
from lrclr.evaluation._metrics import CRITERIA, unit
from lrclr.evaluation._platt import FittedCalibration, fit_calibration
from lrclr.evaluation._presets import preset_named
from lrclr.evaluation._result import Evaluation
from lrclr.evaluation._scores import score_rows
from lrclr.evaluation._select import Selection, check_rows, select
from lrclr.evaluation._view import notes_of
from lrclr.inference import ZeroShotClassifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lrclr.datasets import ImageDataset
    from lrclr.evaluation._scores import Scores
    from lrclr.text import FindingSet

_PACKAGES = ("numpy", "scikit-learn", "pillow", "onnxruntime", "onnxruntime-gpu", "torch")


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation.

    Attributes:
        split: split to evaluate; by default "test", or the only split of the dataset.
        validation_split: split to fit thresholds, alpha and calibration on.
        findings: findings with their prompts; by default the preset's, or the model's.
        preset: name of a protocol in `PRESETS`.
        alpha: weight of the local score; by default fitted on validation, or the model's.
        threshold: "f1", "mcc" or "youden"; by default the preset's, or "f1".
        use_fitted: use the calibration fitted on validation instead of the model's, as `store` writes it: probabilities
            and thresholds are then those of the stored model.
        resamples, seed: settings of the bootstrap, which gives the intervals of all figures except AUROCs.
        batch_size: images of a batch.
        workers: threads that decode; ``None`` for one a processor.
        skip_bad_rows: leave out bad rows and unreadable images, instead of raising an error.
        exact: read every pixel of the images; see `lrclr.images.read_for_model`.
    """

    split: str | None = None
    validation_split: str = "validation"
    findings: FindingSet | None = None
    preset: str | None = None
    alpha: float | None = None
    threshold: str | None = None
    use_fitted: bool = False
    resamples: int = 1000
    seed: int = 0
    batch_size: int = 8
    workers: int | None = None
    skip_bad_rows: bool = False
    exact: bool = False

    def __post_init__(self) -> None:
        preset_named(self.preset)
        if self.threshold is not None and self.threshold not in CRITERIA:
            raise UsageError(
                f"unknown criterion {self.threshold!r} for a threshold", fix=f"Choose {', '.join(CRITERIA)}."
            )
        if self.resamples < 0 or self.seed < 0:
            raise UsageError("the number of resamples and the seed must not be below 0")


@dataclass(frozen=True)
class EvaluationRun:
    """An evaluation and its data.

    Attributes:
        evaluation: the figures.
        scores: all answers, with the alpha in effect.
        selection: rows and findings.
        validation: answers for the images to fit on, or None.
    """

    evaluation: Evaluation
    scores: Scores
    selection: Selection
    validation: Scores | None = None


def evaluate(
    classifiers: ZeroShotClassifier | Iterable[ZeroShotClassifier],
    dataset: ImageDataset,
    options: EvaluationOptions | None = None,
    *,
    validation: ImageDataset | None = None,
    on_rows: Callable[[str, int], Callable[[], None]] = lambda _what, _count: lambda: None,
) -> EvaluationRun:
    """Evaluate a model, or an ensemble by its mean probability, on a dataset.

    Args:
        classifiers: one classifier, or the members of an ensemble; an iterator opens them one by one.
        dataset: images, labels, masks.
        options: options.
        validation: another dataset to fit on, instead of rows of `dataset`.
        on_rows: called with a description and the number of images before they are scored; returns a function that is
            called after each image.

    Raises:
        UsageError: an option does not fit the model or the dataset; a column is not a finding; model and dataset have
            no finding in common; an image or a patient is in both the rows to fit on and those to evaluate; fitted
            values are to be used and there are no rows to fit on.
        LrclrError: a row cannot be used or an image cannot be read and `skip_bad_rows` is False, or no image can.
    """
    options = options or EvaluationOptions()
    split, validation_split = options.split, options.validation_split
    if not options.skip_bad_rows:
        check_rows(dataset, split=split, validation_split=validation_split, validation=validation)
    preset = preset_named(options.preset)
    selection: Selection | None = None
    scores: Scores | None = None
    fitting: Scores | None = None
    members = [classifiers] if isinstance(classifiers, ZeroShotClassifier) else classifiers
    for given in members:
        classifier = given
        if preset is not None:
            classifier = given.changed(preset.applied)
        if selection is None:
            selection = select(
                dataset,
                options.findings or (preset.findings if preset else classifier.spec.findings),
                split=split,
                validation_split=validation_split,
                validation=validation,
            )
            if options.use_fitted and not selection.validation:
                raise UsageError(
                    "there are no images to fit on",
                    why=f"the split {options.validation_split!r} has no rows, or it is the one to evaluate",
                    fix="Choose other splits, or give --validation.",
                )
        if options.alpha is not None:
            # Before the images are scored.
            _recognition.check_usable_alpha(options.alpha, trained=classifier.spec.fusion_trained)
        answered = []
        for what, rows in (("images", selection.rows), ("validation images", selection.validation)):
            if rows:
                answered.append(
                    score_rows(
                        classifier,
                        rows,
                        selection.findings,
                        batch_size=options.batch_size,
                        workers=options.workers,
                        skip_bad_rows=options.skip_bad_rows,
                        exact=options.exact,
                        on_progress=on_rows(what, len(rows)),
                    )
                )
        scores = answered[0] if scores is None else scores.joined(answered[0])
        if len(answered) > 1:
            fitting = answered[1] if fitting is None else fitting.joined(answered[1])
    if selection is None or scores is None:
        raise UsageError("no model is given to evaluate")
    evaluation, scores = evaluate_scores(scores, fitting, selection, dataset, options, validation=validation)
    return EvaluationRun(evaluation, scores, selection, fitting)


def evaluate_scores(
    scores: Scores,
    fitting: Scores | None,
    selection: Selection,
    dataset: ImageDataset,
    options: EvaluationOptions,
    *,
    validation: ImageDataset | None = None,
) -> tuple[Evaluation, Scores]:
    """As `evaluate`, from existing answers.

    Args:
        scores: answers for the rows of `selection`.
        fitting: answers for its validation rows, or None.
        selection: rows and findings.
        dataset: dataset of the rows.
        options: options.
        validation: dataset of the validation rows, if it is another one.

    Returns:
        The evaluation, and the scores with the alpha in effect.
    """
    preset = preset_named(options.preset)
    criterion = options.threshold or (preset.threshold if preset else "f1")
    alpha = options.alpha if options.alpha is not None else (preset.alpha if preset else None)
    scores, alpha_from, sweep = _recognition.fitted(scores, fitting, alpha)
    fit = fit_calibration(fitting, scores.alpha) if fitting is not None else FittedCalibration(None)
    fitted = fit.applied(scores) if fit else None
    if options.use_fitted and fitted is not None and fitting is not None:
        scores, fitting = replace(scores, calibration=fitted), replace(fitting, calibration=fitted)
    draws = Resamples(scores.group, options.resamples, options.seed)
    cuts = _recognition.thresholds(scores, fitting, criterion)
    findings, mean, skipped = _recognition.recognition(scores, cuts, fitted, draws)
    settings: dict[str, Any] = {
        "resamples": options.resamples,
        "seed": options.seed,
        "resampled": unit(scores.group),
        "resamples_without_a_class": skipped,
        "preset": options.preset,
        "threshold": criterion,
        # Of an ensemble whose members have values of their own, a list of pairs.
        "calibration_in_effect": {
            name: scores.calibration[..., f, :].tolist() for f, name in enumerate(scores.findings)
        },
        "not_labelled": list(selection.not_labelled),
    }
    if preset is not None:
        settings["published"] = {"source": preset.source, "auroc": dict(preset.published)}
    evaluation = Evaluation(
        model=describe(scores),
        data=_data(scores, fitting, selection, dataset, validation),
        settings=settings,
        environment=_environment(),
        alpha=scores.alpha,
        alpha_from=alpha_from,
        alpha_sweep=sweep,
        score_scale=fit.shared[0] if fit.shared else None,
        findings=findings,
        mean=mean,
        grounding=ground(scores, selection.rows, draws),
        score_bias=fit.shared[1] if fit.shared else None,
        finding_calibration=dict(fit.own),
        not_calibrated=dict(fit.refused),
        calibration_kept=(*fit.kept, *selection.not_labelled) if fit else (),
    )
    return replace(evaluation, notes=tuple(notes_of(evaluation, scores, selection))), scores


def _data(
    scores: Scores,
    fitting: Scores | None,
    selection: Selection,
    dataset: ImageDataset,
    validation: ImageDataset | None,
) -> dict[str, Any]:
    data: dict[str, Any] = {
        "manifest_sha256": dataset.sha256,
        "split": selection.split,
        "images": len(scores),
        "patients": int(scores.group.max()) + 1 if any(row.patient for row in selection.rows) else None,
        "unreadable": len(scores.failures),
        "unreadable_lines": [line for line, _ in scores.failures],
        "rows_left_out": len(selection.problems),
    }
    if fitting is not None:
        data["validation"] = {
            "manifest_sha256": (validation or dataset).sha256,
            "split": selection.validation_split,
            "images": len(fitting),
            "unreadable": len(fitting.failures),
            "rows_left_out": len(selection.validation_problems),
        }
    return data


def _environment() -> dict[str, str]:
    return {
        "lrclr": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {processors()} cores",
        **installed_versions(_PACKAGES),
    }
