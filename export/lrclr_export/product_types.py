"""Types of the products of each precision."""

from __future__ import annotations

from typing import Final

__all__ = ["PRODUCT_TYPES"]

PRODUCT_TYPES: Final = {
    "fp16": ("float16",),
    "fp32": ("float32",),
    "int8": ("int8", "float32"),
    "fp8": ("float8", "float16"),
}
"""Types of the products of a precision, that of the quantised ones first."""
