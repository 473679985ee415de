"""Run the gates of a bundle in CI: exit code 3 if one refuses, and a JSON file for the record.

    python -m examples.verify_in_ci triton_repo [--engine onnxruntime] [-o gates.json]

Research use only. Not a medical device.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from lrclr import Bundle
from lrclr.auto import open_engine
from lrclr.engines import EngineOptions
from lrclr.errors import LrclrError
from lrclr.verification import verify


def main() -> int:
    """Verify a bundle; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", help="of this machine; what the bundle was made for if not given")
    parser.add_argument("-o", "--output", type=Path, default=Path("gates.json"))
    options = parser.parse_args()
    try:
        bundle = Bundle(options.bundle)  # Compares the hash of every file with the manifest.
        report = verify(bundle, open_engine(bundle, EngineOptions(options.engine)))
    except LrclrError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    options.output.write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    for gate in report.refused:
        print(f"refused: {gate}", file=sys.stderr)
    holding = len(report.gates) - len(report.refused)
    print(f"{options.bundle}: {holding} of {len(report.gates)} gates hold on {report.engine}")
    return 0 if report.passed else 3


if __name__ == "__main__":
    sys.exit(main())
