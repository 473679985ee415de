"""Probes and names of metrics, tested on a real server. Rules and dashboard, tested in a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from lrclr import Bundle
from lrclr.cli import main
from lrclr.deploy import DeployOptions, write_kubernetes
from lrclr.errors import BundleError, ImageError
from lrclr.images import read_image
from lrclr.samples import sample_paths
from lrclr.triton.client import Client
from lrclr.triton.server import ServeOptions, TritonServer
from tests import bundles
from tests.deploy.charts import of_kind, templates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.triton
IMAGE = "registry.example/lrclr:0.1.0"
METRIC = re.compile(r"\b(?:nv|lrclr)_[a-z_]+\b(?!\")")


def fetched(address: str, path: str, *, timeout: float = 10) -> tuple[int, str]:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=timeout) as response:
        return int(response.status), response.read().decode()


def questions(folder: Path) -> dict[str, str]:
    """All expressions for Prometheus, Grafana and the autoscaler, by where they are used."""
    rules = of_kind(folder, "PrometheusRule", monitoring=True)["spec"]["groups"][0]["rules"]
    board = json.loads(of_kind(folder, "ConfigMap", monitoring=True)["data"]["lrclr.json"])
    (adapter,) = yaml.safe_load(templates(folder)["NOTES.txt"].partition("\n\n- ")[2].join(["- ", ""]))
    found = {rule["alert"]: rule["expr"] for rule in rules}
    for panel in board["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']}, {target['refId']}"] = target["expr"].replace("$__rate_interval", "30s")
    found["series of the autoscaler"] = adapter["seriesQuery"]
    labels = re.search(r"{(.*)}", adapter["seriesQuery"])
    assert labels is not None
    query = adapter["metricsQuery"].replace("<<.GroupBy>>", "namespace, pod")
    found["autoscaler"] = query.replace("<<.LabelMatchers>>", labels[1])
    return found


@pytest.fixture(scope="module")
def written(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that `lrclr deploy` writes."""
    out = tmp_path_factory.mktemp("deployed") / "out"
    write_kubernetes(folder, out, DeployOptions(IMAGE))
    return out


def ask(server: TritonServer, times: int = 4) -> None:
    """Send requests that are answered, one with a warning, and a request that is refused."""
    with Client(server.grpc) as client:
        for _ in range(times):
            client.predict([*sample_paths()[:2], 255 - read_image(sample_paths()[0])])
        with pytest.raises(ImageError):
            client.predict([b"no radiograph"])


def test_every_metric_that_is_asked_for_is_exported(server: TritonServer, written: Path) -> None:
    assert server.metrics is not None
    ask(server)
    exported = set(re.findall(r"^([a-z_]+)(?:{| )", fetched(server.metrics, "/metrics")[1], re.MULTILINE))
    asked = {name for question in questions(written).values() for name in METRIC.findall(question)}
    assert {"nv_inference_queue_duration_us", "lrclr_failures_total"} <= asked
    assert asked <= exported


@pytest.mark.slow
def test_probe(server: TritonServer, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = Bundle(folder).sha256
    assert main(["probe", server.grpc, "--expect", digest, "--timeout", "7"]) == 0
    assert digest in capsys.readouterr().out
    assert main(["probe", server.grpc, "--expect", "0" * 64]) == 1
    assert "serves another bundle" in capsys.readouterr().err
    assert main(["probe", f"127.0.0.1:{bundles.free_ports(1)[0]}", "--timeout", "3"]) == 1
    assert main(["probe", server.grpc, "--expect", "abc"]) == 2


@pytest.mark.slow
def test_a_busy_server_is_alive(server: TritonServer, folder: Path) -> None:
    """The liveness probe does not wait in a queue, however long the queue is."""
    assert server.http is not None
    over = threading.Event()
    answered = []

    def load() -> None:
        with Client(server.grpc) as client:
            while not over.is_set():
                answered.append(client.predict(sample_paths() * 2))

    with ThreadPoolExecutor(12) as pool:
        asking = [pool.submit(load) for _ in range(12)]
        try:
            for _ in range(10):
                assert fetched(server.http, "/v2/health/live")[0] == 200
                time.sleep(0.1)
            probe = bundles.run(["probe", server.grpc, "--expect", Bundle(folder).sha256, "--timeout", 60])
        finally:
            over.set()
        for one in asking:
            one.result()
    assert probe.returncode == 0, probe.stderr
    assert answered


@pytest.mark.slow
def test_a_server_takes_no_other_bundle_than_expected(folder: Path, tmp_path: Path) -> None:
    from lrclr.evaluation import store

    bundle = bundles.copied(folder, tmp_path / "bundle")
    with pytest.raises(BundleError, match="not the bundle that was expected"):
        TritonServer(bundle, ServeOptions(expect="0" * 64))
    options = ServeOptions(grpc_port=0, http=False, metrics=False, instances=1, expect=Bundle(bundle).sha256)
    with TritonServer(bundle, options) as server:
        store(bundle, alpha=0.1, score_scale=5.0)
        with pytest.raises(BundleError, match="not the bundle that was expected"):
            server.reload()
        server.check()


@contextmanager
def prometheus(server: TritonServer, rules: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """A Prometheus that reads the server as a pod. Returns its address."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no Prometheus here: apt-get install prometheus")
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    pods = [{"targets": [server.metrics], "labels": {"namespace": "default", "pod": "lrclr-7d9c-x2x5b"}}]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [{"job_name": "pods", "static_configs": pods}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{bundles.free_ports(1)[0]}"
    command = [program, f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield address
    finally:
        process.terminate()
        process.wait()


def evaluated(address: str, question: str) -> list[Any]:
    query = urllib.parse.urlencode({"query": question})
    answer = json.loads(fetched(address, f"/api/v1/query?{query}")[1])
    assert answer["status"] == "success"
    return list(answer["data"]["result"])


@pytest.mark.slow
def test_a_real_prometheus_answers_every_question(server: TritonServer, written: Path, tmp_path: Path) -> None:
    ask(server)
    with prometheus(server, of_kind(written, "PrometheusRule", monitoring=True)["spec"], tmp_path) as address:
        ready = False
        while not ready:
            # Rates need growth between two readings.
            ask(server, 8)
            time.sleep(1.5)
            try:
                ready = len(evaluated(address, "lrclr_images_total offset 6s")) == 1
            except OSError:
                continue
        asked = questions(written)
        rules = json.loads(fetched(address, "/api/v1/rules")[1])["data"]["groups"][0]["rules"]
        alerts = {rule["name"]: rule for rule in rules}
        assert all(rule["health"] == "ok" for rule in rules)
        for name, question in asked.items():
            if name not in alerts:
                values = [float(one["value"][1]) for one in evaluated(address, question)]
                # A mean over zero requests is not a number.
                assert any(value >= 0 for value in values), f"{name}: {question}"
                assert not any(value < 0 for value in values)
        (waiting,) = evaluated(address, asked["autoscaler"])
        assert waiting["metric"] == {"namespace": "default", "pod": "lrclr-7d9c-x2x5b"}
        # No alert fires, except for the invalid request, which its sender caused.
        assert not evaluated(address, asked["LrclrGone"])
        assert not evaluated(address, asked["LrclrFails"])
        assert not evaluated(address, asked["LrclrSilent"])
