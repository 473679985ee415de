"""From an ONNX graph to a plan, by the Python library of TensorRT or TensorRT-RTX; needs no torch."""

from lrclr_export.plans._build import Plan, plan_from_onnx
from lrclr_export.plans._network import precision_gates
from lrclr_export.plans._options import BuildOptions
from lrclr_export.plans._record import BuildRecord, BuiltLayer

__all__ = ["BuildOptions", "BuildRecord", "BuiltLayer", "Plan", "plan_from_onnx", "precision_gates"]
