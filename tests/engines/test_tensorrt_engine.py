"""The order of calls in which `TensorRTEngine` runs a plan. CUDA's and TensorRT's native classes are replaced."""

from __future__ import annotations

import logging
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

# Private: the library is replaced by one that needs no GPU.
from lrclr.engines import Gpu, TensorRTEngine, _tensorrt
from lrclr.errors import EngineError
from tests.engines import gpu_natives as natives

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Open = Callable[..., TensorRTEngine]

CAPTURED_8 = ["enqueue 8", "synchronise", "capture", "enqueue 8", "synchronise"]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> natives.Library:
    return natives.install(monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Any:
    return _bundle(tmp_path)


def _bundle(folder: Path, **options: bool) -> Any:
    plan = folder / "model.plan"
    plan.write_bytes(b"version compatible" if options.get("version_compatible") else b"plan")
    entry = {
        "engine": "tensorrt",
        "library": "11.4.0.106",
        "compute_capabilities": ["9.0"],
        "options": {"version_compatible": False, "strip": False, "hardware_compatible": "none", **options},
    }
    manifest = SimpleNamespace(plans=[entry])
    return SimpleNamespace(path=folder, manifest=manifest, plan_path=lambda *_: plan, graph_path=lambda _: plan)


def _engine(bundle: Any) -> TensorRTEngine:
    return TensorRTEngine.of_entry(bundle, bundle.manifest.plans[0])


def _ask(engine: TensorRTEngine, size: int) -> None:
    """Run a batch of random pixels, and check the answer."""
    x = np.random.default_rng().random((size, natives.WIDTH), np.float32)
    np.testing.assert_array_equal(engine.run("image_encoder", {"x": x})["y"], 2 * x)


def _calls(library: natives.Library, work: Callable[[], Any]) -> list[str]:
    """The GPU calls that `work` makes."""
    before = len(library.gpu.calls)
    work()
    return library.gpu.calls[before:]


def test_a_size_is_captured_after_two_runs_in_a_row(library: natives.Library, bundle: Any) -> None:
    """With sizes 8, 3, 8, a context that captures immediately was last run at size 3."""
    with _engine(bundle) as engine:
        assert _calls(library, lambda: _ask(engine, 8))[-2:] == ["enqueue 8", "synchronise"]
        assert _calls(library, lambda: _ask(engine, 3)) == ["enqueue 3", "synchronise"]
        assert _calls(library, lambda: _ask(engine, 8)) == CAPTURED_8
        assert _calls(library, lambda: _ask(engine, 1)) == ["enqueue 1", "synchronise"]
        assert _calls(library, lambda: _ask(engine, 8)) == ["launch a graph", "synchronise"]
        # Larger tensors are moved, so a capture reads from the old addresses.
        _ask(engine, 32)
        assert _calls(library, lambda: _ask(engine, 8)) == ["enqueue 8", "synchronise"]


def test_a_size_that_cannot_be_captured_still_runs(
    library: natives.Library, bundle: Any, caplog: pytest.LogCaptureFixture
) -> None:
    library.not_capturable = {5, 6}
    with caplog.at_level(logging.WARNING, "lrclr"), _engine(bundle) as engine:
        for size in (5, 5, 6, 6, 3, 3):
            _ask(engine, size)
        assert library.gpu.calls.count("capture") == 3
        # It is not tried again, and other sizes are not affected.
        for size, call in ((5, "enqueue 5"), (6, "enqueue 6"), (3, "launch a graph")):
            assert _calls(library, partial(_ask, engine, size)) == [call, "synchronise"]
    (record,) = caplog.records
    # The log shows the first error only, not its consequences.
    assert "operation not permitted when stream is capturing" in record.getMessage()
    assert "image_encoder" in record.getMessage()
    assert library.gpu.empty


@pytest.mark.parametrize("function", ["StreamBeginCapture", "StreamEndCapture", "GraphInstantiate"])
def test_a_capture_that_cuda_refuses_is_logged(
    library: natives.Library, bundle: Any, caplog: pytest.LogCaptureFixture, function: str
) -> None:
    library.gpu.fail = {function}
    with caplog.at_level(logging.WARNING, "lrclr"), _engine(bundle) as engine:
        for size in (3, 3, 3, 8, 8):
            _ask(engine, size)
    assert [function in record.getMessage() for record in caplog.records] == [True]
    assert library.gpu.empty


def test_an_error_of_a_plain_run_is_raised(library: natives.Library, bundle: Any) -> None:
    with _engine(bundle) as engine:
        _ask(engine, 3)
        library.gpu.fail = {"MemcpyAsync"}
        with pytest.raises(EngineError, match="MemcpyAsync"):
            _ask(engine, 3)


def test_the_error_belongs_to_the_failed_run(library: natives.Library, bundle: Any) -> None:
    """And not to an earlier failure, such as one of a capture."""
    library.not_capturable = {3}
    with _engine(bundle) as engine:
        for size in (3, 3):
            _ask(engine, size)
        library.gpu.error = library.gpu.cudaError_t.cudaErrorUnknown
        with pytest.raises(EngineError, match="could not run image_encoder: an earlier CUDA call failed"):
            _ask(engine, 3)


def test_tensorrt_rtx_is_asked_before_a_capture(monkeypatch: pytest.MonkeyPatch, bundle: Any) -> None:
    library = natives.install(monkeypatch, natives.RtxContext)
    library.not_capturable = {5}
    with _engine(bundle) as engine:
        for size in (5, 5, 5, 3, 3):
            _ask(engine, size)
    assert library.gpu.calls.count("capture") == 1


def test_contexts_share_their_memory(library: natives.Library, bundle: Any) -> None:
    engine = _engine(bundle)
    _ask(engine, 1)
    before = set(library.gpu.memory)
    _ask(engine, 8)
    first, second = library.contexts
    assert first.device_memory == second.device_memory
    assert first.device_memory[1] == max(natives.NEEDED)
    # Larger tensors replaced the smaller ones.
    assert len(library.gpu.memory) == len(before)
    engine.close()
    assert library.gpu.empty


def test_a_closed_engine_refuses_to_run(library: natives.Library, bundle: Any) -> None:
    engine = _engine(bundle)
    for size in (3, 3, 3):
        _ask(engine, size)
    engine.close()
    assert library.gpu.empty
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        _ask(engine, 3)
    assert library.gpu.empty


def test_a_plan_that_cannot_be_loaded_frees_its_memory(library: natives.Library, bundle: Any) -> None:
    library.most_contexts = 1
    engine = _engine(bundle)
    with pytest.raises(EngineError, match="could not make a context for image_encoder: out of memory"):
        _ask(engine, 3)
    assert library.gpu.empty


@pytest.mark.parametrize("compatible", [False, True])
def test_code_in_a_plan_is_allowed_only_if_needed(
    library: natives.Library, tmp_path: Path, *, compatible: bool
) -> None:
    """A plan for other versions contains the runtime that runs it. TensorRT refuses this by default."""
    with _engine(_bundle(tmp_path, version_compatible=compatible)) as engine:
        _ask(engine, 3)
    assert library.host_code is compatible


@pytest.mark.parametrize("eager", [False, True])
def test_kernels_are_compiled_in_advance_on_request(
    library: natives.Library, bundle: Any, monkeypatch: pytest.MonkeyPatch, *, eager: bool
) -> None:
    monkeypatch.setattr(_tensorrt, "gpus", lambda: [Gpu("A GPU", "9.0", "13.0")])
    with TensorRTEngine(bundle, eager_kernels=eager) as engine:
        _ask(engine, 3)
    strategies = {context.config.dynamic_shapes_kernel_specialization_strategy.name for context in library.contexts}
    assert strategies == {"EAGER" if eager else "LAZY"}


def test_the_inspector_gets_the_sizes(library: natives.Library, bundle: Any) -> None:
    with _engine(bundle) as engine:
        assert engine.written_types("image_encoder") == {"float16": 1}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 32), max_size=60), st.sets(st.integers(1, 32)))
def test_any_order_of_sizes_gives_right_answers(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], refused: set[int]
) -> None:
    """Answers are right and all memory is freed, for any order of sizes and any set that cannot be captured."""
    with pytest.MonkeyPatch.context() as patch:
        library = natives.install(patch)
        library.not_capturable = refused
        with _engine(_bundle(tmp_path_factory.mktemp("bundle"))) as engine:
            for size in sizes:
                _ask(engine, size)
            assert len(library.gpu.instances) <= 16
            assert not library.gpu.graphs
        assert library.gpu.empty
