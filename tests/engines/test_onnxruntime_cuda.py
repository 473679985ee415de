"""Options of ONNX Runtime's CUDA provider, and the libraries that are loaded before a CUDA session."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import json_format, text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton

from lrclr import OnnxRuntimeEngine
from lrclr.bundle import GRAPHS

# Private: each case sets which packages are installed.
from lrclr.engines import _onnxruntime_package as package
from lrclr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class RecordedSession:
    """Replaces sessions that need a GPU, and records how they were requested, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.order: list[str] = []
        self.providers: Any = None
        library = package.onnxruntime_library()
        monkeypatch.setattr(
            library, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
        monkeypatch.setattr(library, "preload_dlls", lambda: self.order.append("preload_dlls"))
        monkeypatch.setattr(library, "InferenceSession", self._session)

    def _session(self, path: Path, options: Any, *, providers: Any, enable_fallback: int) -> None:
        self.order.append("InferenceSession")
        self.providers = providers
        raise RuntimeError(f"{path.name}, {options.log_severity_level}, {enable_fallback}")


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[RecordedSession]:
    package.preload_cuda.cache_clear()
    yield RecordedSession(monkeypatch)
    package.preload_cuda.cache_clear()


def _run(provider: str, options: Mapping[str, str] | None = None, *, cuda_graphs: bool = False) -> None:
    files = {"image_encoder": Path("model.onnx")}
    engine = OnnxRuntimeEngine(files, provider=provider, provider_options=options, cuda_graphs=cuda_graphs)
    with pytest.raises(EngineError, match=r"could not load image_encoder: model\.onnx"):
        engine.run("image_encoder", {})


def test_tf32_is_off_unless_requested(recorded: RecordedSession) -> None:
    for options, wanted in (
        (None, {"use_tf32": "0"}),
        ({"device_id": "1"}, {"use_tf32": "0", "device_id": "1"}),
        ({"use_tf32": "1"}, {"use_tf32": "1"}),
    ):
        _run("cuda", options)
        assert recorded.providers == [("CUDAExecutionProvider", wanted)]
    _run("cuda", cuda_graphs=True)
    assert recorded.providers == [("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "1"})]


def test_the_cpu_provider_has_no_tf32_option(recorded: RecordedSession) -> None:
    _run("cpu")
    assert recorded.providers == [("CPUExecutionProvider", {})]


def test_libraries_are_loaded_once_before_a_cuda_session_only(recorded: RecordedSession) -> None:
    _run("cpu")
    assert recorded.order == ["InferenceSession"]
    _run("cuda")
    _run("cuda")
    assert recorded.order == ["InferenceSession", "preload_dlls", "InferenceSession", "InferenceSession"]


def _stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that replaces Triton's ONNX Runtime backend, imported outside of Triton."""
    for name in ("_graph_backend", "_tensors", "onnxruntime_backend"):
        # Imported for this test only.
        monkeypatch.setitem(sys.modules, f"lrclr.triton.{name}", ModuleType(name))
        del sys.modules[f"lrclr.triton.{name}"]
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.Tensor = lambda _, array: SimpleNamespace(as_numpy=lambda: array)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    return importlib.import_module("lrclr.triton.model.onnxruntime_backend")


@pytest.mark.parametrize("graph", GRAPHS)
def test_triton_receives_the_same_options(graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration contains the options. Triton passes them to the stand-in as JSON."""
    stand_in = _stand_in(monkeypatch)
    text = (Path(__file__).parents[2] / "triton_repo" / graph / "config.pbtxt").read_text()
    config = json_format.MessageToDict(text_format.Parse(text, triton.ModelConfig()), preserving_proto_field_name=True)
    assert stand_in._settings(config, "cuda").provider_options == {"use_tf32": "0"}
    assert stand_in._settings(config, "cpu").provider_options == {}
    (accelerator,) = config["optimization"]["execution_accelerators"]["gpu_execution_accelerator"]
    accelerator["name"] = "tensorrt"
    with pytest.raises(ValueError, match="unknown execution accelerator 'tensorrt'"):
        stand_in._settings(config, "cuda")
