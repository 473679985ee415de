"""`lrclr evaluate`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrclr.cli._checkpoints import Activation, Heads, Key, note_assumed, read_options, require_checkpoint
from lrclr.cli._console import (
    RESEARCH_ONLY,
    EngineName,
    Exact,
    Threads,
    TlsRoot,
    check_tls_root,
    complain,
    counter,
    new_table,
    note,
    note_engine,
    out,
    print_utf8,
)
from lrclr.cli._extras import require
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from lrclr.checkpoints import ReadOptions
    from lrclr.datasets import ImageDataset
    from lrclr.evaluation import Comparison, Evaluation, EvaluationOptions, EvaluationRun, Example
    from lrclr.inference import ZeroShotClassifier
    from lrclr.text import FindingSet


def evaluate(  # noqa: PLR0913, PLR0917 - one parameter an option
    model: Annotated[Path, typer.Argument(help="A bundle's folder, or a checkpoint.")],
    dataset: Annotated[Path, typer.Argument(help="Images and labels: .csv or .jsonl.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write report.json, .md and .html into this folder.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Split to evaluate; test, or the only one."),
    ] = None,
    validation_split: Annotated[
        str,
        typer.Option("--validation-split", help="Rows to fit thresholds, alpha and calibration on, or none."),
    ] = "validation",
    validation: Annotated[Path | None, typer.Option("--validation", help="Another dataset to fit on.")] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Compare with this bundle, checkpoint or .npz of scores.")
    ] = None,
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(
            "--ensemble", help="Bundle or checkpoint whose probability is averaged with MODEL's. May be repeated."
        ),
    ] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="A protocol: chexzero or chexzero-5.")] = None,
    findings: Annotated[
        Path | None, typer.Option("--findings", help="A findings file, instead of the model's findings.")
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Weight of the local score, 0 to 1.")] = None,
    threshold: Annotated[
        str | None, typer.Option("--threshold", help="Criterion on validation: f1, mcc or youden.")
    ] = None,
    bootstrap: Annotated[
        int, typer.Option("--bootstrap", help="Resamples for intervals of all figures except AUROCs.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the resamples.")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images per batch.")] = 8,
    exact: Exact = False,
    server: Annotated[
        str | None,
        typer.Option("--server", help="HOST:PORT of a server with the bundle MODEL, which computes the scores."),
    ] = None,
    tls_root: TlsRoot = None,
    engine: EngineName = None,
    provider: Annotated[str, typer.Option("--provider", help="cpu or cuda.")] = "cpu",
    threads: Threads = None,
    heads: Heads = None,
    activation: Activation = None,
    key: Key = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out bad rows and unreadable images instead of stopping.")
    ] = False,
    scores: Annotated[Path | None, typer.Option("--scores", help="Write all scores to this .npz file.")] = None,
    keep: Annotated[
        bool, typer.Option("--store", help="Write the fitted alpha and calibration into the model.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Evaluate a model on labelled images: AUROC, calibration and grounding, with intervals.

    DATASET has a column image, and for each finding a column with its name or label:NAME: 1, 0, -1 (uncertain) or
    empty. The columns split, patient, report and frame are optional. The location of a finding is given in one of
    three columns: boxes, JSON such as {"Edema": [[left, top, right, bottom]]} in pixels of the image; mask:NAME, a grey
    image whose pixels above 0 are the finding; or mask, an 8-bit image whose bit k is the k-th finding.

    A bad row or an unreadable image ends the evaluation with exit code 1. So does an evaluation without any result: no
    AUROC is defined, and nothing is located; its reports are written.
    """
    members = [model, *(ensemble or [])]
    _check_files(scores, against, members, keep=keep, preset=preset, findings=findings)
    _check_outputs(output, scores, [dataset, *members, *filter(None, (validation, against, findings))])
    require("evaluate")
    from lrclr.auto import is_bundle
    from lrclr.cli._findings import load_findings
    from lrclr.datasets import read_dataset
    from lrclr.evaluation import EvaluationOptions, is_scores, save_scores
    from lrclr.evaluation._reports import REPORTS, report_json, save_reports
    from lrclr.evaluation._store import check_storable
    from lrclr.reports import check_report_folder

    if output is not None:
        check_report_folder(output, REPORTS)
    models = (*members, *([against] if against else []))
    reading = _reading([path for path in models if not is_bundle(path) and not is_scores(path)], heads, activation, key)
    options = EvaluationOptions(
        split=split,
        validation_split=validation_split,
        findings=None if findings is None else load_findings(findings, _own_findings(model), None),
        preset=preset,
        alpha=alpha,
        threshold=threshold,
        use_fitted=keep,
        resamples=bootstrap,
        seed=seed,
        batch_size=batch_size,
        exact=exact,
        skip_bad_rows=skip_bad_rows,
    )
    names = _findings_of(model, options)
    data = read_dataset(dataset, findings=names)
    fitting = read_dataset(validation, findings=names) if validation is not None else None
    if keep:
        check_storable(model)
    if server is not None and (ensemble or keep or not is_bundle(model)):
        raise UsageError("--server needs one bundle, without --ensemble or --store", why="it serves one bundle")
    check_tls_root(tls_root, server)
    runner = {"tls_root": tls_root, "engine": engine, "provider": provider, "threads": threads, "reading": reading}
    judged = _evaluated(members, data, fitting, options, server=server, **runner)
    if keep and judged.evaluation.score_scale is None and not judged.evaluation.finding_calibration:
        raise LrclrError("no fit is stored, and the model is unchanged", why=judged.evaluation.not_calibrated[""])
    comparison = None
    if against is not None:
        comparison = _compared(judged, against, data, fitting, options, **runner)
    if scores is not None:
        save_scores(judged.scores, scores)
    evaluation = judged.evaluation
    if output is not None:
        examples = _examples(judged, model, preset, server=server, **runner)
        save_reports(output, evaluation, comparison, examples)
    if keep:
        _store(model, judged)
    # Last, since stdout may be closed.
    if as_json:
        print_utf8(report_json(evaluation, comparison))
    else:
        _print(evaluation, comparison)
    if keep:
        note(f"{model}: stored the fitted values; the thresholds of this evaluation are for them")
    _notes(judged, output)
    evaluation.raise_undefined()


def _reading(checkpoints: Sequence[Path], heads: str | None, activation: str | None, key: str | None) -> ReadOptions:
    reading = read_options(heads, activation, key)
    require_checkpoint(reading, any_checkpoint=bool(checkpoints))
    if checkpoints:
        require("torch")
    return reading


def _check_files(
    scores: Path | None,
    against: Path | None,
    members: Sequence[Path],
    *,
    keep: bool,
    preset: str | None,
    findings: Path | None,
) -> None:
    if scores is not None and scores.suffix != ".npz":
        raise UsageError(f"--scores {scores} does not end in .npz", fix="Choose such a name.")
    if scores is not None and not scores.absolute().parent.is_dir():
        raise UsageError(f"the folder of {scores} does not exist")
    if against is not None and not against.exists():
        raise UsageError(f"--against {against} does not exist")
    if keep and (preset is not None or findings is not None or len(members) > 1):
        raise UsageError(
            "--store cannot be used with --preset, --findings or --ensemble",
            why="the fitted values are then not those of the model alone",
        )


def _check_outputs(output: Path | None, scores: Path | None, inputs: Sequence[Path]) -> None:
    from lrclr._files import check_not_input, check_outside

    for written in filter(None, (output, scores)):
        check_not_input(written, inputs)
        check_outside(written, inputs)
    if output is not None and scores is not None and output.resolve() in scores.resolve().parents:
        raise UsageError(
            f"{scores} is inside {output}, which holds reports only", fix="Choose another place for the scores."
        )


def _findings_of(model: Path, options: EvaluationOptions) -> tuple[str, ...]:
    """Names of the findings to score, as far as they are known before the model is opened."""
    from lrclr.evaluation._presets import preset_named

    preset = preset_named(options.preset)
    asked = options.findings or (preset.findings if preset else None) or _own_findings(model)
    return asked.names if asked else ()


def _own_findings(model: Path) -> FindingSet | None:
    """The findings of a bundle or of LRCLR's checkpoint folder; None for another checkpoint."""
    from lrclr.bundle import FINDINGS
    from lrclr.text import FindingSet

    return FindingSet.load(model / FINDINGS) if (model / FINDINGS).is_file() else None


def _evaluated(
    paths: Sequence[Path],
    data: ImageDataset,
    fitting: ImageDataset | None,
    options: EvaluationOptions,
    **engine: Any,
) -> EvaluationRun:
    from lrclr.auto import open_model
    from lrclr.evaluation import evaluate as evaluate_models

    def opened() -> Iterator[ZeroShotClassifier]:
        for path in paths:
            classifier = open_model(path, **engine)
            note_engine(classifier)
            note_assumed(classifier.spec.assumed)
            yield classifier

    with contextlib.ExitStack() as bars:

        def begin(what: str, count: int) -> Callable[[], None]:
            # rich draws one bar at a time.
            bars.close()
            return bars.enter_context(counter(what, count))

        return evaluate_models(opened(), data, options, validation=fitting, on_rows=begin)


def _store(model: Path, judged: EvaluationRun) -> None:
    from lrclr.evaluation import store

    fitted = judged.evaluation
    store(
        model,
        alpha=fitted.alpha if judged.scores.fusion_trained else None,
        score_scale=fitted.score_scale,
        score_bias=fitted.score_bias or 0.0,
        finding_calibration=fitted.finding_calibration,
        kept=fitted.calibration_kept,
    )


def _compared(
    judged: EvaluationRun,
    against: Path,
    data: ImageDataset,
    fitting: ImageDataset | None,
    options: EvaluationOptions,
    **engine: Any,
) -> Comparison:
    from lrclr.evaluation import compare, is_scores, load_scores

    other = (
        load_scores(against) if is_scores(against) else _evaluated([against], data, fitting, options, **engine).scores
    )
    return compare(judged.scores, other, judged.selection.rows)


def _print(evaluation: Evaluation, comparison: Comparison | None) -> None:
    from lrclr.evaluation._view import COMPARED, shown
    from lrclr.reports import p_value

    places = {each.name: each for each in evaluation.grounding}
    split = evaluation.data["split"]
    title = f"{evaluation.model['kind']}, alpha {evaluation.alpha:g}{f', split {split}' if split else ''}"
    numbers = ["with", "without", "AUROC", "average precision", "F1", *(["pointing"] if places else [])]
    table = new_table(title, ("finding",), numbers)
    for each in evaluation.findings:
        cells = [shown(each.auroc), shown(each.average_precision), shown(each.f1)]
        if each.undefined:
            cells[0] = f"undefined: {each.undefined}"
        if places:
            cells.append(shown(places[each.name].pointing) if each.name in places else "")
        table.add_row(each.name, str(each.positives), str(each.negatives), *cells)
    mean = evaluation.mean
    counted = [(mean.auroc, mean.findings), (mean.average_precision, mean.findings), (mean.f1, mean.f1_findings)]
    counted += [(places["mean"].pointing, len(places) - 1)] if places else []
    last = [
        shown(figure) + ("" if count == mean.findings or figure.value is None else f", of {count}")
        for figure, count in counted
    ]
    table.add_section()
    table.add_row(f"mean of {mean.findings}", "", "", *last)
    out().print(table)
    if comparison is None:
        return
    numbers = ["this", "other", "difference", "p, Holm"]
    table = new_table("Against the other model, paired", ("finding", "figure"), numbers, ("shown",))
    for one in comparison.differences:
        figures = (shown(one.value), shown(one.against), shown(one.difference, 4), p_value(one.p_family))
        name = f"mean of {one.findings}" if one.name == "mean" else one.name
        table.add_row(name, one.figure, *figures, one.verdict + (f": {one.reason}" if one.reason else ""))
    out().print(table)
    note(COMPARED)


def _examples(judged: EvaluationRun, path: Path, preset: str | None, **engine: Any) -> list[Example]:
    """Example images of the model, or of the first of several models."""
    from lrclr.auto import open_model
    from lrclr.evaluation._gallery import gallery
    from lrclr.evaluation._presets import preset_named

    classifier, protocol = open_model(path, **engine), preset_named(preset)
    if protocol is not None:
        classifier = classifier.changed(protocol.applied)
    scores = judged.scores
    rows = {row.line: row for row in judged.selection.rows}
    return gallery(
        classifier,
        [rows[line] for line in scores.line.tolist()],
        scores.probability(scores.alpha),
        scores.labels,
        judged.selection.findings,
        exact=scores.models[0].info["exact"],
    )


def _notes(judged: EvaluationRun, output: Path | None) -> None:
    for line, reason in judged.scores.failures:
        complain(f"line {line}: {reason}")
    for line, reason in judged.validation.failures if judged.validation is not None else ():
        complain(f"line {line}, to fit on: {reason}")
    for text in judged.evaluation.notes:
        note(text)
    if output is not None:
        note(f"reports are in {output}")
    note(RESEARCH_ONLY)
