"""What command 3 measures of ONNX Runtime's CUDA provider: placement of nodes, gates, latency, and `lrclr bench`."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.gpu.quarter_hour.record import nvidia_smi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.gpu.quarter_hour.record import Record

__all__ = ["GROUPS", "Plan"]

_PRECISIONS: Final = ("fp32", "fp16")
_LEAST_RUNS: Final = 40
_VERSIONS: Final = (
    "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "tokenizers", "nvidia-cublas", "nvidia-cudnn-cu13",
    "nvidia-cuda-runtime", "nvidia-cufft", "nvidia-curand", "nvidia-cuda-nvrtc",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        ready: the folder that `unpack` made.
        output: the folder for the results.
        device: ``"cuda"`` or ``"cpu"``.
        network: name of the graphs in ``ready/networks``, without the precision.
        batches: numbers of images of a call.
        seconds: duration of each measurement of latency.
        bench_seconds: duration of `lrclr bench`.
    """

    ready: Path
    output: Path
    device: str
    network: str
    batches: tuple[int, ...]
    seconds: float
    bench_seconds: float

    @property
    def graph_choices(self) -> tuple[bool, ...]:
        """Values of `OnnxRuntimeEngine`'s ``cuda_graphs`` that the device supports."""
        return (False, True) if self.device == "cuda" else (False,)

    @property
    def tf32_choices(self) -> tuple[str, ...]:
        """Values of the provider's option ``use_tf32``."""
        return ("0", "1") if self.device == "cuda" else ("0",)

    def bundle(self, precision: str) -> Path:
        """Folder of the default bundle."""
        return self.ready / "bundles" / f"default-{precision}"

    def graph(self, precision: str, name: str) -> Path:
        """File of a graph of the network with random weights."""
        return self.ready / "networks" / f"{self.network}-{precision}" / name / "model.onnx"

    def options(self, tf32: str = "0") -> dict[str, str]:
        """Options of the provider."""
        return {"use_tf32": tf32} if self.device == "cuda" else {}


def describe_machine(plan: Plan, record: Record) -> None:
    """GPU, driver and versions."""
    record.measure("GPU, as nvidia-smi describes it", lambda: _gpu_fields(plan.device))
    record.measure("versions", _versions)
    record.measure("ONNX Runtime", _onnxruntime)


def measure_placement(plan: Plan, record: Record) -> None:
    """The provider of each node, and the CUDA libraries that a session has loaded."""
    for precision in _PRECISIONS:
        for name in ("image_encoder", "text_encoder", "fusion_head"):
            path = plan.bundle(precision) / name / "1" / "model.onnx"
            record.measure(f"placement: default bundle, {precision}, {name}", partial(_placement, plan, path))
        path = plan.graph(precision, "image_encoder")
        record.measure(f"placement: {plan.network}, {precision}, image_encoder", partial(_placement, plan, path))
    record.measure("CUDA libraries that are loaded", _loaded_libraries)


def measure_gates(plan: Plan, record: Record) -> None:
    """The gates of the default bundle."""
    for graphs in plan.graph_choices:
        for precision in _PRECISIONS:
            for tf32 in plan.tf32_choices:
                name = f"gates: {precision}, TF32 {'on' if tf32 == '1' else 'off'}, CUDA graphs {_on(graphs)}"
                report = record.measure(name, partial(_gates, plan, precision, tf32, graphs))
                if report is not None and report["refused"] and tf32 == "0":
                    record.fail(f"{name}: every gate holds", f"refused: {', '.join(report['refused'])}")


def measure_latency(plan: Plan, record: Record, precision: str) -> None:
    """Latency and throughput of the image encoder, and its answers against those of the CPU."""
    record.measure(f"answers against the CPU's: {precision}", partial(_against_cpu, plan, precision))
    for graphs in plan.graph_choices:
        _latencies(plan, record, precision, graphs=graphs, tf32="0")
    if precision == "fp32" and plan.device == "cuda":
        _latencies(plan, record, precision, graphs=False, tf32="1")
    record.measure(f"text encoder: {precision}, 32 prompts", partial(_text_latency, plan, precision))


def run_bench(plan: Plan, record: Record) -> None:
    """`lrclr bench` on the default bundle."""
    for precision in reversed(_PRECISIONS):
        record.measure(f"lrclr bench: {precision}", partial(_bench, plan, precision))


GROUPS: Final[dict[str, Callable[[Plan, Record], None]]] = {
    "machine": describe_machine,
    "placement": measure_placement,
    "gates": measure_gates,
    "fp16": partial(measure_latency, precision="fp16"),
    "fp32": partial(measure_latency, precision="fp32"),
    "bench": run_bench,
}
"""Groups of measurements, in the order in which they run."""


def _on(graphs: bool) -> str:
    return "on" if graphs else "off"


def _gpu_fields(device: str) -> dict[str, Any]:
    from lrclr.engines import gpus

    if device == "cpu":
        return {"gpus": [str(gpu) for gpu in gpus()]}
    return {"gpus": [str(gpu) for gpu in gpus()], "nvidia_smi": nvidia_smi()}


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in _VERSIONS:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _onnxruntime() -> dict[str, Any]:
    import onnxruntime

    from lrclr.engines._onnxruntime_package import preload_cuda

    return {
        "version": onnxruntime.__version__,
        "build": onnxruntime.get_build_info(),
        "providers": onnxruntime.get_available_providers(),
        "libraries_not_found": preload_cuda(),
    }


def _session(plan: Plan, path: Path, options: dict[str, str]) -> Any:
    from lrclr.engines._onnxruntime import SessionSettings, open_session

    return open_session(path, SessionSettings(plan.device, options), name=path.parent.name)


def _placement(plan: Plan, path: Path) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    from lrclr.engines._onnxruntime import PROVIDERS
    from lrclr.engines._onnxruntime_package import preload_cuda

    preload_cuda()
    wanted = PROVIDERS[plan.device]
    session = onnxruntime.InferenceSession(path, options, providers=[(wanted, plan.options())], enable_fallback=0)
    counts: dict[str, int] = {}
    strays: dict[str, int] = {}
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            counts[part.ep_name] = counts.get(part.ep_name, 0) + 1
            if part.ep_name != wanted:
                strays[node.op_type] = strays.get(node.op_type, 0) + 1
    if session.get_providers()[0] != wanted:
        raise RuntimeError(f"the session runs on {session.get_providers()[0]}")
    return {"nodes": counts, "operators_elsewhere": strays}


def _loaded_libraries() -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    names = {Path(line.split()[-1]).name for line in lines if "/" in line}
    return sorted(name for name in names if name.startswith(("libcu", "libnv", "libonnxruntime")))


def _gates(plan: Plan, precision: str, tf32: str, graphs: bool) -> dict[str, Any]:
    from lrclr import Bundle, OnnxRuntimeEngine
    from lrclr.verification import verify

    bundle = Bundle(plan.bundle(precision))
    engine = OnnxRuntimeEngine(bundle, provider=plan.device, provider_options=plan.options(tf32), cuda_graphs=graphs)
    report = verify(bundle, engine)
    refused = [f"{gate.gate} of {gate.subject}" for gate in report.refused]
    return {"refused": refused, **report.to_dict()}


def _latencies(plan: Plan, record: Record, precision: str, *, graphs: bool, tf32: str) -> None:
    """For each batch: with inputs and outputs on the device, and with arrays on the host, as lrclr passes them."""
    from lrclr import OnnxRuntimeEngine

    path = plan.graph(precision, "image_encoder")
    suffix = f"{precision}, TF32 {'on' if tf32 == '1' else 'off'}, CUDA graphs {_on(graphs)}"
    options = plan.options(tf32) | ({"enable_cuda_graph": "1"} if graphs else {})
    opened: list[Any] = []
    record.measure(f"open: {suffix}", lambda: opened.append(_session(plan, path, options)))
    if not opened:
        return
    session = opened.pop()
    shape = [axis for axis in session.get_inputs()[0].shape if isinstance(axis, int)]
    for number, batch in enumerate(plan.batches, 1):
        work = partial(_device_latency, plan, session, _pixels(batch, shape), number if graphs else None)
        record.measure(f"device memory: {suffix}, batch {batch}", work)
    del session, work
    engine = OnnxRuntimeEngine(
        {"image_encoder": path}, provider=plan.device, provider_options=plan.options(tf32), cuda_graphs=graphs
    )
    for batch in plan.batches:
        call = partial(engine.run, "image_encoder", {"pixel_values": _pixels(batch, shape)})
        record.measure(f"host arrays: {suffix}, batch {batch}", partial(_timed, call, batch, plan.seconds))


def _device_latency(plan: Plan, session: Any, pixels: NDArray[np.float32], graph: int | None) -> dict[str, Any]:
    """Latency with inputs and outputs on the device; a call returns when the device has finished."""
    import numpy as np
    import onnxruntime

    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    value = onnxruntime.OrtValue
    binding = session.io_binding()
    binding.bind_ortvalue_input("pixel_values", value.ortvalue_from_numpy(pixels, plan.device, 0))
    for output in session.get_outputs():
        shape = [len(pixels) if isinstance(axis, str) else axis for axis in output.shape]
        room = value.ortvalue_from_shape_and_type(shape, types[output.type], plan.device, 0)
        binding.bind_ortvalue_output(output.name, room)
    options = onnxruntime.RunOptions()
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    return _timed(lambda: session.run_with_iobinding(binding, options), len(pixels), plan.seconds)


def _text_latency(plan: Plan, precision: str) -> dict[str, Any]:
    import numpy as np

    from lrclr import OnnxRuntimeEngine

    path = plan.graph(precision, "text_encoder")
    engine = OnnxRuntimeEngine({"text_encoder": path}, provider=plan.device, provider_options=plan.options())
    prompts = np.ones((32, 16), dtype=np.int64)
    prompts[:, -1] = 49407  # end-of-text; a network whose token has another number pools the first token
    return _timed(lambda: engine.run("text_encoder", {"input_ids": prompts}), len(prompts), plan.seconds)


def _against_cpu(plan: Plan, precision: str) -> dict[str, float]:
    """Largest differences from ONNX Runtime on the CPU, for the same graph and 4 images."""
    import numpy as np

    from lrclr import OnnxRuntimeEngine

    path = plan.graph(precision, "image_encoder")
    engine = OnnxRuntimeEngine({"image_encoder": path}, provider=plan.device, provider_options=plan.options())
    cpu = OnnxRuntimeEngine({"image_encoder": path})
    shape = [axis for axis in _session_shape(path) if isinstance(axis, int)]
    inputs = {"pixel_values": _pixels(4, shape)}
    found, wanted = engine.run("image_encoder", inputs), cpu.run("image_encoder", inputs)
    apart = {
        name: float(np.abs(found[name].astype(np.float64) - wanted[name]).max() / np.abs(wanted[name]).max())
        for name in ("image_embedding", "region_tokens", "region_importance")
    }
    same = float((found["region_index"] == wanted["region_index"]).mean())
    return {**{f"largest difference of {name}, of its range": one for name, one in apart.items()}, "same regions": same}


def _session_shape(path: Path) -> list[Any]:
    import onnx

    shape = onnx.load(path, load_external_data=False).graph.input[0].type.tensor_type.shape
    return [axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in shape.dim]


def _bench(plan: Plan, precision: str) -> dict[str, Any]:
    output = plan.output / f"bench-{precision}"
    command = [
        *(sys.executable, "-m", "lrclr", "bench", "measure", str(plan.bundle(precision))),
        *("--engine", "onnxruntime", "--provider", plan.device, "--rate", "none", "--rounds", "5", "--no-peak"),
        *("--what", "image_encoder,text_encoder,fusion_head,classifier", "--concurrency", "1,4"),
        *("--batch", ",".join(map(str, plan.batches[:3:2])), "--seconds", str(plan.bench_seconds), "-o", str(output)),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=6 * plan.bench_seconds + 60, check=False)
    if answer.returncode:
        raise RuntimeError(f"exit code {answer.returncode}: {' '.join(answer.stderr.split())[-600:]}")
    return {"files": sorted(path.name for path in output.iterdir()), "stderr": answer.stderr.splitlines()[-4:]}


def _pixels(batch: int, shape: list[int]) -> NDArray[np.float32]:
    import numpy as np

    return np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32)


def _timed(work: Callable[[], object], items: int, seconds: float) -> dict[str, Any]:
    """Latency of one caller, after runs that allocate memory, choose kernels, and capture graphs."""
    import numpy as np

    for _ in _until(seconds / 4, least=5):
        work()
    times = []
    for _ in _until(seconds, least=_LEAST_RUNS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return {
        "p50_ms": round(float(p50), 4),
        "p99_ms": round(float(p99), 4),
        "a_second": round(items * len(times) / sum(times), 1),
        "runs": len(times),
    }


def _until(seconds: float, *, least: int) -> Iterator[None]:
    end, number = time.perf_counter() + seconds, 0
    while number < least or time.perf_counter() < end:
        yield
        number += 1
