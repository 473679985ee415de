"""Images with reports, labels, masks and boxes: what models are tuned and judged on."""

from lrclr.datasets._rows import ABSENT, PRESENT, UNCERTAIN, Box, DataManifest, Row, RowProblem

__all__ = ["ABSENT", "PRESENT", "UNCERTAIN", "Box", "DataManifest", "Row", "RowProblem"]
