"""Fixtures that several folders of tests share. Fixtures import torch only when they need it."""

from __future__ import annotations

import contextlib
import copy
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

# A shell starts jobs in the background with SIGINT ignored, and processes that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Before anything imports transformers: no test may use a network, and progress bars are not part of the output.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Tests are many and small. A second thread costs more time than it saves.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from lrclr.bundle import Golden
    from lrclr.checkpoints import Checkpoint
    from lrclr.model import LrclrModel
    from lrclr_export.onnx.onnx_graph import TypedGraph

    Prompts = Callable[..., tuple[Tensor, Tensor]]


# Hypothesis limits the wall time of an example to 0.2 s by default. No test here depends on wall time.
hypothesis.settings.register_profile("lrclr", deadline=None)
hypothesis.settings.load_profile("lrclr")
# `tests.pythons` runs tests on Pythons that have no torch.
WITHOUT_TORCH = "LRCLR_TEST_WITHOUT_TORCH" in os.environ
_HEAVY = ("torch", "transformers", "onnxscript", "safetensors", "sklearn")
if WITHOUT_TORCH:
    sys.modules.update(dict.fromkeys(_HEAVY))  # type: ignore[arg-type]  # None makes an import fail


@contextlib.contextmanager
def _skipping() -> Iterator[None]:
    """Skip a test that needs an excluded package. Without `WITHOUT_TORCH` this does nothing."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if WITHOUT_TORCH and name in _HEAVY:
            pytest.skip(f"needs {name}")
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with _skipping():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    with _skipping():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import all tests without garbage collection, and exclude what they import from later collections.

    These are a million objects, mostly of torch and transformers. Visiting them in each collection would take a quarter
    of the time to import them, and 8 % of the time of the tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


# The slowest folders start first, so that no process works alone at the end.
LONGEST = ("tests/bench", "tests/export", "tests/verification", "tests/evaluation", "tests/training", "tests/cli")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Set the groups for ``--dist loadgroup``: one process for each file, and one for all tests with a Triton server.

    Tests with a server mostly wait, and share servers, so `make test` runs them beside the others. The tests of the
    benchmark share a result, which takes many seconds to measure.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    for item in items:
        file = item.nodeid.partition("::")[0]
        group = "triton" if item.get_closest_marker("triton") else "bench" if file.startswith("tests/bench/") else file
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_sort_key)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """End a run whose groups pytest-xdist does not keep together: each process would start servers of its own."""
    if node.config.getoption("dist") == "loadgroup" and not all("@" in name.rpartition("]")[2] for name in ids):
        pytest.exit("this pytest-xdist does not group tests with this pytest: see pyproject.toml", 3)


def _sort_key(item: pytest.Item) -> int:
    if item.get_closest_marker("triton"):
        return 0
    return next((place for place, start in enumerate(LONGEST, 1) if item.nodeid.startswith(start)), len(LONGEST) + 1)


@pytest.fixture(scope="session")
def quiet_transformers() -> None:
    """Keep transformers' progress bars and notes out of the tests' output."""
    if WITHOUT_TORCH:
        return
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


@pytest.fixture(scope="session")
def tiny_checkpoint(quiet_transformers: None) -> Checkpoint:
    """A random checkpoint of the smallest architecture. Shared: do not change it, use `tiny_model` instead."""
    from lrclr.checkpoints import init_checkpoint

    return init_checkpoint("tiny")


@pytest.fixture(scope="session")
def base_checkpoint(quiet_transformers: None) -> Checkpoint:
    """A random checkpoint with the shape of ViT-B/32, like CheXzero. Shared, 600 MB: do not change it."""
    from lrclr.checkpoints import init_checkpoint

    return init_checkpoint("vit-b-32")


@pytest.fixture(scope="session")
def tiny_folder(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` as an lrclr folder. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    tiny_checkpoint.save(folder)
    return folder


@pytest.fixture
def tiny_model(tiny_checkpoint: Checkpoint) -> LrclrModel:
    """A copy of the tiny network with very uneven attention, for one test.

    With random weights, all patches get nearly equal attention, so that rounding could decide between two of them.
    """
    import torch

    model = copy.deepcopy(tiny_checkpoint.model)
    with torch.no_grad():
        for layer in model.vision_model.encoder.layers:
            layer.self_attn.q_proj.weight *= 30
            layer.self_attn.k_proj.weight *= 30
    return model


@pytest.fixture
def prompts(tiny_checkpoint: Checkpoint) -> Prompts:
    """A function that returns token numbers and mask of texts as tensors."""
    import torch

    def encode(*texts: str, length: int | None = None) -> tuple[Tensor, Tensor]:
        batch = tiny_checkpoint.tokenizer.encode(texts, length=length)
        return torch.from_numpy(batch.input_ids), torch.from_numpy(batch.mask)

    return encode


@pytest.fixture(scope="session")
def checkpoint(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The checkpoint of the shared bundles. Shared: do not change it."""
    from tests import bundles

    return bundles.checkpoint(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def checkpoint_folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import bundles

    return bundles.checkpoint_folder(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def fp32_bundle(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import bundles

    return bundles.exported(tmp_path_factory.getbasetemp(), "fp32")


@pytest.fixture(scope="session")
def fp32_graphs(fp32_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, TypedGraph]:
    """Graphs of the fp32 bundle. Shared: change copies only."""
    from tests import bundles

    return bundles.graphs(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def fp16_bundle(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import bundles

    return bundles.exported(tmp_path_factory.getbasetemp(), "fp16")


@pytest.fixture(scope="session")
def int8_bundle(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import bundles

    return bundles.exported(tmp_path_factory.getbasetemp(), "int8")


@pytest.fixture(scope="session")
def fp8_bundle(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests import bundles

    return bundles.exported(tmp_path_factory.getbasetemp(), "fp8")


@pytest.fixture(scope="session")
def golden(fp32_bundle: Path) -> Golden:
    """The inputs of the gates, and PyTorch's results for them."""
    from lrclr import Bundle
    from lrclr.bundle import Golden

    return Golden.load(Bundle(fp32_bundle).golden_path)
