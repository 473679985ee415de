"""From a checkpoint to a bundle: typed ONNX graphs, the Triton model repository around them, and the gates."""

from lrclr_export.pipeline import ExportOptions, export_bundle

__all__ = ["ExportOptions", "export_bundle"]
