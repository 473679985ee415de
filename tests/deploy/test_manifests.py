"""Charts of `lrclr deploy`, rendered by Helm: schemas, one golden file, and requirements of every pod."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from helm_python import HelmValuesError

from lrclr import Bundle
from lrclr.deploy import DeployOptions, write_kserve, write_kubernetes
from lrclr.errors import UsageError
from tests import bundles
from tests.deploy.charts import MONITORING, objects, of_kind, templates
from tests.deploy.schemas import check_core, check_kserve

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent / "deployment.yaml"
IMAGE = "registry.example/lrclr:0.1.0"
DIGEST = "sha256:" + "0123456789abcdef" * 4
# Replaces the hash of the bundle, which depends on the versions in its manifest.
UNKNOWN = "0" * 64
WRITERS: dict[str, Callable[..., list[Path]]] = {"kubernetes": write_kubernetes, "kserve": write_kserve}


def pod(folder: Path) -> dict[str, Any]:
    """The pod's spec. KServe's is combined from its two parts."""
    if yaml.safe_load((folder / "values.yaml").read_text())["platform"] == "kubernetes":
        return dict(of_kind(folder, "Deployment")["spec"]["template"]["spec"])
    runtime, predictor = of_kind(folder, "ServingRuntime"), of_kind(folder, "InferenceService")["spec"]["predictor"]
    kserves = {"model", "minReplicas", "maxReplicas", "labels", "annotations", "deploymentStrategy"}
    halves = [runtime["spec"], {name: value for name, value in predictor.items() if name not in kserves}]
    theirs = {"supportedModelFormats", "protocolVersions", "multiModel"}
    return {name: value for half in halves for name, value in half.items() if name not in theirs}


def with_plans(folder: Path, target: Path, *capabilities: str, hardware: str = "none") -> Path:
    """A copy of a bundle whose manifest says that TensorRT serves it with plans for these GPUs."""
    bundle = bundles.copied(folder, target)
    plans = [
        {
            "engine": "tensorrt",
            "library": "10.16.0",
            "compute_capabilities": [one],
            "options": {"hardware_compatible": hardware, "version_compatible": False, "strip": False},
            "graphs": {},
        }
        for one in capabilities
    ]
    return bundles.signed(bundle, engine={"name": "tensorrt", "why": "asked for"}, plans=plans)


def test_plans_without_weights_are_not_deployed(folder: Path, tmp_path: Path) -> None:
    """Triton would run them without weights."""
    bundle = with_plans(folder, tmp_path / "bundle", "9.0")
    (entry,) = Bundle(bundle).manifest.plans
    bundles.signed(bundle, plans=[{**entry, "options": {**entry["options"], "strip": True}}])
    with pytest.raises(UsageError, match="--strip"):
        write_kubernetes(bundle, tmp_path / "out", DeployOptions(IMAGE))
    assert not (tmp_path / "out").exists()


def test_golden_deployment(folder: Path, tmp_path: Path) -> None:
    write_kubernetes(folder, tmp_path / "out", DeployOptions(IMAGE))
    text = templates(tmp_path / "out")["deployment.yaml"].replace(Bundle(folder).sha256, UNKNOWN)
    if os.environ.get("LRCLR_WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text(), "LRCLR_WRITE_GOLDEN=1 writes it anew"


@pytest.mark.parametrize("target", WRITERS)
def test_the_same_bytes_again(folder: Path, tmp_path: Path, target: str) -> None:
    options = DeployOptions(IMAGE, name="x-ray", gpu=True, min_replicas=3)
    for name in ("one", "two"):
        WRITERS[target](folder, tmp_path / name, options)
    assert bundles.digests(tmp_path / "one") == bundles.digests(tmp_path / "two")


OPTIONS: list[dict[str, Any]] = [
    {},
    {"gpu": True, "pull_secret": "registry", "service_account": "reader", "name": "x-ray", "instances": 3},
    {"source": f"oci://registry.example/models/lrclr@{DIGEST}", "memory": "12Gi", "cpu": "500m", "waiting": 9},
    {"source": "pvc://models/lrclr/2026-11", "clients": "clinic/role=viewer", "gpu_resource": "nvidia.com/mig-1g.10gb"},
]
STORE: dict[str, Any] = {
    "source": "s3://models/lrclr",
    "fetch_image": "registry.example/rclone:1.75",
    "secret": "store-keys",
}


@pytest.mark.parametrize("changes", [*OPTIONS, STORE])
def test_schema_of_kubernetes(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    write_kubernetes(folder, tmp_path / "out", DeployOptions(IMAGE, **changes))
    kinds = []
    for manifest in objects(tmp_path / "out"):
        check_core(manifest)
        kinds.append(manifest["kind"])
    expected = ["HorizontalPodAutoscaler", "Deployment", "PodDisruptionBudget", "NetworkPolicy", "Service", "Service"]
    assert sorted(kinds) == sorted(expected)


@pytest.mark.parametrize("changes", [*OPTIONS, {"source": "s3://models/lrclr", "service_account": "reader"}])
def test_schema_of_kserve(folder: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    write_kserve(folder, tmp_path / "out", DeployOptions(IMAGE, **changes))
    for manifest in objects(tmp_path / "out"):
        if manifest["apiVersion"].startswith("serving.kserve.io/"):
            check_kserve(manifest)
        else:
            check_core(manifest)
    check_core({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "both"}, "spec": pod(tmp_path / "out")})


def test_the_schemas_can_refuse(folder: Path, tmp_path: Path) -> None:
    write_kubernetes(folder, tmp_path / "k", DeployOptions(IMAGE))
    deployment = of_kind(tmp_path / "k", "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readyProbe"] = {}
    with pytest.raises(Exception, match="readyProbe"):
        check_core(deployment)
    write_kserve(folder, tmp_path / "s", DeployOptions(IMAGE))
    service = of_kind(tmp_path / "s", "InferenceService")
    wrong = copy.deepcopy(service)
    wrong["spec"]["predictor"]["minReplicas"] = "two"
    for changed in (wrong, {**service, "spec": {"predictors": {}}}):
        with pytest.raises(AssertionError, match=r"not a|no "):
            check_kserve(changed)


@pytest.mark.parametrize("target", WRITERS)
@pytest.mark.parametrize("changes", [{}, {"gpu": True}, {"source": "s3://models/lrclr"}])
def test_every_container_is_closed_in(folder: Path, tmp_path: Path, target: str, changes: dict[str, Any]) -> None:
    if target == "kubernetes" and "source" in changes:
        changes = STORE
    WRITERS[target](folder, tmp_path / "out", DeployOptions(IMAGE, **changes))
    spec = pod(tmp_path / "out")
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    kinds = {one["name"]: next(kind for kind in one if kind != "name") for one in spec["volumes"]}
    for one in [*spec.get("initContainers", []), *spec["containers"]]:
        assert one["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in one["resources"]["limits"]
        for mount in one["volumeMounts"]:
            assert kinds[mount["name"]] == "emptyDir" or mount["readOnly"] is True
    (server,) = spec["containers"]
    assert {"/tmp", "/dev/shm"} <= {mount["mountPath"] for mount in server["volumeMounts"]}
    memory = {one["name"]: one.get("emptyDir", {}) for one in spec["volumes"]}
    assert memory["shm"]["medium"] == "Memory"
    assert all(one.get("sizeLimit") for one in memory.values() if one)


@pytest.mark.parametrize("target", WRITERS)
def test_the_bundle_is_the_one_that_was_checked(folder: Path, tmp_path: Path, target: str) -> None:
    WRITERS[target](folder, tmp_path / "out", DeployOptions(IMAGE))
    spec, digest = pod(tmp_path / "out"), Bundle(folder).sha256
    (server,) = spec["containers"]
    assert server["args"][server["args"].index("--expect") + 1] == digest
    for probe in ("startupProbe", "readinessProbe"):
        command = server[probe]["exec"]["command"]
        assert command[command.index("--expect") + 1] == digest
    if target == "kubernetes":
        assert spec["initContainers"][-1]["args"][-2:] == ["--expect", digest]
        # Runs the script of the pod's init container here.
        arguments = [str(folder) if one == "/bundle" else one for one in spec["initContainers"][-1]["args"]]
        assert bundles.call(*arguments).returncode == 0
        arguments[-1] = UNKNOWN
        refused = bundles.call(*arguments)
        assert refused.returncode == 1
        assert "is not the bundle that was expected" in refused.stderr


def test_ends_fit_into_each_other(folder: Path, tmp_path: Path) -> None:
    write_kubernetes(folder, tmp_path / "out", DeployOptions(IMAGE, exit_timeout=90))
    deployment = of_kind(tmp_path / "out", "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    (server,) = spec["containers"]
    before = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    told = int(server["args"][server["args"].index("--exit-timeout") + 1])
    # `lrclr serve` gives the server 7 s in addition to the time for requests in flight.
    assert told == 90
    assert spec["terminationGracePeriodSeconds"] > before + told + 7
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    startup = server["startupProbe"]["periodSeconds"] * server["startupProbe"]["failureThreshold"]
    assert startup > int(server["args"][server["args"].index("--startup-timeout") + 1])


@pytest.mark.parametrize(
    ("capabilities", "hardware", "wanted"),
    [
        (("8.6",), "none", [("major", "In", "8"), ("minor", "In", "6")]),
        (
            ("8.9", "12.0"),
            "none",
            [("major", "In", "8"), ("minor", "In", "9"), ("major", "In", "12"), ("minor", "In", "0")],
        ),
        (("8.0",), "ampere+", [("major", "Gt", "7")]),
    ],
)
@pytest.mark.parametrize("target", WRITERS)
def test_plans_choose_the_node(
    folder: Path, tmp_path: Path, target: str, capabilities: tuple[str, ...], hardware: str, wanted: list[Any]
) -> None:
    bundle = with_plans(folder, tmp_path / "bundle", *capabilities, hardware=hardware)
    WRITERS[target](bundle, tmp_path / "out", DeployOptions(IMAGE))
    spec = pod(tmp_path / "out")
    check_core({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": spec})
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    found = [
        (one["key"].rpartition(".")[2], one["operator"], one["values"][0])
        for term in terms
        for one in term["matchExpressions"]
    ]
    assert found == wanted
    with pytest.raises(UsageError, match="needs a GPU"):
        WRITERS[target](bundle, tmp_path / "none", DeployOptions(IMAGE, gpu=False))


def test_memory_follows_what_the_server_does(folder: Path, tmp_path: Path) -> None:
    def limit(**changes: Any) -> int:
        write_kubernetes(folder, tmp_path / "out", DeployOptions(IMAGE, **changes))
        text = pod(tmp_path / "out")["containers"][0]["resources"]["limits"]["memory"]
        return int(text.removesuffix("Mi"))

    assert limit(instances=2) < limit(instances=8) < limit(instances=8, gpu=True)
    # More than the measured memory of a server of the default bundle; see `_resources`.
    assert limit(instances=2) > 2041
    assert limit(instances=8) > 5507
    write_kubernetes(folder, tmp_path / "own", DeployOptions(IMAGE, memory="3Gi"))
    assert pod(tmp_path / "own")["containers"][0]["resources"]["limits"]["memory"] == "3Gi"


@pytest.mark.parametrize("cpu", ["2", "0.5", "500m", "1.25"])
def test_numbers_of_processors(cpu: str) -> None:
    assert DeployOptions(IMAGE, cpu=cpu).cpu == cpu


def test_openvino_needs_no_gpu(folder: Path, tmp_path: Path) -> None:
    bundle = bundles.signed(
        bundles.copied(folder, tmp_path / "bundle"), engine={"name": "openvino", "why": "asked for"}
    )
    write_kubernetes(bundle, tmp_path / "out", DeployOptions(IMAGE))
    assert "nvidia.com/gpu" not in pod(tmp_path / "out")["containers"][0]["resources"]["limits"]


def test_a_chart_in_the_bundle_would_damage_it(folder: Path) -> None:
    with pytest.raises(UsageError, match="is inside"):
        write_kubernetes(folder, folder / "chart", DeployOptions(IMAGE))
    assert not (folder / "chart").exists()


def test_only_what_is_needed_comes_in_or_out(folder: Path, tmp_path: Path) -> None:
    write_kubernetes(folder, tmp_path / "out", DeployOptions(IMAGE, clients="role=viewer", monitoring="watch"))
    policy = of_kind(tmp_path / "out", "NetworkPolicy")["spec"]
    assert policy["egress"] == []
    asking, watching = policy["ingress"]
    assert asking["from"] == [{"podSelector": {"matchLabels": {"role": "viewer"}}}]
    assert [one["port"] for one in asking["ports"]] == [8001, 8000]
    assert watching["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "watch"}
    assert [one["port"] for one in watching["ports"]] == [8002]
    write_kubernetes(folder, tmp_path / "store", DeployOptions(IMAGE, **STORE))
    egress = of_kind(tmp_path / "store", "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for one in egress for port in one["ports"]} == {53, 443}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "LRCLR"}, "is not a valid name"),
        ({"name": "a" * 41}, "at most 40"),
        ({"name": "lrclr\n"}, "is not a valid name"),
        ({"name": "-lrclr"}, "is not a valid name"),
        ({"name": "1lrclr"}, "is not a valid name"),
        ({"monitoring": ""}, "namespace"),
        ({"image": "lrclr; rm -rf /"}, "not an image reference"),
        ({"image": ""}, "not an image reference"),
        ({"memory": "lots"}, "not an amount of memory"),
        ({"memory": "1m"}, "not an amount of memory"),
        ({"memory": "4"}, "cannot run with 4 of memory"),
        ({"memory": "64Mi"}, "cannot run with 64Mi of memory"),
        ({"cpu": "-1"}, "not a number of processors"),
        ({"cpu": "0.0"}, "not a number of processors"),
        ({"cpu": "6Gi"}, "not a number of processors"),
        ({"clients": f"{'a' * 254}/role=viewer"}, "not a label"),
        ({"gpu_resource": f"{'a' * 254}/gpu"}, "not a resource"),
        ({"clients": "viewer"}, "not a label"),
        ({"gpu_resource": "gpu"}, "not a resource"),
        ({"source": "https://user:hunter2@host/bundle"}, "source of the bundle is not valid"),
        ({"source": "s3://bucket/../other"}, "source of the bundle is not valid"),
        ({"source": "oci://registry.example/lrclr:latest"}, "no digest"),
        ({"source": "pvc://Claim"}, "claim"),
        ({"fetch_image": "rclone"}, "only for s3://"),
        ({"min_replicas": 9}, "above"),
        ({"instances": 0}, "cannot be 0"),
        ({"exit_timeout": 0}, "cannot be 0"),
        ({"secret": "AKIA+hunter2=="}, "the secret is not a valid name"),
    ],
)
def test_wrong_options(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        DeployOptions(**{"image": IMAGE, **changes})
    assert "hunter2" not in str(caught.value)


def test_a_store_needs_somebody_who_fetches(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a container that downloads"):
        write_kubernetes(folder, tmp_path / "out", DeployOptions(IMAGE, source="s3://models/lrclr"))
    with pytest.raises(UsageError, match="KServe downloads the bundle itself"):
        write_kserve(folder, tmp_path / "out", DeployOptions(IMAGE, **STORE))
    assert not (tmp_path / "out").exists()


def test_secrets_are_named_and_not_held(folder: Path, tmp_path: Path) -> None:
    write_kubernetes(folder, tmp_path / "out", DeployOptions(IMAGE, **STORE))
    fetch, check = pod(tmp_path / "out")["initContainers"]
    assert fetch["envFrom"] == [{"secretRef": {"name": "store-keys"}}]
    assert "envFrom" not in check
    assert "envFrom" not in pod(tmp_path / "out")["containers"][0]
    assert not any(one["kind"] == "Secret" for one in objects(tmp_path / "out"))


def test_a_folder_of_somebody_else_is_left_alone(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_kubernetes(folder, out, DeployOptions(IMAGE))
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=out, capture_output=True, check=False)
    assert done.returncode == 0
    # A folder that the command wrote is replaced, also by the other kind of chart.
    write_kserve(folder, out, DeployOptions(IMAGE))
    write_kubernetes(folder, out, DeployOptions(IMAGE))
    assert not any(one["kind"] == "InferenceService" for one in objects(out))
    before = bundles.digests(out)
    for name, content in (("values.yaml", "changed: by hand\n"), ("templates/own.yaml", ""), ("secret.yaml", "")):
        old = (out / name).read_text() if (out / name).exists() else None
        (out / name).write_text(content)
        with pytest.raises(UsageError, match=f"cannot be written to.*{re.escape(name)}"):
            write_kubernetes(folder, out, DeployOptions(IMAGE, name="other"))
        assert (out / name).read_text() == content
        (out / name).unlink() if old is None else (out / name).write_text(old)
    assert bundles.digests(out) == before
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "values.yaml").write_text("own: 1\n")
    with pytest.raises(UsageError, match="cannot be written to"):
        write_kubernetes(folder, strange, DeployOptions(IMAGE))


def test_the_command(folder: Path, tmp_path: Path) -> None:
    done = bundles.call("deploy", "kubernetes", folder, "-o", tmp_path / "k", "--image", IMAGE, "--name", "x-ray")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'k' / 'values.yaml'}\n" in done.stdout
    write_kubernetes(folder, tmp_path / "same", DeployOptions(IMAGE, name="x-ray"))
    assert bundles.digests(tmp_path / "k") == bundles.digests(tmp_path / "same")
    for arguments, code, said in (
        (["kubernetes", folder, "-o", tmp_path / "n", "--image", IMAGE, "--name", "X"], 2, "is not a valid name"),
        (["kserve", tmp_path / "none", "-o", tmp_path / "n", "--image", IMAGE], 1, "is not a bundle"),
        (["kserve", folder, "-o", tmp_path / "n"], 2, "--image"),
    ):
        wrong = bundles.call("deploy", *arguments)
        assert wrong.returncode == code
        assert said in wrong.stderr
    assert not (tmp_path / "n").exists()


def test_a_damaged_bundle_is_not_deployed(folder: Path, tmp_path: Path) -> None:
    damaged = bundles.copied(folder, tmp_path / "damaged")
    bundles.flip(damaged / "golden.npz")
    done = bundles.call("deploy", "kserve", damaged, "-o", tmp_path / "out", "--image", IMAGE)
    assert done.returncode == 1
    assert "damaged" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", WRITERS)
def test_monitoring_is_for_clusters_that_have_it(folder: Path, tmp_path: Path, target: str) -> None:
    WRITERS[target](folder, tmp_path / "out", DeployOptions(IMAGE, name="x-ray"))
    plain = {one["kind"] for one in objects(tmp_path / "out")}
    assert {one["kind"] for one in objects(tmp_path / "out", monitoring=True)} - plain == MONITORING
    board = json.loads(of_kind(tmp_path / "out", "ConfigMap", monitoring=True)["data"]["x-ray.json"])
    assert "@" not in json.dumps(board)
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in board["panels"]]
    assert len(set(places)) == len(places) == len({one["id"] for one in board["panels"]})
    assert all(x + 8 <= 24 for x, _ in places)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image": 7}, "image"),
        ({"bundle": {"sha256": "latest"}}, "sha256"),
        ({"platform": "swarm"}, "platform"),
        ({"replicas": 3}, "replicas"),
        ({"server": {"exitTimeout": 0}}, "exitTimeout"),
    ],
)
def test_wrong_values_are_refused(folder: Path, tmp_path: Path, values: dict[str, Any], said: str) -> None:
    write_kubernetes(folder, tmp_path / "out", DeployOptions(IMAGE))
    with pytest.raises(HelmValuesError, match=said):
        templates(tmp_path / "out", **values)
