"""Plain Kubernetes: a Deployment, and what belongs to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrclr.deploy import _pod as pod
from lrclr.deploy._around import autoscaler, disruption_budget, metadata, network_policy

if TYPE_CHECKING:
    from lrclr.deploy._facts import Facts
    from lrclr.deploy._options import DeployOptions

__all__ = ["kubernetes"]


def kubernetes(facts: Facts, options: DeployOptions) -> dict[str, list[dict[str, Any]]]:
    """Manifests by file name."""
    return {
        "deployment.yaml": [_deployment(facts, options)],
        "service.yaml": [_service(options), _headless(options)],
        "autoscaler.yaml": [autoscaler(facts, options, target=options.name)],
        "disruption-budget.yaml": [disruption_budget(options)],
        "network-policy.yaml": [network_policy(options, fetches=options.origin.kind == "s3")],
    }


def _deployment(facts: Facts, options: DeployOptions) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**metadata(options, options.name), "annotations": pod.described(facts)},
        # How many is the autoscaler's to say: a number here would undo its work each time this is applied.
        "spec": {
            "selector": {"matchLabels": pod.selector(options)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "minReadySeconds": 10,
            "progressDeadlineSeconds": 900,
            "revisionHistoryLimit": 3,
            "template": {
                "metadata": {"labels": pod.labels(options), "annotations": pod.described(facts)},
                "spec": _pod_spec(facts, options),
            },
        },
    }


def _pod_spec(facts: Facts, options: DeployOptions) -> dict[str, Any]:
    source = options.origin
    affinity = pod.affinity(facts)
    return {
        **({"serviceAccountName": options.service_account} if options.service_account else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        **({"imagePullSecrets": [{"name": options.pull_secret}]} if options.pull_secret else {}),
        "securityContext": pod.pod_security(),
        **({"affinity": affinity} if affinity else {}),
        "topologySpreadConstraints": pod.spread(options),
        "terminationGracePeriodSeconds": pod.grace_seconds(options),
        "initContainers": pod.init_containers(facts, options),
        "containers": [
            pod.container(
                facts, options, name="lrclr", bundle=pod.bundle_path(source), mounts=pod.bundle_mounts(source)
            )
        ],
        "volumes": pod.volumes(facts, source),
    }


def _service(options: DeployOptions) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(options, options.name),
        "spec": {"type": "ClusterIP", "selector": pod.selector(options), "ports": _ports()},
    }


def _headless(options: DeployOptions) -> dict[str, Any]:
    """Every server by its own address: gRPC keeps its connection, so who balances must see each of them."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(options, f"{options.name}-each"),
        "spec": {"type": "ClusterIP", "clusterIP": "None", "selector": pod.selector(options), "ports": _ports()},
    }


def _ports() -> list[dict[str, Any]]:
    return [
        {"name": "grpc", "port": pod.GRPC, "targetPort": "grpc", "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"},
        {"name": "http", "port": pod.HTTP, "targetPort": "http", "protocol": "TCP", "appProtocol": "http"},
        {"name": "metrics", "port": pod.METRICS, "targetPort": "metrics", "protocol": "TCP", "appProtocol": "http"},
    ]
