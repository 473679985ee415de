"""The pod: one server of one bundle. Both ways to deploy use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lrclr.deploy._resources import resources, shared_memory, temporary

if TYPE_CHECKING:
    from lrclr.deploy._facts import Facts
    from lrclr.deploy._options import DeployOptions
    from lrclr.deploy._source import Source

__all__ = [
    "GRPC",
    "HTTP",
    "METRICS",
    "affinity",
    "container",
    "described",
    "grace_seconds",
    "init_containers",
    "labels",
    "pod_security",
    "selector",
    "spread",
    "volumes",
]

GRPC, HTTP, METRICS = 8001, 8000, 8002
# The user of the vendor's image. A number: the kubelet cannot tell of a name whether it is root.
_USER: Final = 1000
_TMP: Final = "/tmp"  # noqa: S108 - the pod's own, and its only writable place
_STARTUP_SECONDS: Final = 300
# Until every node has heard that the pod ends, requests still come; then the server is told.
_STILL_COMING: Final = 10
# What `lrclr serve` takes beside the requests that it waits for, and some more.
_ENDING: Final = 15
_PROBE_TIMEOUT: Final = 10


def selector(options: DeployOptions) -> dict[str, str]:
    """Labels by which the pods are found; they never change."""
    return {"app.kubernetes.io/name": "lrclr", "app.kubernetes.io/instance": options.name}


def labels(options: DeployOptions) -> dict[str, str]:
    """Labels of everything."""
    return {
        **selector(options),
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/managed-by": "lrclr-deploy",
    }


def described(facts: Facts) -> dict[str, str]:
    """What is served, for people and tools that look; another bundle means other pods."""
    return {
        "lrclr/bundle-sha256": facts.sha256,
        "lrclr/engine": facts.engine,
        "lrclr/precision": facts.precision,
        "lrclr/max-batch": str(facts.max_batch),
        **({"lrclr/compute-capabilities": ",".join(facts.capabilities)} if facts.capabilities else {}),
    }


def grace_seconds(options: DeployOptions) -> int:
    """How long a pod may take to end: the rest of the requests that still come, those in flight, and the server."""
    return _STILL_COMING + options.exit_timeout + _ENDING


def pod_security() -> dict[str, Any]:
    """Of the whole pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container(
    facts: Facts, options: DeployOptions, *, name: str, bundle: str, mounts: list[dict[str, Any]]
) -> dict[str, Any]:
    """The server.

    Args:
        facts: of the bundle.
        options: how to run.
        name: of the container.
        bundle: the bundle's folder in it.
        mounts: of the bundle; what else it needs is added.
    """
    return {
        "name": name,
        "image": options.image,
        "command": ["lrclr"],
        "args": [
            "serve",
            bundle,
            "--address",
            # The pod's own; the network policy says who reaches it.
            "::" if options.ipv6 else "0.0.0.0",  # noqa: S104
            "--expect",
            facts.sha256,
            "--startup-timeout",
            str(_STARTUP_SECONDS - 20),
            "--exit-timeout",
            str(options.exit_timeout),
            *([] if options.instances is None else ["--instances", str(options.instances)]),
        ],
        "env": _environment(),
        "ports": [
            {"name": "http", "containerPort": HTTP, "protocol": "TCP"},
            {"name": "grpc", "containerPort": GRPC, "protocol": "TCP"},
            {"name": "metrics", "containerPort": METRICS, "protocol": "TCP"},
        ],
        "resources": resources(facts, options),
        "startupProbe": {**_asks(facts, options), "periodSeconds": 10, "failureThreshold": _STARTUP_SECONDS // 10},
        # A busy server answers late, or refuses. Only a server that does neither for a minute gets no more requests:
        # without it, the load of the other servers would grow.
        "readinessProbe": {**_asks(facts, options, "--busy-ok"), "periodSeconds": 20, "failureThreshold": 3},
        # Whether the server's process still turns around, which needs no model and waits in no queue. Backends that
        # died are `lrclr serve`'s affair, which ends if it cannot mend them.
        "livenessProbe": {
            "httpGet": {"path": "/v2/health/live", "port": "http", "scheme": "HTTP"},
            "periodSeconds": 20,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_STILL_COMING)]}}},
        "securityContext": _container_security(),
        "volumeMounts": [
            *mounts,
            {"name": "tmp", "mountPath": _TMP},
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - where Triton's Python backend puts tensors
        ],
    }


def init_containers(facts: Facts, options: DeployOptions) -> list[dict[str, Any]]:
    """Steps before the server: fetch the bundle, where it must be fetched, and check every hash of it."""
    source = options.origin
    check = {
        "name": "check",
        "image": options.image,
        "command": ["lrclr"],
        "args": ["verify", bundle_path(source), "--files-only", "--expect", facts.sha256],
        "env": _environment(),
        "resources": _small(),
        "securityContext": _container_security(),
        "volumeMounts": [*bundle_mounts(source), {"name": "tmp", "mountPath": _TMP}],
    }
    if source.kind != "s3":
        return [check]
    fetch: dict[str, Any] = {
        "name": "fetch",
        "image": options.fetch_image,
        "command": ["rclone"],
        # The remote is made of the environment: keys come from the Secret or from the pod's identity.
        "args": ["copy", f":s3,env_auth=true:{source.root}{source.path}", bundle_path(source)],
        "env": _environment(),
        **({"envFrom": [{"secretRef": {"name": options.secret}}]} if options.secret else {}),
        "resources": _small(),
        "securityContext": _container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": _TMP}],
    }
    return [fetch, check]


def bundle_path(source: Source) -> str:
    """The bundle's folder in the server's container."""
    # What is fetched lies where the server's own repository lies, which then links its files instead of copying them.
    return {"s3": f"{_TMP}/bundle", "pvc": f"/bundle{source.path}", "oci": "/bundle"}[source.kind]


def bundle_mounts(source: Source) -> list[dict[str, Any]]:
    """The mounts that it lies in, beside the one for temporary files."""
    return [] if source.kind == "s3" else [{"name": "bundle", "mountPath": "/bundle", "readOnly": True}]


def volumes(facts: Facts, source: Source | None) -> list[dict[str, Any]]:
    """The pod's volumes.

    Args:
        facts: of the bundle.
        source: of the bundle; None where somebody else mounts it.
    """
    own: list[dict[str, Any]] = []
    if source is not None and source.kind == "pvc":
        own = [{"name": "bundle", "persistentVolumeClaim": {"claimName": source.root, "readOnly": True}}]
    elif source is not None and source.kind == "oci":
        reference = f"{source.root}{source.path}"
        own = [{"name": "bundle", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}}]
    return [
        *own,
        {"name": "tmp", "emptyDir": {"sizeLimit": temporary(facts)}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory(facts)}},
    ]


def spread(options: DeployOptions) -> list[dict[str, Any]]:
    """Servers apart from each other, where the cluster has room for it."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(options)},
        }
        for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
    ]


def affinity(facts: Facts) -> dict[str, Any] | None:
    """Nodes whose GPU the plans were built for, by the labels of NVIDIA's feature discovery; None for any node."""
    if not facts.capabilities:
        return None
    if facts.from_ampere:
        terms = [[("major", "Gt", "7")]]
    else:
        parts = [one.partition(".") for one in facts.capabilities]
        terms = [[("major", "In", major), ("minor", "In", minor)] for major, _, minor in parts]
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {
                        "matchExpressions": [
                            {"key": f"nvidia.com/gpu.compute.{part}", "operator": operator, "values": [value]}
                            for part, operator, value in term
                        ]
                    }
                    for term in terms
                ]
            }
        }
    }


def _asks(facts: Facts, options: DeployOptions, *more: str) -> dict[str, Any]:
    """A real radiograph through every graph, answered by the bundle that is meant."""
    wait = str(_PROBE_TIMEOUT - 3)
    address = f"[::1]:{GRPC}" if options.ipv6 else f"127.0.0.1:{GRPC}"
    command = ["lrclr", "probe", address, "--timeout", wait, *more, "--expect", facts.sha256]
    return {"exec": {"command": command}, "timeoutSeconds": _PROBE_TIMEOUT}


def _environment() -> list[dict[str, str]]:
    return [{"name": name, "value": _TMP} for name in ("HOME", "TMPDIR")]


def _small() -> dict[str, Any]:
    return {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}


def _container_security() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
