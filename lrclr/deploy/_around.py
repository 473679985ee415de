"""What stands around the servers, however they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lrclr.deploy import _pod as pod
from lrclr.protocol import MAX_QUEUED

if TYPE_CHECKING:
    from lrclr.deploy._facts import Facts
    from lrclr.deploy._options import DeployOptions

__all__ = ["WAITING", "autoscaler", "disruption_budget", "metadata", "network_policy", "wanted_waiting"]

# The name that the rule for prometheus-adapter gives to Triton's queue time; see `_monitoring`.
WAITING: Final = "lrclr_requests_waiting"
_DNS = 53
_HTTPS = 443


def metadata(options: DeployOptions, name: str) -> dict[str, Any]:
    """Of one object."""
    return {"name": name, "namespace": options.namespace, "labels": pod.labels(options)}


def wanted_waiting(facts: Facts, options: DeployOptions) -> int:
    """Requests that may wait in a server on average: half as many as it works on at once."""
    return options.waiting or max(1, min(facts.instances, MAX_QUEUED) // 2)


def autoscaler(facts: Facts, options: DeployOptions, *, target: str) -> dict[str, Any]:
    """More servers while requests wait: Triton's queue time a second is the mean number of them.

    The autoscaler is Kubernetes' own, fed by prometheus-adapter, and not KEDA's, which would be one more controller
    with rights in the cluster for the one thing that it does better: it scales to zero, and a server whose start
    takes a minute is not what a radiograph should wait for.
    """
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata(options, options.name),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": target},
            "minReplicas": options.min_replicas,
            "maxReplicas": options.max_replicas,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": WAITING},
                        "target": {"type": "AverageValue", "averageValue": str(wanted_waiting(facts, options))},
                    },
                }
            ],
            "behavior": {
                # Twice as many at most each minute: a new server takes that long until it helps.
                "scaleUp": {
                    "stabilizationWindowSeconds": 0,
                    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 60}],
                },
                "scaleDown": {
                    "stabilizationWindowSeconds": 300,
                    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 120}],
                },
            },
        },
    }


def disruption_budget(options: DeployOptions) -> dict[str, Any]:
    """One server at a time, when nodes are emptied; one that is not ready may always go."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(options, options.name),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": pod.selector(options)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def network_policy(options: DeployOptions, *, fetches: bool) -> dict[str, Any]:
    """Who may ask, who may look, and nothing goes out.

    Args:
        options: how to run.
        fetches: whether the pod itself fetches the bundle, by HTTPS.
    """
    key, _, value = options.clients.partition("=")
    allowed = {"podSelector": {"matchLabels": {key: value}}}
    watching = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": options.monitoring}}}
    egress: list[dict[str, Any]] = []
    if fetches:
        names = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}
        egress = [
            {"to": [names], "ports": [{"protocol": kind, "port": _DNS} for kind in ("UDP", "TCP")]},
            {"ports": [{"protocol": "TCP", "port": _HTTPS}]},
        ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(options, options.name),
        "spec": {
            "podSelector": {"matchLabels": pod.selector(options)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [
                {"from": [allowed], "ports": [{"protocol": "TCP", "port": port} for port in (pod.GRPC, pod.HTTP)]},
                {"from": [watching], "ports": [{"protocol": "TCP", "port": pod.METRICS}]},
            ],
            "egress": egress,
        },
    }
