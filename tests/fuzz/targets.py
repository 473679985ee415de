"""Every reader of bytes from outside, as a function of bytes that succeeds or raises an `LrclrError`."""

from __future__ import annotations

import atexit
import contextlib
import io
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime
from PIL import Image

from benchmarks.memory import peak_mb
from lrclr.bundle import Manifest
from lrclr.datasets import read_dataset

# Private: a session without a bundle, for bytes that are not a graph.
from lrclr.engines._onnxruntime import SessionSettings, open_session
from lrclr.errors import LrclrError
from lrclr.images import ReadLimits, read_image
from lrclr.samples import SAMPLES
from lrclr.text import ClipTokenizer, FindingSet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Small, so that allowed images are decoded quickly.
LIMITS: Final = ReadLimits(max_bytes=1 << 20, max_pixels=1 << 20)
SECONDS: Final = 2.0
MEGABYTES: Final = 1000

_FOLDER: Final = Path(tempfile.mkdtemp(prefix="lrclr-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_FORBIDDEN: Final = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "socket.connect")


class ForbiddenError(BaseException):
    """The input made the reader do something forbidden.

    Not a subclass of Exception, so ``except Exception`` does not hide it.
    """


def run(target: str, data: bytes) -> None:
    """Give `data` to a target.

    Raises:
        ForbiddenError: the target used more than two seconds of processor time, brought this process over one gigabyte
            of memory, ran a program, or wrote outside its folder.
        Exception: any other error is a fault of lrclr.
    """
    _forbid_side_effects()
    began = time.process_time()
    with contextlib.suppress(LrclrError):
        TARGETS[target](data)
    spent = time.process_time() - began
    if spent > SECONDS:
        raise ForbiddenError(f"{target} took {spent:.1f} s")
    if (peak := peak_mb()) > MEGABYTES:
        raise ForbiddenError(f"{target} took memory to {peak} MB")


def prepare(target: str) -> None:
    """Import and create everything that the first run would otherwise have to."""
    for data in seeds(target):
        with contextlib.suppress(LrclrError):
            TARGETS[target](data)


def seeds(target: str) -> Iterator[bytes]:
    """Valid examples to start from."""
    yield from _SEEDS[target]()


def _forbid_side_effects() -> None:
    """From now on, the whole process may not run programs, connect, or write outside its folder."""
    if not _is_installed:
        _is_installed.append(True)
        sys.addaudithook(_refuse)


_is_installed: list[bool] = []


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_FORBIDDEN):
        raise ForbiddenError(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        path = arguments[0]
        if isinstance(path, str) and not path.startswith((str(_FOLDER), "/dev/null")):
            raise ForbiddenError(f"a file was written outside: {Path(path).name}")


def _from_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    def work(data: bytes) -> object:
        file = _FOLDER / name
        file.write_bytes(data)
        return read(file)

    return work


def _checkpoint(file: Path) -> object:
    from lrclr.checkpoints import load_checkpoint

    return load_checkpoint(file)


def _image(data: bytes) -> object:
    return read_image(data, limits=LIMITS)


def _encode(data: bytes) -> object:
    return ClipTokenizer.default().encode([data.decode(errors="surrogateescape")], truncate=True)


TARGETS: Final[dict[str, Callable[[bytes], object]]] = {
    "png": _image,
    "jpeg": _image,
    "tiff": _image,
    "dicom": _image,
    "tokenizer": _encode,
    "findings": _from_file(FindingSet.load, "findings.toml"),
    "manifest": lambda data: Manifest.from_json(data.decode(errors="surrogateescape")),
    "rows": _from_file(read_dataset, "rows.csv"),
    "lines": _from_file(read_dataset, "rows.jsonl"),
    "checkpoint": _from_file(_checkpoint, "checkpoint.pt"),
    "graph": _from_file(lambda file: open_session(file, SessionSettings(), name="graph"), "model.onnx"),
}


def _pictures(file_format: str) -> Callable[[], Iterator[bytes]]:
    def examples() -> Iterator[bytes]:
        rows, columns = np.mgrid[:31, :23]
        grey = Image.fromarray((100 + 80 * np.sin(rows / 5) * np.cos(columns / 4)).astype(np.uint8))
        deep = Image.fromarray((rows * 2000).astype(np.uint16))
        variants = [grey, grey.convert("RGB")]
        if file_format != "JPEG":
            variants += [grey.convert("P"), grey.convert("1"), deep]
        for picture in variants:
            stream = io.BytesIO()
            picture.save(stream, file_format)
            yield stream.getvalue()

    return examples


def _studies() -> Iterator[bytes]:
    import pydicom
    from pydicom.uid import JPEG2000Lossless, RLELossless

    small = pydicom.dcmread(SAMPLES[0].path("dicom"))
    corner = np.ascontiguousarray(small.pixel_array[:64, :64])
    small.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    small.set_pixel_data(corner, small.PhotometricInterpretation, small.BitsStored)
    for syntax in (None, RLELossless, JPEG2000Lossless):
        if syntax is not None:
            small.compress(syntax)
        stream = io.BytesIO()
        small.save_as(stream)
        yield stream.getvalue()
        if syntax is not None:
            small.decompress()


def _checkpoints() -> Iterator[bytes]:
    import torch

    stream = io.BytesIO()
    torch.save({"logit_scale": torch.ones(()), "visual.proj": torch.ones(2, 3)}, stream)
    yield stream.getvalue()


def _graphs() -> Iterator[bytes]:
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 4]) for name in ("x", "y")]
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.eye(4, dtype=np.float32).ravel())
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["y"])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weights])
    yield helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


_SEEDS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "png": _pictures("PNG"),
    "jpeg": _pictures("JPEG"),
    "tiff": _pictures("TIFF"),
    "dicom": _studies,
    "tokenizer": lambda: iter(["no pleural effusion, ÄÖ 1½".encode(), b"<|endoftext|> x\x00y"]),
    "findings": lambda: iter([FindingSet.default().to_toml().encode()]),
    "manifest": lambda: iter([b'{"schema": 4, "files": {}, "manifest_sha256": "00"}']),
    "rows": lambda: iter([b"image,report,split,patient,Edema\na.png,clear,test,7,1\nb.png,,test,8,-1\n"]),
    "lines": lambda: iter([b'{"image": "a.png", "report": "clear", "split": "test", "labels": {"Edema": 1}}\n']),
    "checkpoint": _checkpoints,
    "graph": _graphs,
}

onnxruntime.set_default_logger_severity(4)
