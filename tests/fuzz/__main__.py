"""Fuzz one target, guided by coverage: ``python -m tests.fuzz png --runs 100000``. Inputs that fail are saved."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

FOUND = Path(__file__).parent / "found"
# Modules whose branches guide the search, besides lrclr's own. Instrumenting a library takes seconds.
READERS = {"png": ["PIL"], "jpeg": ["PIL"], "tiff": ["PIL"], "dicom": ["PIL", "pydicom"]}


def main() -> None:
    """Returns 0 if no input failed. Otherwise libFuzzer ends the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=FOUND, help="Where what breaks a target is put.")
    given = parser.parse_args()
    with atheris.instrument_imports(include=["lrclr", *READERS.get(given.target, [])]):
        from tests.fuzz import targets
    if given.target not in targets.TARGETS:
        sys.exit(f"error: there is no target {given.target}. Choose {', '.join(targets.TARGETS)}.")
    targets.prepare(given.target)
    corpus = Path(tempfile.mkdtemp(prefix="lrclr-corpus-"))
    for data in targets.seeds(given.target):
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    keep = given.keep / given.target
    keep.mkdir(parents=True, exist_ok=True)
    options = {
        "runs": given.runs,
        "seed": given.seed,
        "max_len": 20_000,
        # A limit on wall time, for inputs that wait. Computing is limited by the target itself.
        "timeout": 60,
        # getrusage's value includes the parent's peak. The target's own limit is of this process only.
        "rss_limit_mb": 0,
        "artifact_prefix": f"{keep}/",
        "print_final_stats": 1,
    }
    flags = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], str(corpus), *flags], lambda data: targets.run(given.target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
