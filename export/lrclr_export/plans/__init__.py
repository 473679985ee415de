"""Builds plans of ONNX graphs with the Python library of TensorRT or TensorRT-RTX. It does not need torch."""

from lrclr_export.plans._build import Plan, plan_from_onnx
from lrclr_export.plans._network import precision_gates
from lrclr_export.plans._options import BuildOptions
from lrclr_export.plans._record import BuildRecord, BuiltLayer

__all__ = ["BuildOptions", "BuildRecord", "BuiltLayer", "Plan", "plan_from_onnx", "precision_gates"]
