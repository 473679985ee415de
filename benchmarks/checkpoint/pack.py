"""Last stage: a tuned checkpoint as the package carries it, its weights in float16.

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
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    load_checkpoint(options.checkpoint).save(options.output, overwrite=True, half=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
