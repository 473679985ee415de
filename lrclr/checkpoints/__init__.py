"""Reading, making and writing checkpoints. Importing it imports torch and transformers."""

from lrclr.checkpoints._checkpoint import Checkpoint
from lrclr.checkpoints._init import ARCHITECTURES, init_checkpoint
from lrclr.checkpoints._load import default_checkpoint, load_checkpoint
from lrclr.checkpoints._options import ReadOptions
from lrclr.checkpoints.families import FAMILIES

__all__ = [
    "ARCHITECTURES",
    "FAMILIES",
    "Checkpoint",
    "ReadOptions",
    "default_checkpoint",
    "init_checkpoint",
    "load_checkpoint",
]
