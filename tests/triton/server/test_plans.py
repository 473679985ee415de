"""Serving TensorRT plans without a GPU: the options of the server, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from lrclr import Bundle
from lrclr.errors import ServerError, UsageError

# Private: a server that is not started, because it needs a GPU.
from lrclr.triton.server import ServeOptions, TritonServer, _server
from lrclr.triton.server._command import command_line
from lrclr.triton.server._locate import Installation
from lrclr.triton.server._log import LogRelay
from tests import bundles

COMPATIBLE = "--backend-config=tensorrt,version-compatible=true"


def _with_plans(folder: Path, target: Path, **options: Any) -> Path:
    given = {"version_compatible": False, "hardware_compatible": "none", "strip": False, **options}
    entry = {"engine": "tensorrt", "library": "11.4", "compute_capabilities": ["9.0"], "options": given, "graphs": {}}
    engine = {"name": "tensorrt", "why": "asked for"}
    return bundles.signed(bundles.copied(folder, target), engine=engine, plans=[entry])


@pytest.mark.parametrize(
    ("engine", "options", "compatible"),
    [
        ("tensorrt", {"version_compatible": True}, True),
        ("tensorrt", {}, False),
        ("tensorrt", {"version_compatible": True, "strip": True}, False),
        ("onnxruntime", {"version_compatible": True}, False),
    ],
)
def test_code_in_plans_is_allowed_where_a_plan_has_some(
    folder: Path, tmp_path: Path, engine: str, options: dict[str, Any], *, compatible: bool
) -> None:
    bundle = _with_plans(folder, tmp_path / "bundle", **options)
    bundles.signed(bundle, engine={"name": engine, "why": "asked for"})
    command = command_line(
        Installation(Path("tritonserver"), None, {}),
        tmp_path,
        ServeOptions(),
        ports=(1, 2, 3),
        shared_memory_prefix="lrclr",
        exit_seconds=3,
        version_compatible=_server._version_compatible(Bundle(bundle)),
    )
    assert (COMPATIBLE in command) is compatible


def test_plans_without_weights_are_not_served(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--strip"):
        TritonServer(_with_plans(folder, tmp_path / "bundle", strip=True))


def test_a_running_server_takes_no_code_that_it_was_not_started_for(folder: Path, tmp_path: Path) -> None:
    """The option is on the server's command line."""
    path = _with_plans(folder, tmp_path / "bundle")
    server = TritonServer(path)
    (entry,) = Bundle(path).manifest.plans
    bundles.signed(path, plans=[{**entry, "options": {**entry["options"], "version_compatible": True}}])
    with pytest.raises(ServerError, match="version compatible") as caught:
        server.reload()
    assert "Start the server again" in str(caught.value)


def test_the_log_of_a_server_with_a_gpu() -> None:
    told: list[tuple[str, str]] = []
    lines = [
        'E1127 13:58:13.9 1 server.cc:241] "CudaDriverHelper has not been initialized."',
        'I1127 13:58:13.9 1 cuda_memory_manager.cc:117] "CUDA memory pool disabled"',
        'E1127 13:58:13.9 1 instance_state.cc:3895] "Failed to set cuda graph shape for image_encoder_0_0trt failed"',
        'E1127 13:58:13.9 1 logging.cc:40] "IExecutionContext::setInputShape: Error Code 3: API Usage Error"',
        'E1127 13:58:13.9 1 instance_state.cc:2000] "failed to run: CUDA error: out of memory"',
    ]
    relay = LogRelay(io.StringIO("\n".join(lines) + "\n"), lambda level, text: told.append((level, text)))
    relay.close()
    assert [level for level, _ in told] == ["info", "info", "error"]
    # The reason why the server did not start, if it did not.
    assert relay.reason() == "failed to run: CUDA error: out of memory"
