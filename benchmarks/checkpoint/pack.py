"""Last stage: writes a tuned checkpoint with weights in float16, as the package contains it.

::

    python -m benchmarks.checkpoint.pack build/lrclr -o lrclr/data/checkpoint
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lrclr.checkpoints import load_checkpoint


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.pack", description="Write weights in float16.")
    parser.add_argument("checkpoint", type=Path, help="folder of the tuned checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    load_checkpoint(options.checkpoint).save(options.output, overwrite=True, half=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
