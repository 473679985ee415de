"""Post-training quantisation: linear layers in int8 or FP8 with static scales, chosen on images that no gate judges.

It is done on the network, as half precision is: what the exporter writes as QDQ nodes is what the network computes.
ONNX Runtime's own quantiser works on a finished graph, where layers have no names to report and each trial of the
search for sensitive ones would be a graph of its own. `_schemes` holds what differs between the types.

int8 holds on every processor: weights have 7 bits (-63 to 63), since x86 without VNNI adds two products of bytes in 16
bits, and 2 * 255 * 63 fits. Activations are symmetric, as TensorRT wants them. FP8 is for TensorRT. Scales are of the
tensor and static: a result depends on no batch-mate and no padding.
"""

from lrclr_export.quantize._calibration import (
    Calibration,
    calibration_tokens,
    carried_calibration,
    read_calibration,
)
from lrclr_export.quantize._float8 import FIRST_OPSET, TRANSLATIONS
from lrclr_export.quantize._linear import LARGEST_WEIGHT, Fp8Linear, Int8Linear, QuantizedLinear
from lrclr_export.quantize._patches import PatchProduct, with_patch_product
from lrclr_export.quantize._quantize import Quantized, quantized
from lrclr_export.quantize._scales import scale_gate
from lrclr_export.quantize._schemes import QUANTISED

__all__ = [
    "FIRST_OPSET",
    "LARGEST_WEIGHT",
    "QUANTISED",
    "TRANSLATIONS",
    "Calibration",
    "Fp8Linear",
    "Int8Linear",
    "PatchProduct",
    "Quantized",
    "QuantizedLinear",
    "calibration_tokens",
    "carried_calibration",
    "quantized",
    "read_calibration",
    "scale_gate",
    "with_patch_product",
]
