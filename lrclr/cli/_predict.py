"""`lrclr predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrclr.cli import _dicom_results
from lrclr.cli._console import ENGINE_HELP, EXACT_HELP, RESEARCH_ONLY, complain, counter, note, note_choice
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.engines import EngineOptions
    from lrclr.inference import FileResult
    from lrclr.text import FindingSet


def predict(  # noqa: PLR0913, PLR0917 - one parameter an option
    images: Annotated[
        list[Path], typer.Argument(help="Files, or folders in which images are found: PNG, JPEG, TIFF, DICOM.")
    ],
    bundle: Annotated[
        Path | None, typer.Option("-b", "--bundle", help="The bundle's folder; triton_repo if not given.")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", help="HOST:PORT of a server's gRPC, instead of a bundle.")
    ] = None,
    findings: Annotated[
        Path | None, typer.Option("--findings", help="A findings file, instead of the bundle's findings.")
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Weight of the local score, 0 to 1.")] = None,
    heatmap: Annotated[Path | None, typer.Option("--heatmap", help="Write a heat-map PNG per image there.")] = None,
    sr: _dicom_results.Sr = None,
    sc: _dicom_results.Sc = None,
    gsps: _dicom_results.Gsps = None,
    frame: Annotated[int | None, typer.Option("--frame", help="Frame of files that hold several, from 0.")] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Images encoded at once; requests at once, with --server.")
    ] = 8,
    engine: Annotated[str | None, typer.Option("--engine", help=ENGINE_HELP)] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="cpu or cuda; cpu if not given.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of the engine; one a core.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help=EXACT_HELP)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for each image.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one CSV row an image.")] = False,
) -> None:
    """Answer for images: findings with their probability, and the regions that speak for them.

    A file that cannot be read is reported and does not stop the rest; the exit code is then 1.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude each other")
    if server is not None and not (bundle is None and engine is None and provider is None and threads is None):
        raise UsageError("--server excludes --bundle, --engine, --provider and --threads", why="the server has its own")
    from lrclr.cli._reporter import reporter
    from lrclr.dicom_results import ResultModel
    from lrclr.engines import EngineOptions
    from lrclr.images import describe_passed_over, find_images
    from lrclr.text import FindingSet

    found = find_images(images)
    files = found.files
    asked = FindingSet.load(findings) if findings is not None else None
    question = _Question(files, asked, alpha, frame, batch_size, heatmap=heatmap is not None, exact=exact)
    if server is None:
        own, fusion_trained, sha256, results = _here(
            question, bundle or Path("triton_repo"), EngineOptions(engine, provider or "cpu", threads)
        )
    else:
        own, fusion_trained, sha256, results = _there(question, server)
    report = reporter((asked or own).names, as_json=as_json, as_csv=as_csv)
    targets = _targets(heatmap, files)
    dicom = _dicom_results.DicomOutput(_dicom_results.chosen(sr, sc, gsps), ResultModel(sha256, asked or own, exact))
    failed = 0
    with counter("images", len(files)) as advance:
        for result in results:
            report.add(result)
            failed += result.error is not None
            if result.error is not None:
                complain(f"{result.path}: {result.error}")
            elif heatmap is not None:
                _draw(result, targets[result.path])
            dicom.add(result, frame)
            if result.prediction is not None and result.prediction.remarks:
                note(f"{result.path}: {'; '.join(result.prediction.remarks)}")
            advance()
    report.close()
    if not fusion_trained:
        note("the fusion head was never trained: alpha = 0, and region attention means nothing")
    if heatmap is not None:
        note(f"heat maps are in {heatmap}")
    dicom.tell()
    if passed_over := describe_passed_over(found.passed_over):
        note(passed_over)
    note(RESEARCH_ONLY)
    if failed:
        raise LrclrError(f"{failed} of {len(files)} images could not be read")
    dicom.check(len(files))


@dataclass(frozen=True)
class _Question:
    """What is asked of a bundle or of a server."""

    files: list[Path]
    findings: FindingSet | None
    alpha: float | None
    frame: int | None
    batch_size: int
    heatmap: bool
    exact: bool


def _here(
    question: _Question, bundle: Path, engine: EngineOptions
) -> tuple[FindingSet, bool, str, Iterator[FileResult]]:
    """A bundle's findings, whether its fusion head was trained, its hash, and its answers."""
    from lrclr.auto import open_engine
    from lrclr.bundle import Bundle
    from lrclr.inference import ZeroShotClassifier, predict_files

    opened = Bundle(bundle)
    classifier = ZeroShotClassifier(opened, open_engine(opened, engine))
    note_choice(classifier.engine)
    results = predict_files(
        classifier,
        question.files,
        findings=question.findings,
        alpha=question.alpha,
        batch_size=question.batch_size,
        frame=question.frame,
        exact=question.exact,
        images=question.heatmap,
    )
    return classifier.spec.findings, classifier.fusion_trained, classifier.spec.sha256, results


def _there(question: _Question, address: str) -> tuple[FindingSet, bool, str, Iterator[FileResult]]:
    """The same of a server."""
    from lrclr.text import FindingSet
    from lrclr.triton.client import Client, predict_files

    client = Client(address)
    described = client.describe()
    results = predict_files(
        client,
        question.files,
        findings=question.findings,
        alpha=question.alpha,
        frame=question.frame,
        heatmap=question.heatmap,
        exact=question.exact,
        concurrency=question.batch_size,
    )
    findings = FindingSet.loads(described["findings"])
    return findings, bool(described["fusion_trained"]), described["bundle"], results


def _targets(folder: Path | None, files: list[Path]) -> dict[Path, Path]:
    """A PNG for each file; two files of one name in different folders get different PNGs."""
    if folder is None:
        return {}
    from lrclr.images._find import HEATMAP_SUFFIX

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made", why=error.strerror) from error
    targets: dict[Path, Path] = {}
    taken: set[str] = set()
    for file in dict.fromkeys(files):
        stem, number = file.name, 1
        while stem in taken:
            number += 1
            stem = f"{file.name}-{number}"
        taken.add(stem)
        targets[file] = folder / f"{stem}{HEATMAP_SUFFIX}"
    return targets


def _draw(result: FileResult, target: Path) -> None:
    from lrclr._files import write_whole
    from lrclr.inference import save_heatmap

    if result.heatmap is not None:
        write_whole(target, result.heatmap)
    elif result.image is not None and result.prediction is not None:
        save_heatmap(target, result.image, result.prediction)
