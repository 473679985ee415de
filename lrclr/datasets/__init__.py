"""Datasets: images with reports, labels, masks and boxes, for training and evaluation."""

from lrclr.datasets._cache import PixelCache
from lrclr.datasets._columns import check_columns
from lrclr.datasets._dataset import SKIP, raise_bad_rows, read_dataset
from lrclr.datasets._masks import check_places, patch_coverage, row_mask
from lrclr.datasets._overlap import check_apart
from lrclr.datasets._rows import ABSENT, PRESENT, UNCERTAIN, Box, ImageDataset, Row, RowProblem, split_key
from lrclr.datasets._write import write_dataset

__all__ = [
    "ABSENT",
    "PRESENT",
    "SKIP",
    "UNCERTAIN",
    "Box",
    "ImageDataset",
    "PixelCache",
    "Row",
    "RowProblem",
    "check_apart",
    "check_columns",
    "check_places",
    "patch_coverage",
    "raise_bad_rows",
    "read_dataset",
    "row_mask",
    "split_key",
    "write_dataset",
]
