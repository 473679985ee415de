"""Compile the region kernel: ``python export/kernels/compile.py``. Needs nvcc; no GPU.

Writes the PTX that `lrclr` ships, and beside the source the resources that the kernels take on each GPU, which a test
holds: a spilled register or a larger block of shared memory is then a change that somebody has looked at.
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
PTX = HERE.parents[1] / "lrclr" / "data" / "kernels" / "region_select.ptx"
# PTX of the oldest runs on all the newer.
OLDEST = "80"
GPUS = ("80", "86", "89", "90", "100", "120")
_FLAGS = ("-std=c++17", "-O3")
_KERNEL = re.compile(r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<gpu>\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers.*?(\d+) bytes smem")


def ptx() -> str:
    """The kernels' PTX."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "region_select.ptx"
        _nvcc(f"-arch=compute_{OLDEST}", "-ptx", "-o", str(target))
        return target.read_text()


def resources() -> dict[str, object]:
    """The compiler's version, and what each kernel takes on each GPU: registers, bytes spilled, stacked and shared."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = [f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in GPUS]
        told = _nvcc("-t", "0", "-Xptxas", "-v", "--fatbin", *wanted, "-o", str(Path(folder) / "region_select.fatbin"))
    found: dict[str, dict[str, dict[str, int]]] = {f"sm_{gpu}": {} for gpu in GPUS}
    # Each kernel's lines follow its name; functions that it calls have lines of their own, and a stack of their own.
    for part in re.split(r"(?=ptxas info\s+: Compiling entry function)", told):
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
        sys.exit("error: there is no nvcc. It is part of NVIDIA's CUDA toolkit; a GPU is not needed.")
    PTX.parent.mkdir(parents=True, exist_ok=True)
    PTX.write_text(ptx())
    RESOURCES.write_text(json.dumps(resources(), indent=1, sort_keys=True) + "\n")
    print(f"wrote {PTX.name} and {RESOURCES.name} with nvcc {version()}")
