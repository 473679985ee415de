"""What ONNX Runtime is asked for on CUDA: the options of the provider, and the libraries that are loaded before it."""

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

# Private: which packages are installed is set here, so that each case is tested.
from lrclr.engines import _onnxruntime_package as package
from lrclr.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Asked:
    """Takes the place of a session that cannot be made here, and keeps what it was asked for, in order."""

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
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    package.preload_cuda.cache_clear()
    yield Asked(monkeypatch)
    package.preload_cuda.cache_clear()


def _run(provider: str, options: Mapping[str, str] | None = None, *, cuda_graphs: bool = False) -> None:
    files = {"image_encoder": Path("model.onnx")}
    engine = OnnxRuntimeEngine(files, provider=provider, provider_options=options, cuda_graphs=cuda_graphs)
    with pytest.raises(EngineError, match=r"could not load image_encoder: model\.onnx"):
        engine.run("image_encoder", {})


def test_products_of_float32_are_in_float32_unless_tf32_is_asked_for(asked: Asked) -> None:
    for options, wanted in (
        (None, {"use_tf32": "0"}),
        ({"device_id": "1"}, {"use_tf32": "0", "device_id": "1"}),
        ({"use_tf32": "1"}, {"use_tf32": "1"}),
    ):
        _run("cuda", options)
        assert asked.providers == [("CUDAExecutionProvider", wanted)]
    _run("cuda", cuda_graphs=True)
    assert asked.providers == [("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "1"})]


def test_the_cpu_has_no_such_option(asked: Asked) -> None:
    _run("cpu")
    assert asked.providers == [("CPUExecutionProvider", {})]


def test_libraries_are_loaded_once_before_a_session_on_cuda_and_never_on_the_cpu(asked: Asked) -> None:
    _run("cpu")
    assert asked.order == ["InferenceSession"]
    _run("cuda")
    _run("cuda")
    assert asked.order == ["InferenceSession", "preload_dlls", "InferenceSession", "InferenceSession"]


def _stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that stands in for Triton's backend, outside of Triton."""
    for name in ("_graph_backend", "_tensors", "onnxruntime_backend"):
        # Imported anew here, and forgotten after the test.
        monkeypatch.setitem(sys.modules, f"lrclr.triton.{name}", ModuleType(name))
        del sys.modules[f"lrclr.triton.{name}"]
    utils: Any = ModuleType("triton_python_backend_utils")
    utils.Tensor = lambda _, array: SimpleNamespace(as_numpy=lambda: array)
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    return importlib.import_module("lrclr.triton.model.onnxruntime_backend")


@pytest.mark.parametrize("graph", GRAPHS)
def test_triton_is_asked_for_the_same(graph: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration names the options; Triton hands it to the stand-in as JSON."""
    stand_in = _stand_in(monkeypatch)
    text = (Path(__file__).parents[2] / "triton_repo" / graph / "config.pbtxt").read_text()
    config = json_format.MessageToDict(text_format.Parse(text, triton.ModelConfig()), preserving_proto_field_name=True)
    assert stand_in._settings(config, "cuda").provider_options == {"use_tf32": "0"}
    assert stand_in._settings(config, "cpu").provider_options == {}
    (accelerator,) = config["optimization"]["execution_accelerators"]["gpu_execution_accelerator"]
    accelerator["name"] = "tensorrt"
    with pytest.raises(ValueError, match="unknown execution accelerator 'tensorrt'"):
        stand_in._settings(config, "cuda")
