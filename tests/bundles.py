"""Bundles and helpers that several folders of tests share. Each bundle is exported once. Tests do not change them."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from PIL import Image

from lrclr.images import read_image
from lrclr.samples import sample_paths
from tests.kept_exports import exporting_once, kept_export

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lrclr.checkpoints import Checkpoint
    from lrclr_export.onnx.onnx_graph import TypedGraph

ALPHA = 0.4
# Random weights lose more in int8 than trained weights.
LOOSE = {
    "cosine": 0.9,
    "centred_cosine": 0.6,
    "max_error": 0.8,
    "region_gap": 0.9,
    "probability_error": 0.2,
    "score_error": 0.1,
}
# Options of `lrclr bench`. Its warm-up ends after three windows, which agree within any tolerance.
SHORT_WARMUP = ("--rate", "none", "--seconds", "0.1", "--rounds", "1", "--no-peak", "--stability", "900%")
BRIEF_BENCH = ("--what", "image_encoder", "--batch", "1", *SHORT_WARMUP)
PYTHON = sys.executable
LRCLR = (PYTHON, "-c", "from lrclr.cli import run; run()")


@contextmanager
def _shared(base: Path, name: str) -> Iterator[Path]:
    """A folder that pytest's processes share, locked for one process at a time. The first process fills it.

    Several runs of pytest with the same code share the folder LRCLR_TEST_SHARED.
    """
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = Path(os.environ.get("LRCLR_TEST_SHARED", run / "shared"))
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / name


@cache
def checkpoint_folder(base: Path) -> Path:
    """A tiny network of random weights with uneven attention. Its fusion head is marked as trained."""
    with _shared(base, "checkpoint") as folder:
        if not folder.exists():
            import torch

            from lrclr.checkpoints import init_checkpoint

            checkpoint = init_checkpoint("tiny", fusion_trained=True, alpha=ALPHA)
            with torch.no_grad():
                for layer in checkpoint.model.vision_model.encoder.layers:
                    layer.self_attn.q_proj.weight *= 4
                    layer.self_attn.k_proj.weight *= 4
            checkpoint.save(folder)
    return folder


@cache
def other_checkpoint_folder(base: Path) -> Path:
    """Like `checkpoint_folder`, with other weights in all parts."""
    with _shared(base, "other_checkpoint") as folder:
        if not folder.exists():
            from lrclr.checkpoints import init_checkpoint

            init_checkpoint("tiny", seed=7, fusion_trained=True, alpha=ALPHA).save(folder)
    return folder


@cache
def exported_ensemble(base: Path) -> Path:
    """An fp32 bundle of `checkpoint_folder` and `other_checkpoint_folder`. The second one gives the regions."""
    with _shared(base, "ensemble") as folder:
        if not folder.exists():
            from lrclr.checkpoints import load_checkpoint
            from lrclr_export import ExportOptions, Member, export_ensemble

            paths = {"one": checkpoint_folder(base), "other": other_checkpoint_folder(base)}
            members = [Member(name, partial(load_checkpoint, path)) for name, path in paths.items()]
            with exporting_once():
                export_ensemble(members, folder, ExportOptions("fp32"), regions_from="other")
    return folder


@cache
def checkpoint(base: Path) -> Checkpoint:
    """The checkpoint in `checkpoint_folder`."""
    from lrclr.checkpoints import load_checkpoint

    return load_checkpoint(checkpoint_folder(base))


@cache
def exported(base: Path, precision: str) -> Path:
    """A bundle of `checkpoint` in a precision."""
    with _shared(base, precision) as folder:
        if not folder.exists():
            from lrclr_export import ExportOptions, export_bundle

            limits = LOOSE if precision in {"int8", "fp8"} else {}
            with exporting_once():
                export_bundle(checkpoint(base), folder, ExportOptions(precision, tolerances=limits))
    return folder


@cache
def graphs(base: Path) -> Mapping[str, TypedGraph]:
    """The graphs of the fp32 bundle before the exporter writes them."""
    from lrclr_export.onnx.graphs import graph_specs

    return {spec.name: kept_export(spec, opset=20) for spec in graph_specs(checkpoint(base).model)}


@contextmanager
def no_large_files(size: int = 200_000) -> Iterator[None]:
    """Simulate a full disk: the kernel refuses writes beyond `size` bytes of a file."""
    usual, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, usual)


def copied(bundle: Path, target: Path) -> Path:
    """A copy of a bundle that a test may damage."""
    shutil.copytree(bundle, target)
    return target


def renamed(bundle: Path, target: Path, prefix: str, version: int = 1) -> Path:
    """A copy of a bundle in the form of ``lrclr export --name-prefix --model-version``, without another export."""
    from lrclr.bundle import Bundle
    from lrclr.contract import ModelNames
    from lrclr_export.repository.records import write_records

    manifest = Bundle(bundle).manifest
    old, new = manifest.names, ModelNames(prefix, version)
    shutil.copytree(bundle, target)
    for before, after in zip(old.all, new.all, strict=True):
        (target / before).rename(target / after)
        (target / after / str(old.version)).rename(target / after / str(version))
    write_records(target, replace(manifest, triton=new.to_dict()))
    return target


def signed(bundle: Path, **changes: Any) -> Path:
    """Write a bundle's manifest again, with changes and with the hashes of the current files."""
    from lrclr.bundle import MANIFEST, Manifest, file_table

    manifest = Manifest.from_json((bundle / MANIFEST).read_text())
    renewed = replace(manifest, **{"files": file_table(bundle), **changes})
    (bundle / MANIFEST).write_text(renewed.to_json())
    return bundle


def sha256_of(file: Path) -> str:
    """Hash of a file's content, in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def flip(path: Path, position: int | None = None) -> None:
    """Change one byte of a file, by default the one in its middle. An empty file gets one byte."""
    data = bytearray(path.read_bytes() or b"\0")
    position = len(data) // 2 if position is None else position
    data[position] ^= 1
    path.write_bytes(data)


def radiograph(path: Path, seed: int = 0, size: tuple[int, int] = (90, 70)) -> Path:
    """A PNG of noise, `size` high and wide, that is quick to write."""
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def enlarged(folder: Path) -> list[Path]:
    """Two sample radiographs as JPEG 2000, so large that the default reads them at a lower resolution."""
    files = []
    for path, content in zip(sample_paths("dicom"), _enlarged(), strict=False):
        files.append(folder / path.name)
        files[-1].write_bytes(content)
    return files


@cache
def _enlarged() -> list[bytes]:
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

    contents = []
    for path in sample_paths("dicom")[:2]:
        dataset = pydicom.dcmread(path)
        picture = Image.fromarray(read_image(path)).resize((1250, 1300), Image.Resampling.BICUBIC)
        dataset.Columns, dataset.Rows = picture.size
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.PhotometricInterpretation, dataset.WindowCenter, dataset.WindowWidth = "MONOCHROME2", 2048, 4096
        for keyword in ("VOILUTSequence", "ModalityLUTSequence", "PresentationLUTShape", "PixelPaddingValue"):
            dataset.pop(keyword, None)
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        dataset.PixelData = (np.asarray(picture).astype(np.uint16) << 4).tobytes()
        dataset["PixelData"].VR = "OW"
        dataset["PixelData"].is_undefined_length = False
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        contents.append(stream.getvalue())
    return contents


def odd_radiograph(path: Path) -> Path:
    """A DICOM file with two attributes that are ignored: see `REMARKS`."""
    import pydicom

    dataset = pydicom.dcmread(sample_paths("dicom")[0])
    dataset.PresentationLUTShape, dataset.VOILUTFunction = "ODD", "CUBIC"
    dataset.save_as(path)
    return path


REMARKS: Final = tuple(
    f"{keyword} is not valid and is ignored" for keyword in ("PresentationLUTShape", "VOILUTFunction")
)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which no program listens."""
    with ExitStack() as sockets_:
        sockets = [sockets_.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


def environment(**changes: str) -> dict[str, str]:
    """A copy of this process's environment with changes."""
    return {**os.environ, **changes}


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``lrclr`` in this process. A new process would take seconds to import everything again."""
    from lrclr.cli import main

    given, out, err = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(given)
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())


def run(arguments: Iterable[object], **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``lrclr`` in a new process and return its complete output."""
    command = [*LRCLR, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[Any] | None = None) -> None:
    """Wait for a condition. If a process is given, fail when it ends first.

    There is no time limit, since the machine may be busy. pytest ends a test that hangs.
    """
    while not condition():
        assert process is None or process.poll() is None, "the process ended before what the test waits for"
        time.sleep(0.01)


def no_task_expected() -> Any:
    """Progress callbacks that fail the test when a task begins."""
    from lrclr_export import NoProgress

    class Unexpected(NoProgress):
        def task(self, text: str) -> None:
            pytest.fail(f"task: {text}")

    return Unexpected()
