"""Bundles with prefixed names: two in one Triton server that users set up, and one with `lrclr serve`."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from lrclr import Bundle, ZeroShotClassifier
from lrclr.auto import open_model
from lrclr.cli import main
from lrclr.errors import ServerError, ServerUnavailableError
from lrclr.evaluation import store
from lrclr.samples import sample_paths
from lrclr.triton.client import Client, ClientOptions
from lrclr.triton.server import TritonServer

# Private: whether a Triton server is installed decides whether tests are skipped.
from lrclr.triton.server._locate import find_server
from tests import bundles
from tests.triton.conftest import ANY_PORTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lrclr import Prediction

Capture = pytest.CaptureFixture[str]
FILES = sample_paths()[:2]
PREFIXES = {"chest_": 3, "Other-2": 1}


@pytest.fixture(scope="module")
def pair(quiet_transformers: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two bundles with different answers, by prefix."""
    root, original = tmp_path_factory.mktemp("pair"), bundles.exported(tmp_path_factory.getbasetemp(), "fp32")
    made = {prefix: bundles.renamed(original, root / prefix, prefix, version) for prefix, version in PREFIXES.items()}
    store(made["chest_"], alpha=None, score_scale=4.0, score_bias=-0.4)
    return made


@pytest.fixture(scope="module")
def ports(pair: dict[str, Path]) -> Iterator[tuple[int, int, int]]:
    """Ports for gRPC, HTTP and metrics of a server that serves both folders unchanged."""
    installation = find_server()
    grpc_port, http_port, metrics_port = bundles.free_ports(3)
    command = [str(installation.program), *(f"--model-repository={folder}" for folder in pair.values())]
    command += [f"--grpc-port={grpc_port}", f"--http-port={http_port}", f"--metrics-port={metrics_port}"]
    command += ["--grpc-address=127.0.0.1", "--http-address=127.0.0.1", "--metrics-address=127.0.0.1"]
    command += ["--exit-timeout-secs=3"]
    command += [f"--backend-directory={installation.backends}"] if installation.backends else []
    process = subprocess.Popen(
        command, env=installation.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
            deadline = time.monotonic() + 120
            while not _is_ready(client):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield grpc_port, http_port, metrics_port
    finally:
        process.terminate()
        process.wait(timeout=60)


def _is_ready(client: grpc.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except InferenceServerException:
        return False


def numbers(predictions: list[Prediction]) -> np.ndarray:
    return np.array([[finding.probability for finding in one.findings] for one in predictions])


@pytest.mark.parametrize("prefix", PREFIXES)
def test_each_bundle_answers_under_its_own_name(
    prefix: str, pair: dict[str, Path], ports: tuple[int, int, int]
) -> None:
    expected = numbers(ZeroShotClassifier.from_bundle(pair[prefix]).predict(FILES))
    with Client(f"127.0.0.1:{ports[0]}", ClientOptions(model=f"{prefix}lrclr")) as client:
        reply = client.ask(FILES)
        assert client.ready()
        assert client.describe()["bundle"] == Bundle(pair[prefix]).sha256
    assert reply.bundle == Bundle(pair[prefix]).sha256
    assert np.allclose(numbers(reply.predictions), expected, atol=1e-6)
    there = open_model(pair[prefix], server=f"127.0.0.1:{ports[0]}")
    assert np.allclose(numbers(there.predict(FILES)), expected, atol=1e-6)


@pytest.mark.slow
def test_the_server_says_names_versions_and_counts_by_model(ports: tuple[int, int, int]) -> None:
    for prefix, version in PREFIXES.items():
        for model in ("lrclr", "image_encoder"):
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/v2/models/{prefix}{model}") as page:
                described = json.load(page)
            assert described["name"] == f"{prefix}{model}"
            assert described["versions"] == [str(version)]
        with Client(f"127.0.0.1:{ports[0]}", ClientOptions(model=f"{prefix}lrclr")) as client:
            client.predict(FILES[:1])
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[2]}/metrics") as page:
            metrics = page.read().decode()
        assert f'lrclr_images_total{{model="{prefix}lrclr"}}' in metrics


def test_commands_name_the_model(pair: dict[str, Path], ports: tuple[int, int, int], capsys: Capture) -> None:
    address, prefix = f"127.0.0.1:{ports[0]}", "Other-2"
    ask = ["predict", str(FILES[0]), "--server", address]
    assert main([*ask, "--model-name", f"{prefix}lrclr", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"]
    digest = Bundle(pair[prefix]).sha256
    assert main(["probe", address, "--model-name", f"{prefix}lrclr", "--expect", digest]) == 0
    assert main(["probe", address, "--model-name", "chest_lrclr", "--expect", digest]) == 1
    assert main(["probe", address]) == 1
    assert "--model-name PREFIXlrclr" in " ".join(capsys.readouterr().err.split())
    assert main([*ask, "--model-name", "resnet"]) == 2
    assert main(["predict", str(FILES[0]), "-b", str(pair[prefix]), "--model-name", f"{prefix}lrclr"]) == 2
    with pytest.raises(ServerUnavailableError, match="--model-name"):
        Client(address, ClientOptions(retries=0)).predict(FILES)


@pytest.mark.slow
def test_serving_as_it_is_leaves_the_bundles_whole(pair: dict[str, Path], ports: tuple[int, int, int]) -> None:
    """Python writes no compiled code into the folders, so they can be served again."""
    for folder in pair.values():
        Bundle(folder)


@pytest.mark.slow
def test_lrclr_serve_keeps_the_names_and_goes_on_from_the_version(pair: dict[str, Path], tmp_path: Path) -> None:
    folder = bundles.copied(pair["chest_"], tmp_path / "served")
    with TritonServer(folder, replace(ANY_PORTS, instances=1)) as server:
        assert server.model == "chest_lrclr"
        options = ClientOptions(model=server.model)
        with Client(server.grpc, options) as client:
            before = client.predict(FILES)
            store(folder, alpha=None, score_scale=1.0, score_bias=0.0)
            assert server.reload() == 4
            assert numbers(client.predict(FILES)) != pytest.approx(numbers(before), abs=1e-3)
            server.mend()
            assert client.ask(FILES).bundle == Bundle(folder).sha256
        other = bundles.renamed(folder, tmp_path / "other", "new_")
        shutil.rmtree(folder)
        other.rename(folder)
        with pytest.raises(ServerError, match="names begin with 'new_', and the server's with 'chest_'"):
            server.reload()
