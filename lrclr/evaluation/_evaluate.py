"""`evaluate`: a model and a dataset in, an `Evaluation` out."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from lrclr._processors import processors
from lrclr._version import __version__
from lrclr.datasets import SKIP, raise_bad_rows
from lrclr.errors import UsageError
from lrclr.evaluation import _recognition
from lrclr.evaluation._bootstrap import Resamples
from lrclr.evaluation._compare import describe
from lrclr.evaluation._grounding import ground
from lrclr.evaluation._metrics import CRITERIA
from lrclr.evaluation._platt import FittedCalibration, fit_calibration
from lrclr.evaluation._presets import preset_named
from lrclr.evaluation._result import Evaluation
from lrclr.evaluation._scores import score_rows
from lrclr.evaluation._select import Selection, select
from lrclr.inference import ZeroShotClassifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lrclr.datasets import ImageDataset
    from lrclr.evaluation._scores import Scores
    from lrclr.text import FindingSet

__all__ = ["EvaluationOptions", "EvaluationRun", "evaluate", "evaluate_scores"]

_PACKAGES = ("numpy", "scikit-learn", "pillow", "onnxruntime", "onnxruntime-gpu", "torch")


@dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate.

    Attributes:
        split: which rows; if not given, "test", or the only split there is.
        validation_split: rows on which thresholds, alpha and the calibration are fitted.
        findings: with their prompts; the model's, or the preset's, if not given.
        preset: name of a protocol, see `PRESETS`.
        alpha: weight of the local score; if not given it is fitted on validation, or the model's.
        threshold: "f1", "mcc" or "youden"; "f1", or the preset's, if not given.
        use_fitted: judge with the calibration fitted on validation instead of the model's, as it is after `store`:
            probabilities and thresholds are those of the stored model.
        resamples, seed: of the bootstrap, which gives the intervals of all figures but the AUROCs.
        batch_size: images encoded at once.
        workers: threads that decode; ``None`` for one a core.
        skip_bad_rows: leave out rows that cannot be used and images that cannot be read, instead of refusing the data.
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
                f"there is no criterion {self.threshold!r} for a threshold", fix=f"Choose {', '.join(CRITERIA)}."
            )
        if self.resamples < 0 or self.seed < 0:
            raise UsageError("the number of resamples and the seed cannot be below 0")


@dataclass(frozen=True)
class EvaluationRun:
    """An evaluation, and what it was made from.

    Attributes:
        evaluation: the figures.
        scores: every answer, with the alpha in effect.
        selection: rows and findings.
    """

    evaluation: Evaluation
    scores: Scores
    selection: Selection


def evaluate(
    classifiers: ZeroShotClassifier | Iterable[ZeroShotClassifier],
    dataset: ImageDataset,
    options: EvaluationOptions | None = None,
    *,
    validation: ImageDataset | None = None,
    on_rows: Callable[[str, int], Callable[[], None]] = lambda _what, _count: lambda: None,
) -> EvaluationRun:
    """Judge a model, or an ensemble by its mean probability, on the images of a dataset.

    Args:
        classifiers: one, or the members of an ensemble; of an iterator one is held in memory at a time.
        dataset: images, labels, masks.
        options: how.
        validation: a dataset of its own to fit on, instead of rows of `dataset`.
        on_rows: told what images are answered for next and how many; what it returns is called after each image.

    Raises:
        UsageError: an option does not fit the model or the dataset; a column is no finding; no finding in common;
            images or patients to fit on are evaluated as well.
        LrclrError: a row cannot be used or an image cannot be read, and `skip_bad_rows` is not set; or none can.
    """
    options = options or EvaluationOptions()
    for table in (dataset, *([validation] if validation is not None else [])):
        if not options.skip_bad_rows:
            raise_bad_rows(str(table.path), table.problems, len(table.rows), fix=SKIP)
    preset = preset_named(options.preset)
    selection: Selection | None = None
    scores: Scores | None = None
    fitting: Scores | None = None
    members = [classifiers] if isinstance(classifiers, ZeroShotClassifier) else classifiers
    for given in members:
        classifier = given
        if preset is not None:
            classifier = ZeroShotClassifier(preset.applied(given.spec), given.engine)
        if selection is None:
            selection = select(
                dataset,
                options.findings or (preset.findings if preset else classifier.spec.findings),
                split=options.split,
                validation_split=options.validation_split,
                validation=validation,
            )
        if options.alpha is not None:
            # Before an hour of images, not after it.
            _recognition.check_alpha(options.alpha, trained=classifier.spec.fusion_trained)
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
        raise UsageError("there is no model to evaluate")
    evaluation, scores = evaluate_scores(scores, fitting, selection, dataset, options, validation=validation)
    return EvaluationRun(evaluation, scores, selection)


def evaluate_scores(
    scores: Scores,
    fitting: Scores | None,
    selection: Selection,
    dataset: ImageDataset,
    options: EvaluationOptions,
    *,
    validation: ImageDataset | None = None,
) -> tuple[Evaluation, Scores]:
    """As `evaluate`, of answers that are there already.

    Args:
        scores: for the rows of `selection`.
        fitting: for its validation rows, if there are any.
        selection: rows and findings.
        dataset: which they are from.
        options: how.
        validation: which the validation rows are from, if not from `dataset`.

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
    by_patient = int(scores.group.max()) + 1 < len(scores)
    settings: dict[str, Any] = {
        "resamples": options.resamples,
        "seed": options.seed,
        "resampled": "patients" if by_patient else "images",
        "resamples_without_a_class": skipped,
        "preset": options.preset,
        "threshold": criterion,
        "calibration_in_effect": dict(zip(scores.findings, scores.calibration.tolist(), strict=True)),
        "not_labelled": list(selection.not_labelled),
    }
    if preset is not None:
        settings["published"] = {"source": preset.source, "auroc": dict(preset.published)}
    evaluation = Evaluation(
        model=describe(scores),
        data=_data(scores, fitting, selection, dataset, validation, options),
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
    )
    return evaluation, scores


def _data(
    scores: Scores,
    fitting: Scores | None,
    selection: Selection,
    dataset: ImageDataset,
    validation: ImageDataset | None,
    options: EvaluationOptions,
) -> dict[str, Any]:
    data: dict[str, Any] = {
        "manifest_sha256": dataset.sha256,
        "split": selection.split,
        "images": len(scores),
        "patients": int(scores.group.max()) + 1,
        "unreadable": len(scores.failures),
        "unreadable_lines": [line for line, _ in scores.failures],
        "rows_left_out": len(dataset.problems),
    }
    if fitting is not None:
        data["validation"] = {
            "manifest_sha256": (validation or dataset).sha256,
            "split": options.validation_split,
            "images": len(fitting),
            "unreadable": len(fitting.failures),
        }
    return data


def _environment() -> dict[str, str]:
    found = {
        "lrclr": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {processors()} cores",
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
