"""The fastest product of large matrices on this machine, in a separate process: ``python -m lrclr.bench._peak``.

A data sheet gives the speed at a clock that a processor does not sustain. The speed of a good library on this machine
is what an engine can reach. NumPy is measured; torch if it is installed: its library may be faster, and it has
bfloat16; and ONNX Runtime if it is installed, whose int8 product uses VNNI and AMX. The fastest of each type counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec.structs import asdict

from lrclr._processors import cpu_flags, processors
from lrclr.bench._result import Peak
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["measure_peaks", "roof_of"]

_SIDES: Final = (512, 1024, 2048)
_COPIED: Final = 1 << 27  # bytes: more than any cache


def measure_peaks(seconds: float) -> tuple[tuple[Peak, ...], float]:
    """The fastest product of each number type, and the bandwidth of copying in 10⁹ bytes a second.

    Args:
        seconds: time for each type and library.

    Raises:
        LrclrError: the process failed.
    """
    command = [sys.executable, "-m", "lrclr.bench._peak", str(seconds)]
    # Without limits on threads: the peak is that of all cores.
    limits = ("OMP_", "MKL_", "OPENBLAS_", "GOMP_", "KMP_")
    variables = {name: value for name, value in os.environ.items() if not name.startswith(limits)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise LrclrError("the machine's peak could not be measured", why=lines[-1] if lines else None)
    content = json.loads(done.stdout.splitlines()[-1])
    best: dict[str, Peak] = {}
    for each in content["peaks"]:
        peak = Peak(**each)
        if peak.dtype not in best or peak.gops > best[peak.dtype].gops:
            best[peak.dtype] = peak
    # A type that is slower than float32 lacks an optimised product in the library, so it is not a peak.
    kept = (peak for peak in best.values() if peak.gops >= best["fp32"].gops)
    return tuple(kept), float(content["bandwidth_gbs"])


def roof_of(precision: str, engine: str, peaks: Sequence[Peak]) -> Peak | None:
    """The peak for an engine and a model of this precision; None for an engine on a GPU.

    On a processor ONNX Runtime computes float16 graphs in float32, and OpenVINO in bfloat16 if the processor has it. If
    no library has a peak of the type, float32's is used.
    """
    if engine.startswith("tensorrt") or "cuda" in engine.lower():
        return None
    dtype = precision if precision == "int8" else "bf16" if precision != "fp32" and "openvino" in engine else "fp32"
    known = {peak.dtype: peak for peak in peaks}
    return known.get(dtype, known.get("fp32"))


def _measured(seconds: float) -> Iterator[Peak]:
    matrices = {side: np.random.default_rng(0).random((2, side, side), np.float32) for side in _SIDES}

    def with_numpy(side: int) -> object:
        return matrices[side][0] @ matrices[side][1]

    yield Peak("fp32", _fastest(with_numpy, seconds), f"numpy {np.__version__}")
    yield from _with_onnxruntime(seconds)
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    torch.set_num_threads(processors())
    by = f"torch {torch.__version__}"
    types: dict[str, Any] = {"fp32": torch.float32, "int8": torch.int8}
    if {"avx512_bf16", "amx_bf16", "bf16"} & cpu_flags():
        types["bf16"] = torch.bfloat16
    for name, dtype in types.items():
        pairs = {
            side: tuple((torch.from_numpy(one) * 100).to(dtype) for one in both) for side, both in matrices.items()
        }
        multiply = torch._int_mm if name == "int8" else torch.mm  # noqa: SLF001 - torch has no public int8 product

        def with_torch(side: int, pairs: Any = pairs, multiply: Any = multiply) -> object:
            return multiply(*pairs[side])

        yield Peak(name, _fastest(with_torch, seconds), by)


def _with_onnxruntime(seconds: float) -> Iterator[Peak]:
    """Products of float32, and of unsigned by signed bytes, with a constant factor, which is packed once as weights."""
    if importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("onnx") is None:
        return
    import onnx
    import onnxruntime

    from lrclr.engines._onnxruntime import SessionSettings, open_session

    types = onnx.TensorProto
    random = np.random.default_rng(0)
    kinds: dict[str, tuple[str, int, int, Callable[[int], Any], Callable[[int], Any]]] = {
        "fp32": (
            "MatMul", types.FLOAT, types.FLOAT,
            lambda side: random.random((side, side), np.float32),
            lambda side: random.random((side, side), np.float32),
        ),
        # Weights have 7 bits, with which no kernel saturates.
        "int8": (
            "MatMulInteger", types.UINT8, types.INT32,
            lambda side: random.integers(0, 256, (side, side), np.uint8),
            lambda side: random.integers(-63, 64, (side, side), np.int8),
        ),
    }  # fmt: skip
    for name, (operator, of_left, of_product, left, right) in kinds.items():
        sessions, factors = {}, {}
        for side in _SIDES:
            graph = onnx.helper.make_graph(
                [onnx.helper.make_node(operator, ["left", "right"], ["product"])],
                "product",
                [onnx.helper.make_tensor_value_info("left", of_left, [side, side])],
                [onnx.helper.make_tensor_value_info("product", of_product, [side, side])],
                [onnx.numpy_helper.from_array(right(side), "right")],
            )
            model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
            with tempfile.TemporaryDirectory() as folder:
                onnx.save(model, Path(folder) / "product.onnx")
                sessions[side] = open_session(Path(folder) / "product.onnx", SessionSettings(), name="a product")
            factors[side] = {"left": left(side)}

        def multiply(side: int, sessions: Any = sessions, factors: Any = factors) -> object:
            return sessions[side].run(None, factors[side])

        yield Peak(name, _fastest(multiply, seconds), f"onnxruntime {onnxruntime.__version__}")


def _fastest(multiply: Callable[[int], object], seconds: float) -> float:
    best = 0.0
    for side in _SIDES:
        # Eight times the work of the size before: a product that is not optimised would take minutes.
        if best and 2 * side**3 / (best * 1e9) > seconds:
            break
        multiply(side)
        end = time.perf_counter() + seconds / len(_SIDES)
        while True:
            begin = time.perf_counter()
            multiply(side)
            now = time.perf_counter()
            best = max(best, 2 * side**3 / (now - begin) / 1e9)
            if now >= end:
                break
    return round(best, 1)


def _bandwidth(seconds: float) -> float:
    source = np.ones(_COPIED, np.uint8)
    target = np.empty_like(source)
    best = 0.0
    np.copyto(target, source)
    end = time.perf_counter() + seconds
    while True:
        begin = time.perf_counter()
        np.copyto(target, source)
        now = time.perf_counter()
        best = max(best, 2 * _COPIED / (now - begin) / 1e9)
        if now >= end:
            break
    return round(best, 2)


def _main() -> None:
    seconds = float(sys.argv[1])
    peaks = [asdict(peak) for peak in _measured(seconds)]
    print(json.dumps({"peaks": peaks, "bandwidth_gbs": _bandwidth(min(seconds, 0.5))}))


if __name__ == "__main__":
    _main()
