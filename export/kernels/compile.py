"""Compile the region kernel: ``python export/kernels/compile.py``. Needs nvcc; no GPU.

Writes the PTX that `lrclr` ships, and beside the source the resources that its entries take on each GPU. A test
compares them, so that a spilled register or a larger block of shared memory shows in a diff.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "region_select.cu"
RESOURCES = HERE / "resources.json"
# PTX for the oldest capability runs on all newer ones. Clusters of blocks need Hopper.
CAPABILITIES = ("80", "90")
# nvcc writes the newest PTX version, which drivers older than itself refuse. These kernels need no more than this,
# without the hint that tells which bytes of a load are used (PTX 8.3).
PTX_VERSIONS = {"80": "7.0", "90": "8.0"}
GPUS = ("80", "86", "89", "90", "100", "120")
_FLAGS = ("-std=c++17", "-O3")
_KERNEL = re.compile(r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<gpu>\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers.*?(\d+) bytes smem")


def file_of(capability: str) -> Path:
    """The PTX file for one of `CAPABILITIES` that the package carries."""
    return HERE.parents[1] / "lrclr" / "data" / "kernels" / f"region_select_{capability}.ptx"


def ptx(capability: str) -> str:
    """The kernel's PTX for one of `CAPABILITIES`."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "region_select.ptx"
        _nvcc(f"-arch=compute_{capability}", "-ptx", "-o", str(target))
        text = target.read_text()
    text = re.sub(r'^\s*\.pragma "used_bytes_mask \w+";\n', "", text, flags=re.MULTILINE)
    return re.sub(r"^\.version .*$", f".version {PTX_VERSIONS[capability]}", text, count=1, flags=re.MULTILINE)


def resources() -> dict[str, object]:
    """The compiler's version, and what each kernel takes on each GPU: registers, bytes spilled, stacked and shared."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in GPUS]
        output = ("--fatbin", "-o", str(Path(folder) / "kernels.fatbin"))
        report = _nvcc("-t", "0", "-Xptxas", "-v", *wanted, *output)
    found: dict[str, dict[str, dict[str, int]]] = {f"sm_{gpu}": {} for gpu in GPUS}
    # The lines of an entry are followed by those of the function that does its work, which is compiled with it.
    for part in re.split(r"(?=ptxas info\s+: Compiling entry function)", report):
        kernel, used = _KERNEL.search(part), _USED.search(part)
        if kernel and used:
            stacks = [tuple(map(int, numbers)) for numbers in _STACK.findall(part)]
            found[f"sm_{kernel['gpu']}"][kernel["name"]] = {
                "registers": int(used[1]),
                "shared_bytes": int(used[2]),
                "spill_bytes": max(stores + loads for _, stores, loads in stacks),
                "stack_bytes": max(stack for stack, _, _ in stacks),
            }
    return {"nvcc": version(), "kernels": {gpu: dict(sorted(kernels.items())) for gpu, kernels in found.items()}}


def version() -> str:
    """Of nvcc, such as ``"13.0"``."""
    told = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release (\d+\.\d+)", told)
    return match[1] if match else "unknown"


def _nvcc(*arguments: str) -> str:
    done = subprocess.run(["nvcc", *_FLAGS, *arguments, str(SOURCE)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout + done.stderr


if __name__ == "__main__":
    if shutil.which("nvcc") is None:
        sys.exit("error: nvcc was not found. It is part of NVIDIA's CUDA toolkit; a GPU is not needed.")
    for capability in CAPABILITIES:
        file_of(capability).parent.mkdir(parents=True, exist_ok=True)
        file_of(capability).write_text(ptx(capability))
    RESOURCES.write_text(json.dumps(resources(), indent=1, sort_keys=True) + "\n")
    print(f"wrote {len(CAPABILITIES)} PTX files and {RESOURCES.name} with nvcc {version()}")
