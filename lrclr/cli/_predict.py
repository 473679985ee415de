"""`lrclr predict`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lrclr.cli import _dicom_results
from lrclr.cli._console import (
    REFUSE_HELP,
    RESEARCH_ONLY,
    EngineName,
    Exact,
    Frame,
    Threads,
    TlsRoot,
    check_tls_root,
    complain,
    counter,
    note,
    note_engine,
)
from lrclr.errors import LrclrError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lrclr.engines import EngineOptions
    from lrclr.images import FoundImages
    from lrclr.inference import FileResult
    from lrclr.text import ClipTokenizer, FindingSet
# Bytes of a heat map's name before its number and its ending; a file system has 255 in all.
_LONGEST_NAME: Final = 200
_FEW_BATCHES: Final = 8


def predict(  # noqa: PLR0913, PLR0917 - one parameter an option
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of images: PNG, JPEG, TIFF, DICOM.")],
    bundle: Annotated[
        Path | None, typer.Option("-b", "--bundle", help="Folder of the bundle.  [default: triton_repo]")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", help="HOST:PORT of a server (gRPC), instead of a bundle.")
    ] = None,
    model_name: Annotated[
        str | None,
        typer.Option(
            "--model-name",
            help="With --server, name of its model: PREFIXlrclr for a bundle with --name-prefix PREFIX.  "
            "[default: lrclr]",
        ),
    ] = None,
    tls_root: TlsRoot = None,
    findings: Annotated[
        Path | None, typer.Option("--findings", help="Findings file (TOML), instead of the bundle's findings.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help="Weight of the local score, 0 to 1, instead of the bundle's.")
    ] = None,
    heatmap: Annotated[
        Path | None, typer.Option("--heatmap", metavar="FOLDER", help="Folder for a heat map of each image (PNG).")
    ] = None,
    sr: _dicom_results.Sr = None,
    sc: _dicom_results.Sc = None,
    gsps: _dicom_results.Gsps = None,
    frame: Frame = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Images per batch; with --server, concurrent requests.")
    ] = 8,
    engine: EngineName = None,
    provider: Annotated[
        str | None, typer.Option("--provider", help="Where ONNX Runtime runs: cpu or cuda.  [default: cpu]")
    ] = None,
    threads: Threads = None,
    exact: Exact = False,
    refuse: Annotated[list[str] | None, typer.Option("--refuse", metavar="CODES", help=REFUSE_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines: one object per image.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: one row per image.")] = False,
) -> None:
    """Predict the findings of images.

    Prints the probability of each finding and the image regions that support it.

    A file that cannot be read or is refused is reported, the other files are predicted, and the exit code is 1. If one
    does not exist, nothing is predicted, and the exit code is 2.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv cannot be used together")
    if heatmap is not None:
        _require_folder(heatmap)
    if server is not None and not (bundle is None and engine is None and provider is None and threads is None):
        raise UsageError(
            "--server cannot be used with --bundle, --engine, --provider or --threads", why="the server has its own"
        )
    if model_name is not None and server is None:
        raise UsageError("--model-name needs --server", why="a bundle on this machine is named by its folder")
    check_tls_root(tls_root, server)
    from lrclr.engines import EngineOptions
    from lrclr.input_checks import known_codes

    refused = known_codes(*refuse) if refuse else frozenset()
    request = _PredictRequest(images, findings, alpha, frame, batch_size, heatmap=heatmap is not None, exact=exact)
    if server is None:
        engine_options = EngineOptions(engine, provider or "cpu", threads, few_runs=request.has_few_batches)
        asked, fusion_trained, sha256, results = _by_bundle(request, bundle or Path("triton_repo"), engine_options)
    else:
        asked, fusion_trained, sha256, results = _by_server(request, server, model_name, tls_root)
    from lrclr.cli._findings import naming_file
    from lrclr.cli._reporter import reporter
    from lrclr.dicom_results import ResultModel
    from lrclr.images import describe_passed_over

    files = request.found.files
    report = reporter(asked.names, as_json=as_json, as_csv=as_csv)
    targets = _targets(heatmap, files)
    replaced = sum(target.exists() for target in targets.values())
    dicom = _dicom_results.DicomOutput(_dicom_results.chosen(sr, sc, gsps), ResultModel(sha256, asked, exact))
    failed = 0
    with counter("images", len(files)) as advance, naming_file(findings):
        for answered in results:
            result = answered.unless_refused(refused)
            report.add(result)
            failed += result.error is not None
            _conclude(result, targets.get(result.path))
            dicom.add(result, frame)
            advance()
    report.close()
    if not fusion_trained:
        note("the fusion head is not trained: alpha = 0, and region attention has no meaning")
    if heatmap is not None:
        note(f"heat maps are in {heatmap}" + (f"; {replaced} of them replaced an earlier file" if replaced else ""))
    dicom.tell()
    if passed_over := describe_passed_over(request.found.passed_over):
        note(passed_over)
    note(RESEARCH_ONLY)
    if failed:
        what = "were refused or could not be read" if refused else "could not be read"
        raise LrclrError(f"{failed} of {len(files)} images {what}")
    dicom.check(len(files))


def _conclude(result: FileResult, target: Path | None) -> None:
    """Print a file's error, remarks and warnings, and write its heat map if there is a target for it."""
    from lrclr.input_checks import described

    if result.error is not None:
        complain(f"{result.path}: {result.error}")
    elif target is not None:
        _draw(result, target)
    if result.prediction is not None and result.prediction.remarks:
        note(f"{result.path}: {'; '.join(result.prediction.remarks)}")
    if result.prediction is not None and result.prediction.warnings:
        note(f"{result.path}: warnings: {described(result.prediction.warnings)}")


@dataclass(frozen=True)
class _PredictRequest:
    """Images and options, for a bundle or a server."""

    images: list[Path]
    findings: Path | None
    alpha: float | None
    frame: int | None
    batch_size: int
    heatmap: bool
    exact: bool

    @property
    def has_few_batches(self) -> bool:
        """Whether all images are named, and few."""
        return len(self.images) <= _FEW_BATCHES * self.batch_size and not any(path.is_dir() for path in self.images)

    @cached_property
    def found(self) -> FoundImages:
        """The files of the images.

        Raises:
            UsageError: one does not exist, or a folder contains none.
        """
        from lrclr.images import find_images

        return find_images(self.images)


def _by_bundle(
    request: _PredictRequest, bundle: Path, engine: EngineOptions
) -> tuple[FindingSet, bool, str, Iterator[FileResult]]:
    """Return the findings to predict, whether the bundle's fusion head is trained, its hash, and the results."""
    from lrclr.auto import open_engine
    from lrclr.bundle import Bundle
    from lrclr.engines import preload

    # The graphs are loaded while the bundle's files are hashed, and all else is read and imported. Nothing is answered
    # before all files are hashed.
    with Bundle.checking(bundle) as opened:
        chosen = open_engine(opened, engine)
        preload(chosen)
        from lrclr.inference import ZeroShotClassifier, predict_files

        files = request.found.files
        findings = _asked(request.findings, opened.findings, opened.tokenizer)
    classifier = ZeroShotClassifier(opened, chosen)
    note_engine(classifier)
    results = predict_files(
        classifier,
        files,
        findings=findings,
        alpha=request.alpha,
        batch_size=request.batch_size,
        frame=request.frame,
        exact=request.exact,
        images=request.heatmap,
    )
    return findings, classifier.fusion_trained, classifier.spec.sha256, results


def _by_server(
    request: _PredictRequest, address: str, model_name: str | None, tls_root: Path | None
) -> tuple[FindingSet, bool, str, Iterator[FileResult]]:
    """Return the same of a server."""
    from lrclr.contract import MODEL
    from lrclr.text import FindingSet
    from lrclr.triton.client import Client, ClientOptions, predict_files

    files = request.found.files
    client = Client(address, ClientOptions(model=model_name or MODEL, tls_root=tls_root))
    described = client.describe()
    own = FindingSet.loads(described["findings"])
    findings = _asked(request.findings, own, None)
    results = predict_files(
        client,
        files,
        findings=None if request.findings is None else findings,
        alpha=request.alpha,
        frame=request.frame,
        heatmap=request.heatmap,
        exact=request.exact,
        concurrency=request.batch_size,
    )
    return findings, bool(described["fusion_trained"]), described["bundle"], results


def _asked(path: Path | None, own: FindingSet, tokenizer: ClipTokenizer | None) -> FindingSet:
    from lrclr.cli._findings import load_findings

    return own if path is None else load_findings(path, own, tokenizer)


def _require_folder(folder: Path) -> None:
    """Refuse a file for --heatmap before a model is opened.

    Raises:
        UsageError: the path is a file, or a name of one.
    """
    why = "it is a file" if folder.is_file() else "its name ends in .png"
    if folder.is_file() or (folder.suffix.lower() == ".png" and not folder.is_dir()):
        raise UsageError(
            f"--heatmap takes a folder, not {folder}", why=why, fix="One PNG per image is written into the folder."
        )


def _targets(folder: Path | None, files: list[Path]) -> dict[Path, Path]:
    """Return the PNG to write for each file. Files of one name in different folders get different PNGs.

    A name that would be too long for the file system is cut.
    """
    if folder is None:
        return {}
    from lrclr.images._find import HEATMAP_SUFFIX

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be created", why=error.strerror) from error
    targets: dict[Path, Path] = {}
    taken: set[str] = set()
    for file in dict.fromkeys(files):
        name = os.fsencode(file.name)[:_LONGEST_NAME].decode(errors="ignore")
        stem, number = name, 1
        while stem in taken:
            number += 1
            stem = f"{name}-{number}"
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
