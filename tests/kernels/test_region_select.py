"""The region kernel: its own code, compiled for the host and run thread by thread, against float64."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.kernels import compile as kernels
from lrclr.model import select_regions
from tests.kernels.region_reference import TYPES, HostKernel, Selection, gathered, reference, rollout

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of float32 sums of up to 1,025 terms, 24 times over, in another order than NumPy's.
TOLERANCE = 2e-5
THREADS = st.sampled_from([32, 64, 128, 256, 512, 1024])


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> HostKernel:
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to compile the kernel's code for this machine")
    library = tmp_path_factory.mktemp("kernel") / "region_select.so"
    checks = ["-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fno-sanitize-recover"]
    subprocess.run(
        ["g++", "-std=c++17", "-O2", *checks, "-x", "c++", "-shared", "-fPIC", "-o", library, kernels.SOURCE],
        check=True,
    )
    return HostKernel(str(library))


@st.composite
def cases(draw: st.DrawFn, *, mean: bool | None = None) -> tuple[list[NDArray[Any]], NDArray[Any], int, bool]:
    """Maps, tokens, k, and whether heads are averaged: attention of every kind that a network may have."""
    nodes = draw(st.one_of(st.integers(2, 80), st.sampled_from([50, 101, 197, 257, 577, 1024, 1025])))
    heads = draw(st.integers(1, 16))
    budget = max(1, 3_000_000 // (nodes * nodes * heads))
    layers = draw(st.integers(1, max(1, min(24, budget))))
    images = draw(st.integers(1, max(1, min(3, budget // layers))))
    kind = draw(st.sampled_from(["plain", "sharp", "masked", "tiny", "even"]))
    dtype = TYPES[draw(st.sampled_from(list(TYPES)))]
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    maps = [_attention(random, kind, (images, heads, nodes, nodes)).astype(dtype) for _ in range(layers)]
    if draw(st.booleans()):
        maps[-1] = maps[-1][:, :, :1]
    width = draw(st.sampled_from([1, 3, 8, 64]))
    token_type = draw(st.sampled_from([np.float16, np.float32]))
    tokens = random.normal(size=(images, nodes, width)).astype(token_type)
    chosen = draw(st.booleans()) if mean is None else mean
    return maps, tokens, draw(st.integers(1, min(64, nodes - 1))), chosen


def _attention(random: np.random.Generator, kind: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if kind == "even":
        return np.full(shape, 1 / shape[-1], np.float32)
    logits = random.normal(size=shape).astype(np.float32) * (20 if kind == "sharp" else 1)
    if kind == "masked":
        logits[..., random.random(shape[-1]) < 0.3] = -np.inf
        logits[..., 0] = 0
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    # Below the least normal number of float16 and of float32.
    scale = {"tiny": 1e-6 if shape[-1] < 100 else 1e-30}.get(kind, 1.0)
    scaled: NDArray[np.float32] = (weights * scale).astype(np.float32)
    return scaled


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases(), threads=THREADS)
def test_it_is_the_rollout(kernel: HostKernel, case: Any, threads: int) -> None:
    maps, tokens, top_k, mean = case
    found = kernel(maps, tokens, top_k, mean=mean, threads=threads)
    _assert_selects(found, maps, tokens, top_k, mean=mean)


def _assert_selects(
    found: Selection, maps: list[NDArray[Any]], tokens: NDArray[Any], top_k: int, *, mean: bool
) -> None:
    """Importance is right, nothing more important was left out, and the tokens are those of the patches."""
    wanted = rollout(maps, mean=mean)
    images, chains, patches = wanted.shape
    index = found.index.reshape(images, chains, top_k)
    values = found.importance.reshape(images, chains, top_k)
    assert ((index >= 0) & (index < patches)).all()
    assert all(len(set(chain)) == top_k for image in index for chain in image.tolist())
    scale = np.abs(wanted).max(-1, keepdims=True)
    error = np.abs(values - np.take_along_axis(wanted, index, -1))
    # Denormal sums lose bits that no scale of the others makes up for.
    allowed = TOLERANCE * scale + 1e-43 * wanted.shape[-1]
    assert (error <= allowed).all()
    assert (np.diff(values, axis=-1) <= 0).all()
    best = -np.sort(-wanted, axis=-1)[..., :top_k]
    assert (np.take_along_axis(wanted, index, -1) >= best - 2 * allowed).all()
    np.testing.assert_array_equal(found.tokens, gathered(tokens, found.index))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), threads=THREADS)
def test_ties_go_to_the_lower_patch(kernel: HostKernel, data: st.DataObject, threads: int) -> None:
    """Of powers of two that no sum rounds, so that the order is one and the same."""
    nodes, heads = data.draw(st.integers(2, 300)), data.draw(st.integers(1, 4))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    levels = data.draw(st.integers(1, 4))
    last = (random.integers(0, levels, (2, heads, 1, nodes)) / 4).astype(np.float32)
    same = np.broadcast_to(np.eye(nodes, dtype=np.float32), (2, heads, nodes, nodes)).copy()
    tokens = random.normal(size=(2, nodes, 4)).astype(np.float16)
    top_k = data.draw(st.integers(1, min(64, nodes - 1)))
    found, wanted = (select([same, last], tokens, top_k, mean=False) for select in (_with(kernel, threads), reference))
    np.testing.assert_array_equal(found.index, wanted.index)
    np.testing.assert_array_equal(found.importance, wanted.importance)
    np.testing.assert_array_equal(found.tokens, wanted.tokens)


def _with(kernel: HostKernel, threads: int) -> Any:
    return lambda *arguments, **options: kernel(*arguments, **options, threads=threads)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), threads=THREADS)
def test_what_is_not_finite_is_reported_and_not_selected(kernel: HostKernel, data: st.DataObject, threads: int) -> None:
    maps, tokens, top_k, mean = data.draw(cases())
    bad = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    layer = data.draw(st.integers(0, len(maps) - 1))
    place = tuple(data.draw(st.integers(0, size - 1)) for size in maps[layer].shape)
    maps[layer][place] = bad
    with np.errstate(invalid="ignore"):
        wanted = rollout(maps, mean=mean)
    found = kernel(maps, tokens, top_k, mean=mean, threads=threads)
    images, chains, patches = wanted.shape
    spoilt = ~np.isfinite(wanted).all(-1)
    values = found.importance.reshape(images, chains, top_k)
    index = found.index.reshape(images, chains, top_k)
    np.testing.assert_array_equal(np.isnan(values).all(-1), spoilt)
    np.testing.assert_array_equal(np.isnan(values).any(-1), spoilt)
    finite = np.isfinite(np.take_along_axis(wanted, index, -1)).sum(-1)
    np.testing.assert_array_equal(finite, np.minimum(np.isfinite(wanted).sum(-1), top_k))
    assert ((index >= 0) & (index < patches)).all()
    np.testing.assert_array_equal(found.tokens, gathered(tokens, found.index))


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("nodes", [50, 197, 577])
def test_it_is_what_the_network_selects(kernel: HostKernel, nodes: int, *, mean: bool) -> None:
    """At the sizes of ViT-B/32, B/16 and L/14@336, against `lrclr.model.select_regions`."""
    random = np.random.default_rng(nodes)
    maps = [_attention(random, "sharp", (2, 3, nodes, nodes)) for _ in range(3)]
    tokens = random.normal(size=(2, nodes, 16)).astype(np.float32)
    found = kernel(maps, tokens, 12, mean=mean)
    wanted = select_regions([torch.from_numpy(one) for one in maps], torch.from_numpy(tokens), 12, mean)
    np.testing.assert_array_equal(found.index, wanted.index.numpy())
    np.testing.assert_allclose(found.importance, wanted.importance.numpy(), rtol=1e-4)
    np.testing.assert_array_equal(found.tokens, wanted.tokens.numpy())


def test_the_committed_kernels_spill_nothing() -> None:
    committed = json.loads(kernels.RESOURCES.read_text())
    assert committed["kernels"].keys() == {f"sm_{gpu}" for gpu in kernels.GPUS}
    for taken in committed["kernels"].values():
        assert {f"region_select_{layers}" for layers in (6, 12, 24)} <= taken.keys()
        for used in taken.values():
            assert (used["spill_bytes"], used["stack_bytes"]) == (0, 0)
            # With more, no block of 1,024 threads starts, nor two on a multiprocessor of 48 KiB.
            assert used["registers"] <= 64
            assert used["shared_bytes"] <= 24 * 1024


@pytest.mark.slow
def test_the_committed_kernels_are_the_sources() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc")
    committed = json.loads(kernels.RESOURCES.read_text())
    if kernels.version() != committed["nvcc"]:
        pytest.skip(f"the kernels were compiled by nvcc {committed['nvcc']}, this is {kernels.version()}")
    for name in kernels.TARGETS:
        assert kernels.ptx(name) == (kernels.DATA / name).read_text(), "run: python export/kernels/compile.py"
    assert kernels.resources() == committed, "run: python export/kernels/compile.py"
