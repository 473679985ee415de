"""Lists the GPUs of this machine by NVIDIA's driver, without other packages."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: such as ``"NVIDIA H100 80GB HBM3"``.
        capability: compute capability, such as ``"9.0"``.
        driver: newest CUDA version that the driver supports, such as ``"13.0"``.
    """

    name: str
    capability: str
    driver: str

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.capability}, driver for CUDA {self.driver}"


def gpus() -> list[Gpu]:
    """The GPUs in the order of the driver; empty without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    if cuda.cuInit(0) != 0:
        return []
    count, version = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    cuda.cuDriverGetVersion(ctypes.byref(version))
    driver = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return [Gpu(_name(cuda, number), _capability(cuda, number), driver) for number in range(count.value)]


def _name(cuda: ctypes.CDLL, number: int) -> str:
    buffer = ctypes.create_string_buffer(256)
    cuda.cuDeviceGetName(buffer, len(buffer), number)
    return buffer.value.decode(errors="replace")


def _capability(cuda: ctypes.CDLL, number: int) -> str:
    digits = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, number)
        digits.append(str(value.value))
    return ".".join(digits)
