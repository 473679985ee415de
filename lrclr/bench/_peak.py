"""The fastest product of large matrices on this machine, in a separate process: ``python -m lrclr.bench._peak``.

A data sheet gives the speed at a clock that a processor does not sustain. The speed of a good library on this machine
is what an engine can reach. NumPy is measured, and what is installed of ONNX Runtime, OpenVINO and torch. The int8
products of the first two use VNNI and AMX, and the last two have bfloat16. The fastest of each type counts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from msgspec.structs import asdict

from lrclr._processors import cpu_flags, processors
from lrclr.bench._result import Peak
from lrclr.errors import LrclrError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from lrclr.engines import Engine

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
    yield from _with_engines(seconds)
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


def _with_engines(seconds: float) -> Iterator[Peak]:
    """Products in ONNX Runtime and OpenVINO, by a constant factor, which is packed once as weights are."""
    from lrclr.engines import OnnxRuntimeEngine, OpenVINOEngine, ProfiledEngine

    if importlib.util.find_spec("onnx") is None:
        return
    kinds: list[tuple[str, str, Callable[[dict[str, Path]], Engine]]] = []
    if importlib.util.find_spec("onnxruntime") is not None:
        kinds += [("fp32", "fp32", OnnxRuntimeEngine), ("int8", "int8", OnnxRuntimeEngine)]
    if importlib.util.find_spec("openvino") is not None:
        # A graph in QDQ form, since OpenVINO has no MatMulInteger.
        kinds += [
            ("int8", "qdq", OpenVINOEngine),
            ("bf16", "fp32", partial(OpenVINOEngine, half={str(side) for side in _SIDES})),
        ]
    for dtype, form, open_ in kinds:
        with tempfile.TemporaryDirectory() as folder:
            made = {side: _product(form, side, Path(folder) / f"{side}.onnx") for side in _SIDES}
            engine = open_({str(side): path for side, (path, _) in made.items()})
            if dtype == "bf16" and isinstance(engine, ProfiledEngine) and "bfloat16" not in engine.product_types:
                continue

            def multiply(side: int, engine: Engine = engine, made: Any = made) -> object:
                return engine.run(str(side), {"left": made[side][1]})

            yield Peak(dtype, _fastest(multiply, seconds), engine.name.partition(" cpu")[0])


def _product(form: str, side: int, path: Path) -> tuple[Path, NDArray[Any]]:
    """Write a graph with one product of square matrices.

    Args:
        form: ``"fp32"``; ``"int8"`` for a product of bytes; ``"qdq"`` for a product of dequantised bytes.
        side: rows and columns.
        path: the file.

    Returns:
        The file, and the first factor.
    """
    import onnx
    from onnx import helper, numpy_helper

    random = np.random.default_rng(0)
    left: NDArray[Any] = random.random((side, side), np.float32)
    right: NDArray[Any] = random.random((side, side), np.float32)
    of_left = of_product = onnx.TensorProto.FLOAT
    nodes = [helper.make_node("MatMul", ["left", "right"], ["product"])]
    constants = {}
    if form != "fp32":
        # Weights have 7 bits, with which no kernel saturates.
        right = random.integers(-63, 64, (side, side), np.int8)
    if form == "int8":
        left = random.integers(0, 256, (side, side), np.uint8)
        of_left, of_product = onnx.TensorProto.UINT8, onnx.TensorProto.INT32
        nodes = [helper.make_node("MatMulInteger", ["left", "right"], ["product"])]
    elif form == "qdq":
        constants = {"scale": np.float32(1 / 127), "zero": np.int8(0)}
        nodes = [
            helper.make_node("QuantizeLinear", ["left", "scale", "zero"], ["bytes"]),
            helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["rounded"]),
            helper.make_node("DequantizeLinear", ["right", "scale", "zero"], ["weight"]),
            helper.make_node("MatMul", ["rounded", "weight"], ["product"]),
        ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("left", of_left, [side, side])],
        [helper.make_tensor_value_info("product", of_product, [side, side])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in {"right": right, **constants}.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path, left


def _fastest(multiply: Callable[[int], object], seconds: float) -> float:
    best = 0.0
    for side in _SIDES:
        # Eight times the work of the size before: a product that is not optimised would take minutes.
        if best and 2 * side**3 / (best * 1e9) > seconds:
            break
        best = max(best, _rate(partial(multiply, side), 2 * side**3, seconds / len(_SIDES)))
    return round(best, 1)


def _bandwidth(seconds: float) -> float:
    source = np.ones(_COPIED, np.uint8)
    return round(_rate(partial(np.copyto, np.empty_like(source), source), 2 * _COPIED, seconds), 2)


def _rate(call: Callable[[], object], work: float, seconds: float) -> float:
    """The highest rate of a call that does some work, in units of 10^9 a second. It is called once before."""
    best = 0.0
    call()
    end = time.perf_counter() + seconds
    while True:
        begin = time.perf_counter()
        call()
        now = time.perf_counter()
        best = max(best, work / (now - begin) / 1e9)
        if now >= end:
            return best


def _main() -> None:
    seconds = float(sys.argv[1])
    peaks = [asdict(peak) for peak in _measured(seconds)]
    print(json.dumps({"peaks": peaks, "bandwidth_gbs": _bandwidth(min(seconds, 0.5))}))


if __name__ == "__main__":
    _main()
