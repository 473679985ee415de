"""One environment for each set of requirements, made by uv from scratch: what a user would have on disk.

uv links files from its cache, so that several environments hold one copy of torch.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uv import find_uv_bin

if TYPE_CHECKING:
    from benchmarks.peers.catalogue import Candidate

ROOT = Path(__file__).resolve().parents[2]


def python_of(folder: Path, candidate: Candidate) -> Path:
    """The interpreter of the candidate's environment in `folder`."""
    return folder / candidate.environment / "bin" / "python"


def install(folder: Path, candidate: Candidate) -> str:
    """Make the candidate's environment in `folder`, or complete it.

    Returns:
        uv's reason where it could not; "" where it could.
    """
    python = python_of(folder, candidate)
    if not python.exists():
        _uv("venv", "--quiet", "--python", sys.executable, str(python.parents[1]))
    # The measurement itself needs NumPy. lrclr is installed from this tree, with the versions of its tests.
    wanted = [
        "numpy",
        *(one.replace("lrclr", str(ROOT), 1) if candidate.ours else one for one in candidate.requirements),
    ]
    pins = ["--constraints", str(ROOT / "constraints.txt")] if candidate.ours else []
    done = _uv("pip", "install", "--quiet", "--python", str(python), *pins, *wanted)
    return first_reason(done.stderr) if done.returncode else ""


def size(folder: Path, candidate: Candidate) -> dict[str, Any]:
    """Megabytes and number of the packages in the candidate's environment, and the versions of its requirements."""
    python = python_of(folder, candidate)
    listed = json.loads(_uv("pip", "list", "--format", "json", "--python", str(python)).stdout)
    versions = {one["name"]: one["version"] for one in listed}
    files = (file for file in python.parents[1].glob("lib/*/site-packages/**/*") if "__pycache__" not in file.parts)
    asked = [re.match(r"[\w.-]+", one) for one in candidate.requirements]
    return {
        "mb": round(sum(file.stat().st_size for file in files if file.is_file()) / 1e6),
        "packages": len(versions),
        "versions": {name[0]: versions[name[0].lower()] for name in asked if name},
    }


def first_reason(words: str) -> str:
    """uv's first error and its cause, on one line of at most 240 characters."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    chosen = [line for line in lines if re.match(r"(error|×|cause|╰─▶|hint):? ", line)][:2] or lines[:1]
    return (
        ": ".join(re.sub(r"^(error:|cause:|hint:|×|╰─▶) *", "", line) for line in chosen)[:240] or "uv gave no reason"
    )


def _uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run uv. torch's CPU build comes from the folder of wheels that pip is configured with, or PyTorch's index."""
    wheels = os.environ.get("PIP_FIND_LINKS")
    torch = {"UV_FIND_LINKS": wheels} if wheels else {"UV_TORCH_BACKEND": "cpu"}
    command = [find_uv_bin(), *arguments]
    return subprocess.run(command, env={**torch, **os.environ}, capture_output=True, text=True, check=False)
