"""Images with reports, labels, masks and boxes: what models are tuned and judged on."""

from lrclr.datasets._cache import PixelCache
from lrclr.datasets._manifest import read_manifest
from lrclr.datasets._masks import patch_coverage, row_mask
from lrclr.datasets._rows import ABSENT, PRESENT, UNCERTAIN, Box, DataManifest, Row, RowProblem
from lrclr.datasets._write import write_manifest

__all__ = [
    "ABSENT",
    "PRESENT",
    "UNCERTAIN",
    "Box",
    "DataManifest",
    "PixelCache",
    "Row",
    "RowProblem",
    "patch_coverage",
    "read_manifest",
    "row_mask",
    "write_manifest",
]
