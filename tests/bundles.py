"""Bundles that several folders of tests share. Each is exported once, for real, and changed by nobody."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from PIL import Image

from lrclr.images import read_image
from lrclr.samples import sample_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from lrclr.checkpoints import Checkpoint
    from lrclr_export.onnx.graphs import GraphSpec
    from lrclr_export.onnx.onnx_graph import TypedGraph

ALPHA = 0.4
# Weights that were never trained lose more in int8 than trained ones.
LOOSE = {"cosine": 0.9, "centred_cosine": 0.6, "max_error": 0.8, "region_gap": 0.9, "probability_error": 0.2}
PYTHON = sys.executable
LRCLR = (PYTHON, "-c", "import sys; from lrclr.cli import main; sys.exit(main())")


@contextmanager
def _shared(base: Path, name: str) -> Iterator[Path]:
    """A folder that pytest's processes share, for one of them at a time: the first makes what is in it.

    LRCLR_TEST_SHARED is where several runs of pytest, of the same code, share it.
    """
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = Path(os.environ.get("LRCLR_TEST_SHARED", run / "shared"))
    folder.mkdir(exist_ok=True)
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder / name


@cache
def checkpoint_folder(base: Path) -> Path:
    """A tiny network of random weights whose fusion head counts as trained and whose attention is not even."""
    import torch

    from lrclr.checkpoints import init_checkpoint

    with _shared(base, "checkpoint") as folder:
        if not folder.exists():
            checkpoint = init_checkpoint("tiny", fusion_trained=True, alpha=ALPHA)
            with torch.no_grad():
                for layer in checkpoint.model.vision_model.encoder.layers:
                    layer.self_attn.q_proj.weight *= 4
                    layer.self_attn.k_proj.weight *= 4
            checkpoint.save(folder)
    return folder


@cache
def checkpoint(base: Path) -> Checkpoint:
    """`checkpoint_folder`, read."""
    from lrclr.checkpoints import load_checkpoint

    return load_checkpoint(checkpoint_folder(base))


@cache
def exported(base: Path, precision: str) -> Path:
    """A bundle of `checkpoint`. Its graphs as the exporter had them before it wrote them are kept beside it."""
    with _shared(base, precision) as folder:
        if not folder.exists():
            _export(base, precision, folder)
    return folder


def _export(base: Path, precision: str, folder: Path) -> None:
    import onnx_ir as ir

    from lrclr_export import ExportOptions, export_bundle
    from lrclr_export.onnx.onnx_graph import typed_onnx_from_module

    def keeping(spec: GraphSpec, *, opset: int) -> TypedGraph:
        graph = typed_onnx_from_module(spec, opset=opset)
        kept = folder.with_name(f"{precision}-{spec.name}")
        kept.with_suffix(".onnx").write_bytes(ir.to_proto(graph.model).SerializeToString())
        kept.with_suffix(".json").write_text(json.dumps(graph.layers))
        return graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lrclr_export.repository.pipeline.typed_onnx_from_module", keeping)
        limits = LOOSE if precision == "int8" else {}
        export_bundle(checkpoint(base), folder, ExportOptions(precision, tolerances=limits))


@cache
def graphs(base: Path) -> Mapping[str, TypedGraph]:
    """The graphs of the fp32 bundle as the exporter had them before it wrote them."""

    from lrclr_export.onnx.graphs import graph_specs

    return {spec.name: _kept_graph(base, spec) for spec in graph_specs(checkpoint(base).model)}


def _kept_graph(base: Path, spec: GraphSpec) -> TypedGraph:
    import onnx
    import onnx_ir as ir

    from lrclr_export.onnx.onnx_graph import TypedGraph

    kept = exported(base, "fp32").with_name(f"fp32-{spec.name}")
    model = ir.from_proto(onnx.load_from_string(kept.with_suffix(".onnx").read_bytes()))
    return TypedGraph(spec, model, json.loads(kept.with_suffix(".json").read_text()))


@contextmanager
def exporting_kept_graphs(base: Path) -> Iterator[None]:
    """Let exports of `checkpoint` in fp32 take the graphs of `graphs`; all that follows torch's exporter is as always.

    torch's exporter takes ten times longer than the rest.
    """

    def kept(spec: GraphSpec, *, opset: int) -> TypedGraph:
        assert opset == 20
        return _kept_graph(base, spec)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lrclr_export.repository.pipeline.typed_onnx_from_module", kept)
        yield


def copied(bundle: Path, target: Path) -> Path:
    """A copy of a bundle that a test may damage."""
    shutil.copytree(bundle, target)
    return target


def signed(bundle: Path, **changes: Any) -> Path:
    """Write a bundle's manifest anew, with changes and with the files as they are now."""
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
    """Change one byte of a file, in its middle unless told where."""
    data = bytearray(path.read_bytes())
    position = len(data) // 2 if position is None else position
    data[position] ^= 1
    path.write_bytes(data)


def radiograph(path: Path, seed: int = 0, size: tuple[int, int] = (90, 70)) -> Path:
    """A PNG of noise, `size` high and wide: a picture that opens, in no time."""
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def enlarged(folder: Path) -> list[Path]:
    """Two sample radiographs as JPEG 2000, so large that the usual way of reading has pixels to leave out."""
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
    """A DICOM file of which two attributes are ignored: see `REMARKS`."""
    import pydicom

    dataset = pydicom.dcmread(sample_paths("dicom")[0])
    dataset.PresentationLUTShape, dataset.VOILUTFunction = "ODD", "CUBIC"
    dataset.save_as(path)
    return path


REMARKS: Final = tuple(
    f"{keyword} is not valid and is ignored" for keyword in ("PresentationLUTShape", "VOILUTFunction")
)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(one.getsockname()[1]) for one in sockets]


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with changes, for a process of its own."""
    return {**os.environ, **changes}


def run(arguments: Iterable[object], *, timeout: float = 120, **options: object) -> subprocess.CompletedProcess[str]:
    """Run ``lrclr`` in a process of its own, in whose output nothing is lost."""
    command = [*LRCLR, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **options)  # type: ignore[call-overload, no-any-return]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], *, seconds: float = 90) -> None:
    """Wait for a condition while a process runs."""
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before the moment that the test waits for"
        assert time.monotonic() < end
        time.sleep(0.01)


def no_task_expected() -> Any:
    """Progress callbacks that fail the test when a task begins."""
    from lrclr_export import NoProgress

    class Unexpected(NoProgress):
        def task(self, text: str) -> None:
            pytest.fail(f"task: {text}")

    return Unexpected()
