"""What ONNX Runtime is asked for on CUDA: the options of the provider, and the libraries that are loaded before it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lrclr import OnnxRuntimeEngine
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
