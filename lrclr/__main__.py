"""``python -m lrclr``, which is what ``torchrun -m`` needs."""

import sys

from lrclr.cli import main

if __name__ == "__main__":
    sys.exit(main())
