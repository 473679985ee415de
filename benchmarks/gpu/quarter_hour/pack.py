"""Packs what the GPU machine lacks: ``python -m benchmarks.gpu.quarter_hour.pack FOLDER``.

It needs the network, the development environment, and a few minutes. It writes the folders ``a``, ``b``, … to FOLDER,
none larger than a limit. `unpack` joins them on the GPU machine. Inside is:

- ``packages/``: ONNX Runtime for CUDA with the GPU code of one architecture, and the small packages of `lrclr`'s
  command line. Put it on ``PYTHONPATH``.
- ``bundles/``: the default checkpoint in fp32 and fp16.
- ``networks/``: the graphs of ViT-B/32 in fp32 and fp16, without weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Final

from benchmarks.gpu.quarter_hour.cubins import blank_other_architectures
from benchmarks.gpu.quarter_hour.unpack import INDEX
from benchmarks.gpu.quarter_hour.weights import strip_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["add_bundle", "add_network", "add_onnxruntime", "add_packages", "write_parts"]

_ROOT: Final = Path(__file__).parents[3]
_ONNXRUNTIME: Final = "onnxruntime-gpu==1.31.1"  # built with CUDA 13.0
_PACKAGES: Final = ("nvidia-ml-py", "rich", "typer")  # and their dependencies
_PLATFORMS: Final = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux2014_x86_64")
# Python's ONNX Runtime has the library in its extension module, and TensorRT is not used.
_LEFT_OUT: Final = (
    "capi/libonnxruntime.so.", "capi/libonnxruntime_providers_tensorrt.so", "tools/", "transformers/", "quantization/",
    "datasets/", "ThirdPartyNotices.txt",
)  # fmt: skip


def add_onnxruntime(target: Path, wheel: Path, architecture: int) -> dict[str, Any]:
    """Unpack ONNX Runtime without the parts that are not needed.

    Args:
        target: the folder ``packages``.
        wheel: wheel of onnxruntime-gpu.
        architecture: architecture of the GPU, compute capability times ten.

    Returns:
        What was kept and blanked of its GPU code, in bytes by architecture.
    """
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if not name.removeprefix("onnxruntime/").startswith(_LEFT_OUT):
                archive.extract(name, target)
    library = target / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"
    content = bytearray(library.read_bytes())
    done = blank_other_architectures(content, architecture)
    library.write_bytes(content)
    return {
        "wheel": wheel.name,
        "gpu_code_kept": done.kept,
        "gpu_code_blanked": done.blanked,
        "containers": done.containers,
        "containers_without_this_architecture": done.without,
    }


def add_packages(target: Path, wheels: Sequence[Path]) -> None:
    """Unpack wheels."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)


def add_bundle(target: Path, precision: str) -> None:
    """Export the default checkpoint."""
    from lrclr.checkpoints import default_checkpoint, load_checkpoint
    from lrclr_export import ExportOptions, export_bundle

    export_bundle(load_checkpoint(default_checkpoint()), target, ExportOptions(precision))


def add_network(target: Path, architecture: str, precision: str) -> None:
    """Export the graphs of a network with random weights, without the weights.

    Args:
        target: a folder for the three graphs.
        architecture: one of `lrclr.checkpoints.ARCHITECTURES`.
        precision: ``"fp32"`` or ``"fp16"``.
    """
    from lrclr.checkpoints import init_checkpoint
    from lrclr_export.onnx.graphs import graph_specs
    from lrclr_export.onnx.onnx_graph import typed_onnx_from_module
    from lrclr_export.onnx.precision import half_precision

    model = init_checkpoint(architecture).model
    for spec in graph_specs(model if precision == "fp32" else half_precision(model)):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.onnx")
            typed_onnx_from_module(spec, opset=20).save(file)
            strip_weights(file, target / spec.name)


def write_parts(source: Path, target: Path, *, part_bytes: int, preset: int = 9) -> list[Path]:
    """Compress the folder `source` to one archive, and cut it into parts.

    Args:
        source: folder to pack.
        target: the folder for the parts.
        part_bytes: largest size of a part.
        preset: compression preset, 0 to 9.

    Returns:
        The folders of the parts.

    Raises:
        ValueError: there are more than 26 parts.
    """
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as file:
        with (
            lzma.open(file, "wb", format=lzma.FORMAT_XZ, preset=preset) as packed,
            tarfile.open(fileobj=packed, mode="w|") as archive,
        ):
            for path in sorted(source.rglob("*")):
                archive.add(path, path.relative_to(source), recursive=False, filter=_plain)
        file.seek(0)
        room = part_bytes - (1 << 14)  # for the index
        pieces: list[dict[str, Any]] = []
        while data := file.read(room):
            if len(pieces) == len(ascii_lowercase):
                raise ValueError(f"the archive is larger than {len(ascii_lowercase)} parts of {part_bytes} bytes")
            part = ascii_lowercase[len(pieces)]
            (target / part).mkdir(exist_ok=True)
            name = f"archive.{part}"
            (target / part / name).write_bytes(data)
            pieces.append({"part": part, "name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
    for piece in pieces:
        (target / piece["part"] / INDEX).write_text(json.dumps({"pieces": pieces}, indent=1) + "\n")
    return [target / piece["part"] for piece in pieces]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove owner and time, so that packing the same files gives the same bytes."""
    member.mtime, member.uid, member.gid, member.uname, member.gname = 0, 0, 0, "", ""
    return member


def download(options: Sequence[str], target: Path, python: str) -> list[Path]:
    """Download wheels for Linux on x86-64.

    Args:
        options: options of ``pip download``, and names of packages.
        target: folder to make.
        python: version of Python on the GPU machine.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "-d", str(target)]
    platforms = [f"--platform={platform}" for platform in _PLATFORMS]
    subprocess.run([*command, "--only-binary=:all:", f"--python-version={python}", *platforms, *options], check=True)
    return sorted(target.glob("*.whl"))


def main() -> None:
    """Pack everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="FOLDER")
    parser.add_argument("--architecture", type=int, default=90, help="architecture of the GPU, such as 90 for an H100")
    parser.add_argument("--python", default="3.12", help="Python version of the GPU machine")
    parser.add_argument("--part-mib", type=float, default=44, help="largest size of a part")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work, ready = Path(folder, "wheels"), Path(folder, "ready")
        print("packages", flush=True)
        wheels = download(["--no-deps", _ONNXRUNTIME], work / "onnxruntime", given.python)
        made = add_onnxruntime(ready / "packages", wheels[0], given.architecture)
        print(json.dumps(made, indent=1))
        pinned = ["-c", str(_ROOT / "constraints.txt"), *_PACKAGES]
        add_packages(ready / "packages", download(pinned, work / "small", given.python))
        for precision in ("fp32", "fp16"):
            print(f"graphs in {precision}", flush=True)
            add_bundle(ready / "bundles" / f"default-{precision}", precision)
            add_network(ready / "networks" / f"vit-b-32-{precision}", "vit-b-32", precision)
        print("compressing", flush=True)
        for part in write_parts(ready, given.output, part_bytes=int(given.part_mib * 2**20)):
            print(f"{part}  {sum(file.stat().st_size for file in part.iterdir()) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
