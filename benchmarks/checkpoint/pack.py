"""Last stage: writes a tuned checkpoint with weights in float16, as the package contains it.

The model card of the checkpoint that is replaced is kept, without its metrics, which are of other weights.

::

    python -m benchmarks.checkpoint.pack build/lrclr -o lrclr/data/checkpoint
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lrclr.card import CARD, ModelCard
from lrclr.checkpoints import load_checkpoint


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.checkpoint.pack", description="Write weights in float16.")
    parser.add_argument("checkpoint", type=Path, help="folder of the tuned checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    card = ModelCard.beside(options.output).without_metrics()
    load_checkpoint(options.checkpoint).changed(card=card).save(options.output, overwrite=True, half=True)
    print(f"now write the facts and the metrics of this checkpoint into {options.output / CARD} and CHECKPOINT.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
