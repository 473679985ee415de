"""A peer that wants other versions than the project gets an environment of its own, which sees the project's behind it.

So torch is not installed once for each, and what pip then adds is what the peer wants otherwise. What a user would have
on disk is counted from the metadata of all that the peer requires, wherever it lies.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers.catalogue import Candidate

_RECORD = "peer.json"
_WHEEL = re.compile(r"(?:Downloading|Using cached) (\S+\.(?:whl|tar\.gz)) \(([\d.]+) (kB|MB|GB|bytes)\)")
_LOCAL = re.compile(r"^Processing (/\S+\.whl)", re.MULTILINE)
_UNITS = {"bytes": 1e-6, "kB": 1e-3, "MB": 1.0, "GB": 1e3}
# Runs in the peer's own Python: everything that these requirements need, and the bytes of it.
_SIZES = """
import importlib.metadata, json, sys
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
seen, waiting, size, missing, versions = set(), [(r, "") for r in sys.argv[1:]], 0, [], {}
while waiting:
    text, extra = waiting.pop()
    requirement = Requirement(text)
    if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
        continue
    name = canonicalize_name(requirement.name)
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        missing.append(name)
        continue
    for wanted in ["", *requirement.extras]:
        if (name, wanted) not in seen:
            seen.add((name, wanted))
            waiting += [(r, wanted) for r in found.requires or []]
    if name not in versions:
        versions[name] = found.version
        size += sum(file.size or 0 for file in found.files or [])
asked = [Requirement(text).name for text in sys.argv[1:]]
asked = {name: versions.get(canonicalize_name(name)) for name in asked}
found = {"mb": round(size / 1e6), "packages": len(versions), "missing": sorted(set(missing)), "versions": asked}
print(json.dumps(found))
"""


def python_of(environments: Path, candidate: Candidate) -> Path:
    """What runs the candidate."""
    if not candidate.environment:
        return Path(sys.executable)
    return environments / candidate.environment / "bin" / "python"


def make(environments: Path, name: str, requirements: Sequence[str]) -> dict[str, Any]:
    """Make an environment, once.

    Returns:
        ``{"download_mb", "seconds"}`` of what pip added, or ``{"refused"}``, in pip's words, when it would not.
    """
    folder = environments / name
    record = folder / _RECORD
    if record.is_file():
        known: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        if known["requirements"] == list(requirements):
            return known
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", folder], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = folder / "lib" / version / "site-packages"
    # Last in the order, so that what is installed here comes first.
    (own / "zz_project.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    constraint = folder / "constraint.txt"
    # Any other build of torch brings gigabytes for a GPU.
    constraint.write_text("torch==2.13.0\n")
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-input"]
    began = time.perf_counter()
    done = subprocess.run([*command, "-c", str(constraint), *requirements], capture_output=True, text=True, check=False)
    known = {"requirements": list(requirements), "seconds": round(time.perf_counter() - began, 1)}
    if done.returncode:
        known["refused"] = in_short(done.stderr)
    fetched = sum(float(mb) * _UNITS[unit] for _, mb, unit in _WHEEL.findall(done.stdout))
    # An index on disk is still a download for whoever has none.
    fetched += sum(file.stat().st_size / 1e6 for file in map(Path, _LOCAL.findall(done.stdout)) if file.is_file())
    known["download_mb"] = round(fetched, 1)
    record.write_text(json.dumps(known, indent=1))
    return known


def in_short(words: str) -> str:
    """What pip said of why it would not, in a line: its first error, with the reason where a package gave one."""
    lines = [line.strip() for line in words.splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.lower().startswith("error")]
    reasons = [line for line in lines if "not found" in line or "Ensure" in line]
    chosen = [*errors[:1], *reasons[:1]]
    text = ": ".join(dict.fromkeys(chosen)) or (lines[-1] if lines else "pip gave no reason")
    return re.sub(r" \(from versions:.*", "", text)[:240]


@cache
def size(python: Path, requirements: tuple[str, ...]) -> dict[str, Any]:
    """Megabytes on disk of all that these need, and their versions, as that Python sees them."""
    done = subprocess.run([python, "-c", _SIZES, *requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LrclrError("the size of a peer cannot be told", why=done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout)
    return found
