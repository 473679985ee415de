"""Command 4: the answers of TensorRT-RTX on this GPU. ``python -m benchmarks.gpu.quarter_hour.rtx -o FOLDER``.

TensorRT-RTX 1.7 supports the compute capabilities 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1. On any other GPU, such as an H100,
the library's messages are the result. The command builds one product of two matrices for the current GPU and for 8.9,
asks whether each plan is valid here, and loads it. Each result is in ``rtx.json`` as soon as it is known. The exit code
is 0 if the library answered, also with a refusal, and 1 if it could not be loaded. Without a GPU the plan for 8.9 is
still built.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu.quarter_hour.record import Record

_RESULT: Final = "rtx.json"
_TARGETS: Final = ("CURRENT", "SM89")


def ask(target: str) -> dict[str, Any]:
    """Build a plan, and ask the library about it.

    Args:
        target: name of a member of ``tensorrt_rtx.ComputeCapability``.
    """
    import tensorrt_rtx as library

    messages: list[str] = []

    class Log(library.ILogger):  # type: ignore[misc] # the library has no types
        def __init__(self) -> None:
            library.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in {library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR, library.ILogger.WARNING}:
                messages.append(f"{severity}: {text}")

    log = Log()
    answer: dict[str, Any] = {"library": library.__version__, "target": target, "messages": messages}
    plan = _plan(library, log, getattr(library.ComputeCapability, target))
    answer["plan_bytes"] = None if plan is None else len(bytes(memoryview(plan)))
    runtime = library.Runtime(log)
    if plan is None or runtime is None:
        return answer
    validity, diagnostics = runtime.get_engine_validity(plan)
    answer["validity"], answer["diagnostics"] = str(validity), str(diagnostics)
    engine = runtime.deserialize_cuda_engine(plan)
    answer["loaded"] = engine is not None
    if engine is not None:
        answer["context"] = engine.create_execution_context() is not None
    return answer


def _plan(library: Any, log: Any, capability: Any) -> Any:
    builder = library.Builder(log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    left, right = (network.add_input(name, library.float16, (64, 64)) for name in ("left", "right"))
    none = library.MatrixOperation.NONE
    product = network.add_matrix_multiply(left, none, right, none).get_output(0)
    network.mark_output(product)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    if not config.set_compute_capability(capability, 0):
        return None
    return builder.build_serialized_network(network, config)


def _asked(target: str) -> dict[str, Any]:
    """`ask` in a process of its own, since the library may end the process."""
    command = [sys.executable, "-m", __spec__.name, "--target", target]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode > 0:
        raise RuntimeError(answer.stderr.strip().splitlines()[-1])
    return {
        "exit_code": answer.returncode,
        "stdout": answer.stdout.splitlines()[-40:],
        "stderr": answer.stderr.splitlines()[-40:],
    }


def main() -> None:
    """Ask for each target, or for the hidden ``--target`` in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path(), help="folder for the results")
    parser.add_argument("--target", choices=_TARGETS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.target is not None:
        for name, value in ask(given.target).items():
            print(f"{name}: {value}")
        return
    result = given.output / _RESULT
    record = Record(result, {"command": "rtx"})
    for target in _TARGETS:
        record.measure(f"TensorRT-RTX, a plan for {target}", partial(_asked, target))
    sys.exit(1 if record.failed else 0)


if __name__ == "__main__":
    main()
