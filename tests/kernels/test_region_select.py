"""The region kernel's code, compiled for the host and run with several orders of its threads, compared with float64."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.kernels import compile as kernels

# Private: the kernel itself, which no public function runs.
from lrclr._kernels import FORMS, LAYERS, Form, entry_ptx, form_for, forms_for, max_nodes
from lrclr.model import select_regions
from tests.grids import every_other
from tests.kernels.host_kernel import ORDERS, Case, HostKernel, Selection, gathered, importance

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Rounding of float32 sums of up to 1,088 terms, layer after layer, in another order than NumPy's.
TOLERANCE = 3e-5


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> HostKernel:
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to compile the kernel's code for this machine")
    library = tmp_path_factory.mktemp("kernel") / "region_select.so"
    # The compiler does not know CUDA's pragmas.
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    checks = ["-fsanitize=undefined", "-fno-sanitize-recover"]
    command = ["g++", "-std=c++17", "-O2", *warnings, *checks, "-x", "c++", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(kernels.SOURCE)], check=True)
    return HostKernel(str(library))


def _name(value: object) -> str | None:
    return value.name if isinstance(value, Form) else None


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, Form]:
    """Queries, keys and tokens with a form that supports them.

    Smooth and sharp attention, and views of a merged product.
    """
    form = draw(st.sampled_from(FORMS))
    # Every form also supports few tokens, with which tests are faster.
    nodes = draw(
        st.one_of(st.integers(2, 64), st.integers(65, min(130, form.nodes)) if form.nodes > 64 else st.just(64))
    )
    layers = draw(st.integers(2, 6 if nodes <= 64 else 3))
    heads = draw(st.integers(1, 2))
    images = draw(st.integers(1, 2))
    deviation = draw(st.sampled_from([0.3, 2.0, 12.0]))
    merged, mean = draw(st.booleans()), draw(st.booleans())
    prefix = draw(st.integers(0, 1))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    queries, keys = [], []
    for _ in range(layers - 1):
        parts = random.normal(size=(images, nodes, 3, heads, form.head_width)) * deviation**0.5
        together = parts.astype(np.float16)
        pair = [together[:, :, part] for part in (0, 1)]
        queries.append(pair[0] if merged else np.ascontiguousarray(pair[0]))
        keys.append(pair[1] if merged else np.ascontiguousarray(pair[1]))
    start = random.exponential(size=(images, 1 if mean else heads, nodes))
    start = (start / start.sum(-1, keepdims=True)).astype(np.float32)
    width = draw(st.sampled_from([1, 3, 8, 64]))
    tokens = random.normal(size=(images, nodes, width)).astype(draw(st.sampled_from([np.float16, np.float32])))
    top_k = draw(st.integers(1, min(64, nodes - prefix)))
    return Case(queries, keys, start, tokens, top_k, mean, prefix), form


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=cases(), seed=st.integers(0, 2**31))
def test_the_kernel_equals_the_rollout_in_every_order_of_threads(
    kernel: HostKernel, drawn: tuple[Case, Form], seed: int
) -> None:
    case, form = drawn
    found = kernel(case, form)
    _assert_selects(found, case)
    for order in ORDERS[1:]:
        again = kernel(case, form, order=order, seed=seed)
        # Bit for bit: a result that depends on the order of the threads shows a race condition.
        np.testing.assert_array_equal(again.importance, found.importance)
        np.testing.assert_array_equal(again.index, found.index)
        np.testing.assert_array_equal(again.tokens, found.tokens)


def _assert_selects(found: Selection, case: Case) -> None:
    """Importance is right, no more important patch is missing, and the tokens belong to the patches."""
    wanted = importance(case)
    images, chains, patches = wanted.shape
    index = found.index.reshape(images, chains, case.top_k)
    values = found.importance.reshape(images, chains, case.top_k)
    assert ((index >= 0) & (index < patches)).all()
    assert all(len(set(chain)) == case.top_k for image in index for chain in image.tolist())
    allowed = TOLERANCE * wanted.max(-1, keepdims=True)
    assert (np.abs(values - np.take_along_axis(wanted, index, -1)) <= allowed).all()
    assert (np.diff(values, axis=-1) <= 0).all()
    best = -np.sort(-wanted, axis=-1)[..., : case.top_k]
    assert (np.take_along_axis(wanted, index, -1) >= best - 2 * allowed).all()
    np.testing.assert_array_equal(found.tokens, gathered(case.tokens, found.index, case.prefix))


@pytest.mark.parametrize("form", FORMS, ids=_name)
def test_ties_go_to_the_lower_patch(kernel: HostKernel, form: Form) -> None:
    """Equal keys get equal attention, so all patches are equally important."""
    nodes = 50 if form.nodes == 64 else 101
    queries = [np.ones((1, nodes, 1, form.head_width), np.float16)]
    start = np.full((1, 1, nodes), 1 / nodes, np.float32)
    tokens = np.arange(nodes, dtype=np.float32).reshape(1, nodes, 1)
    found = kernel(Case(queries, queries, start, tokens, 7), form)
    assert found.index.tolist() == [list(range(7))]
    assert found.tokens[0, :, 0].tolist() == list(range(8))


@pytest.mark.parametrize(("form", "bad"), every_other(FORMS, [np.nan, np.inf, -np.inf]), ids=_name)
def test_values_that_are_not_finite_give_nan(kernel: HostKernel, form: Form, bad: float) -> None:
    """All importance values of that chain are NaN. The other chains are right, and all indices are valid."""
    nodes = 50 if form.nodes == 64 else 101
    random = np.random.default_rng(0)
    pair = [random.normal(size=(2, nodes, 2, form.head_width)).astype(np.float16) for _ in range(2)]
    pair[0][1, 17, 1, 3] = bad
    start = np.full((2, 2, nodes), 1 / nodes, np.float32)
    tokens = random.normal(size=(2, nodes, 8)).astype(np.float16)
    found = kernel(Case([pair[0]], [pair[1]], start, tokens, 4), form)
    values = found.importance.reshape(2, 2, 4)
    assert np.isnan(values[1, 1]).all()
    assert np.isfinite(values[[0, 0, 1], [0, 1, 0]]).all()
    assert ((found.index >= 0) & (found.index < nodes - 1)).all()
    np.testing.assert_array_equal(found.tokens, gathered(tokens, found.index, 1))


@pytest.mark.parametrize(
    ("size", "mean"),
    [
        *every_other([(50, 64), (197, 64), (577, 64), (50, 32), (101, 32), (256, 72)], [False, True]),
        *(
            pytest.param(size, mean, marks=pytest.mark.slow)
            for size in ((1025, 64), (729, 72), (1024, 72))
            for mean in (False, True)
        ),
    ],
)
def test_the_kernel_selects_the_same_patches_as_the_network(
    kernel: HostKernel, size: tuple[int, int], *, mean: bool
) -> None:
    """At sizes of CLIP, of the default checkpoint and of SigLIP, compared with `lrclr.model.select_regions`."""
    nodes, width = size
    random = np.random.default_rng(nodes)
    heads, layers = (2, 3) if nodes < 500 else (1, 1)
    shape = (1, nodes, heads, width)
    pairs = [[(1.5 * random.normal(size=shape)).astype(np.float16) for _ in range(2)] for _ in range(layers)]
    maps = [_map(query, key) for query, key in pairs]
    last = torch.softmax(torch.from_numpy(random.normal(size=(1, heads, 1, nodes))), -1).float()
    tokens = random.normal(size=(1, nodes, 16)).astype(np.float32)
    wanted = select_regions([*maps, last], torch.from_numpy(tokens), 12, mean)
    start = last[:, :, 0].mean(1, keepdim=True) if mean else last[:, :, 0]
    queries, keys = ([pair[place] for pair in pairs] for place in (0, 1))
    case = Case(queries, keys, start.numpy(), tokens, 12, mean, scale=width**-0.5)
    for form in forms_for(nodes, 90, width):
        found = kernel(case, form)
        np.testing.assert_array_equal(found.index, wanted.index.numpy())
        np.testing.assert_allclose(found.importance, wanted.importance.numpy(), rtol=1e-4)
        np.testing.assert_array_equal(found.tokens, wanted.tokens.numpy())


def _map(query: NDArray[np.float16], key: NDArray[np.float16]) -> torch.Tensor:
    rows, columns = (torch.from_numpy(row_.astype(np.float32)).transpose(1, 2) for row_ in (query, key))
    return torch.softmax(rows @ columns.transpose(-1, -2) * query.shape[-1] ** -0.5, -1)


@pytest.mark.parametrize(("capability", "clusters"), [(80, False), (89, False), (90, True), (120, True)])
def test_the_chosen_form_fits(capability: int, *, clusters: bool) -> None:
    for width, layers in LAYERS.items():
        for nodes in range(2, max_nodes(width) + 1):
            for chains in (1, 12, 64, 1000):
                form = form_for(nodes, chains, capability, width)
                assert form.nodes >= nodes
                assert form.head_width == width
                assert clusters or form.blocks == 1
                # A block has at most as many threads as the entry was compiled for.
                assert form.threads(nodes) <= _threads(form.entry(layers[-1]), capability)


@cache
def _threads(entry: str, capability: int) -> int:
    """Largest number of threads of a block of an entry."""
    return int(re.search(rb"\.maxntid (\d+)", entry_ptx(entry, capability))[1])  # type: ignore[index]


@pytest.mark.parametrize("capability", [80, 90])
def test_every_entry_is_self_contained(capability: int) -> None:
    """The PTX of an entry contains what it calls, and has a version that old drivers support."""
    for form in FORMS:
        for layers in LAYERS[form.head_width]:
            text = entry_ptx(form.entry(layers), capability).decode()
            assert text.count(".visible .entry") == text.count(".func ") == 1
            assert f".version {kernels.PTX_VERSIONS[str(capability)]}\n" in text


@pytest.mark.parametrize(("form", "capability"), every_other(FORMS, [80, 90]), ids=_name)
def test_ptxas_compiles_an_entry(form: Form, capability: int) -> None:
    if shutil.which("ptxas") is None:
        pytest.skip("ptxas is not installed")
    text = entry_ptx(form.entry(LAYERS[form.head_width][-1]), capability).decode()
    subprocess.run(["ptxas", f"-arch=sm_{capability}", "-o", "/dev/null", "-"], input=text, text=True, check=True)


def test_the_committed_kernels_are_within_their_limits() -> None:
    committed = json.loads(kernels.RESOURCES.read_text())
    assert committed["kernels"].keys() == {f"sm_{gpu}" for gpu in kernels.GPUS}
    for gpu, taken in committed["kernels"].items():
        assert taken.keys() == {form.entry(layers) for form in FORMS for layers in LAYERS[form.head_width]}
        for name, used in taken.items():
            assert used["shared_bytes"] <= 48 * 1024
            assert used["spill_bytes"] <= 64, f"{name} on {gpu}"


@pytest.mark.slow
def test_the_committed_kernels_match_the_sources() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc")
    committed = json.loads(kernels.RESOURCES.read_text())
    if kernels.version() != committed["nvcc"]:
        pytest.skip(f"the kernels were compiled by nvcc {committed['nvcc']}, this is {kernels.version()}")
    for capability in kernels.CAPABILITIES:
        assert kernels.ptx(capability) == kernels.file_of(capability).read_text(), "run: make kernels"
    assert kernels.resources() == committed, "run: make kernels"
