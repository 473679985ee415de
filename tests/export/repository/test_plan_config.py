"""Triton's configuration for plans: its content, and its effect in Triton's TensorRT backend.

That backend cannot run here. `_Backend` follows its source: ``InitializeCudaGraph``, ``SetCudaGraphShape``,
``FindClosestCudaGraph`` and ``GetMostOptimizedProfile`` of instance_state.cc, and ``AutoCompleteConfig`` of
model_state.cc, in triton-inference-server/tensorrt_backend of July 2026.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
from tritonclient.grpc import model_config_pb2 as triton

from lrclr import Bundle
from lrclr.contract import GRAPHS
from lrclr.errors import UsageError
from lrclr_export.profiles import profiles_of_graph
from lrclr_export.repository.plan_config import PlanServing
from lrclr_export.repository.records import write_records
from lrclr_export.repository.triton_config import sizes_of, triton_config
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.bundle import EngineEntry, Manifest

TENSORRT: EngineEntry = {"name": "tensorrt", "why": "asked for"}


def _shapes(manifest: Manifest, graph: str) -> dict[str, Any]:
    return {name: tensor["shape"] for name, tensor in manifest.graphs[graph]["inputs"].items()}


def _config(folder: Path, graph: str, **changes: Any) -> Any:
    """A graph's configuration for plans of two kinds of GPU, parsed by Triton's own parser."""
    manifest = Bundle(folder).manifest
    serving = PlanServing(("9.0", "8.6"), **changes)
    text = triton_config(GRAPHS[graph], sizes_of(manifest), manifest.profiles, serving)
    return text_format.Parse(text, triton.ModelConfig())


class _Backend:
    """CUDA graphs in Triton's TensorRT backend.

    Attributes:
        captured: for each profile, the sizes of each graph, mapped to the smallest sizes that it serves.
        refused: profile and first size of each graph that the profile does not support. Each is an error in the log.
    """

    def __init__(self, config: Any, profiles: Sequence[Any]) -> None:
        self._profiles = profiles
        self.captured: list[dict[tuple[int, ...], tuple[int, ...]]] = [{} for _ in profiles]
        self.refused: list[tuple[int, int]] = []
        self._inexact = any(spec.HasField("graph_lower_bound") for spec in config.optimization.cuda.graph_spec)
        for spec in config.optimization.cuda.graph_spec:
            lower = spec.graph_lower_bound if spec.HasField("graph_lower_bound") else spec
            batch = [spec.batch_size] if spec.batch_size else []
            sizes = {name: [*batch, *dims.dim] for name, dims in spec.input.items()}
            for number, profile in enumerate(profiles):
                if not all(_fits(sizes[name], shapes) for name, shapes in profile.items()):
                    self.refused.append((number, spec.batch_size))
                    continue
                key, bound = [spec.batch_size], [lower.batch_size or 1]
                for name in profile:
                    key += sizes[name]
                    bound += [bound[0], *lower.input[name].dim]
                self.captured[number][tuple(key)] = tuple(bound)

    def graph(self, batch: int, sizes: dict[str, Sequence[int]]) -> tuple[int, tuple[int, ...] | None]:
        """The profile that runs a request with this many rows, and the sizes of the graph that is launched."""
        whole = {name: [*([batch] if batch else []), *dims] for name, dims in sizes.items()}
        fitting = [n for n, one in enumerate(self._profiles) if all(_fits(whole[name], one[name]) for name in one)]
        number = min(fitting, key=lambda n: abs(next(iter(self._profiles[n].values()))["opt"][0] - batch))
        key = (batch, *(size for name in self._profiles[number] for size in whole[name]))
        graphs = self.captured[number]
        if key in graphs or not self._inexact:
            return number, key if key in graphs else None
        for found in sorted(graph for graph in graphs if graph >= key):
            if all(low <= wanted <= high for low, wanted, high in zip(graphs[found], key, found, strict=True)):
                return number, found
        return number, None


def _fits(sizes: Sequence[int], shapes: dict[str, list[int]]) -> bool:
    return all(low <= size <= high for low, size, high in zip(shapes["min"], sizes, shapes["max"], strict=True))


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_configuration_for_plans(fp16_bundle: Path, graph: str) -> None:
    manifest = Bundle(fp16_bundle).manifest
    before = (fp16_bundle / graph / "config.pbtxt").read_text()
    config = _config(fp16_bundle, graph)
    assert config.backend == "tensorrt"
    assert dict(config.cc_model_filenames) == {"8.6": "model_sm86.plan", "9.0": "model_sm90.plan"}
    assert not config.default_model_filename
    assert _config(fp16_bundle, graph, default="8.6").default_model_filename == "model_sm86.plan"
    assert config.parameters["execution_context_allocation_strategy"].string_value == "ON_PROFILE_CHANGE"
    (group,) = config.instance_group
    assert group.kind == triton.ModelInstanceGroup.KIND_GPU
    assert list(group.profile) == (["0"] if graph == "text_encoder" else ["0", "1"])
    specs = config.optimization.cuda.graph_spec
    sizes = {"image_encoder": [1, 2, 4, 8, 16, 32], "fusion_head": [0]}.get(graph) or [
        manifest.profiles[-1]["prompts"][1],
        manifest.profiles[-1]["prompts"][2],
    ]
    assert [spec.batch_size for spec in specs] == sizes
    assert all(0 not in spec.input[name].dim for spec in specs for name in _shapes(manifest, graph))
    assert config.model_warmup == text_format.Parse(before, triton.ModelConfig()).model_warmup


@pytest.mark.parametrize("graph", GRAPHS)
def test_cuda_graphs_of_triton(fp16_bundle: Path, graph: str) -> None:
    manifest = Bundle(fp16_bundle).manifest
    shapes = _shapes(manifest, graph)
    backend = _Backend(_config(fp16_bundle, graph), profiles_of_graph(shapes, manifest.profiles))
    # The log has the errors that the configuration's comment and the server's README name, and no others.
    assert backend.refused == ([(0, size) for size in (2, 4, 8, 16, 32)] if graph == "image_encoder" else [])
    if graph != "image_encoder":
        return
    pixels = {name: shape[1:] for name, shape in shapes.items()}
    launched = {batch: backend.graph(batch, pixels) for batch in range(1, 33)}
    assert {number for batch, (number, _) in launched.items() if batch == 1} == {0}
    found = {batch: graph[0] if graph else None for batch, (_, graph) in launched.items()}
    assert {batch: found[batch] for batch in range(1, 9)} == {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}
    # Above this size, the added rows would cost more than the launches.
    assert {batch for batch in range(9, 33) if found[batch] is not None} == {16, 32}


def test_texts_of_other_lengths_never_share_a_graph(fp16_bundle: Path) -> None:
    """Rows of another length have another position in memory."""
    manifest = Bundle(fp16_bundle).manifest
    shapes = _shapes(manifest, "text_encoder")
    backend = _Backend(_config(fp16_bundle, "text_encoder"), profiles_of_graph(shapes, manifest.profiles))
    _, common, largest = manifest.profiles[-1]["prompts"]
    length = manifest.profiles[-1]["tokens"][1]
    for prompts in (1, common - 1, common, common + 1, largest):
        for tokens in (length - 1, length, length + 1):
            graph = backend.graph(prompts, {"input_ids": [tokens]})[1]
            wanted = (prompts, prompts, tokens) if prompts in {common, largest} and tokens == length else None
            assert graph == wanted


def _entry(capability: str, **options: Any) -> dict[str, Any]:
    given = {"version_compatible": False, "hardware_compatible": "none", "strip": False, **options}
    return {"engine": "tensorrt", "library": "11.4", "compute_capabilities": [capability], "options": given}


@pytest.mark.parametrize(
    ("plans", "names", "default"),
    [
        ([_entry("9.0"), _entry("8.6")], {"8.6", "9.0"}, ""),
        ([_entry("9.0"), _entry("8.6", hardware_compatible="ampere+")], {"8.6", "9.0"}, "model_sm86.plan"),
        ([_entry("12.0", hardware_compatible="ampere+")], {"12.0"}, "model_sm120.plan"),
        ([_entry("8.6", hardware_compatible="same-capability")], {"8.6"}, ""),
        ([_entry("9.0"), _entry("8.6", strip=True, hardware_compatible="ampere+")], {"9.0"}, ""),
    ],
)
def test_plans_that_the_server_is_told_of(
    fp16_bundle: Path, tmp_path: Path, plans: list[dict[str, Any]], names: set[str], default: str
) -> None:
    folder = bundles.copied(fp16_bundle, tmp_path / "bundle")
    write_records(folder, replace(Bundle(folder).manifest, plans=plans, engine=TENSORRT))
    Bundle(folder).require_servable()
    for graph in GRAPHS:
        config = text_format.Parse((folder / graph / "config.pbtxt").read_text(), triton.ModelConfig())
        assert set(config.cc_model_filenames) == names
        assert config.default_model_filename == default


def test_plans_without_weights_are_not_served(fp16_bundle: Path, tmp_path: Path) -> None:
    """Triton does not restore the weights. A server that is started by hand finds the graphs."""
    folder = bundles.copied(fp16_bundle, tmp_path / "bundle")
    before = {graph: (folder / graph / "config.pbtxt").read_text() for graph in GRAPHS}
    write_records(folder, replace(Bundle(folder).manifest, plans=[_entry("9.0", strip=True)], engine=TENSORRT))
    assert {graph: (folder / graph / "config.pbtxt").read_text() for graph in GRAPHS} == before
    assert Bundle(folder).manifest.engine["name"] == "tensorrt"
    with pytest.raises(UsageError, match="--strip"):
        Bundle(folder).require_servable()
