"""A real server of an ensemble. Clients need not know that it is an ensemble."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from lrclr import Bundle, ZeroShotClassifier
from lrclr.auto import open_model
from lrclr.deploy import DeployOptions

# Private: memory is computed from these facts.
from lrclr.deploy._facts import Facts
from lrclr.deploy._resources import memory_mib
from lrclr.errors import UsageError
from lrclr.samples import sample_paths
from lrclr.triton.client import Client
from lrclr.triton.server import ServeOptions, TritonServer
from lrclr.verification import verify
from tests import bundles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ANY_PORTS = ServeOptions(grpc_port=0, http_port=0, metrics_port=0, instances=2)


@pytest.fixture(scope="module")
def folder(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.exported_ensemble(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[TritonServer]:
    with TritonServer(folder, replace(ANY_PORTS)) as running:
        yield running


def test_answers_equal_those_without_a_server(server: TritonServer, folder: Path) -> None:
    local = ZeroShotClassifier.from_bundle(folder)
    images = list(sample_paths())
    with Client(server.grpc) as client:
        described = client.describe()
        assert (described["members"], described["regions_from"]) == (["one", "other"], "other")
        # Twice: the second time, the prompts are cached.
        for alpha in (None, 0.0):
            assert client.predict(images, alpha=alpha) == local.predict(images, alpha=alpha)
        reply = client.ask(images[:1], heatmap=True)
        assert reply.bundle == Bundle(folder).sha256
        assert reply.heatmaps[0].startswith(b"\x89PNG")
        assert reply.predictions[0].findings[0].probability_spread
        with pytest.raises(UsageError, match="alpha is 2"):
            client.predict(images, alpha=2.0)


def test_the_members_on_the_server_pass_the_gates(server: TritonServer, folder: Path) -> None:
    model = open_model(folder, server=server.grpc)
    verify(model.bundle, model.engine).require()
    pixels = np.random.default_rng(0).standard_normal((2, 3, *[model.spec.preprocess.image_size] * 2))
    answers = model.answer_pixels(pixels.astype(np.float32))
    assert answers.probability_spread is not None
    # As an engine, the server runs the member that gives the regions.
    index = model.engine.run("image_encoder", {"pixel_values": pixels.astype(np.float32)})["region_index"]
    np.testing.assert_array_equal(index, answers.region_index)


@pytest.mark.slow
def test_its_models_can_be_loaded_again(server: TritonServer, folder: Path) -> None:
    server.mend()
    server.check()
    with Client(server.grpc) as client:
        assert len(client.predict(list(sample_paths()))) == len(sample_paths())


def test_a_deployment_counts_all_members(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    options = DeployOptions("registry.example/lrclr:1")
    ensemble = Facts.of(Bundle(folder), options)
    single = Facts.of(Bundle(bundles.exported(tmp_path_factory.getbasetemp(), "fp32")), options)
    assert ensemble.members == 2 * single.members
    for name in ("graph_bytes", "feature_bytes", "activation_bytes"):
        assert getattr(ensemble, name) == pytest.approx(2 * getattr(single, name), rel=0.01)
    assert memory_mib(ensemble) > memory_mib(single)
