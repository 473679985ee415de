"""What to watch, in Prometheus' words: rules, what to read, and the rule for the autoscaler's metric.

Every name of a metric here is one that a server of ours exports; a test holds them against a real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lrclr.deploy import _pod as pod
from lrclr.deploy._around import WAITING, metadata, wanted_waiting
from lrclr.protocol import MAX_QUEUED

if TYPE_CHECKING:
    from lrclr.deploy._facts import Facts
    from lrclr.deploy._options import DeployOptions

__all__ = ["OURS", "adapter_rule", "pod_monitor", "rules"]

# Reasons of failures that are the server's own; every other one is something that the caller must change.
OURS: Final = "unavailable|unexpected|EngineError|NonFiniteError|BundleError|ServerError|LrclrError"
_RATE: Final = "2m"


def waiting(where: str) -> str:
    """Mean number of requests that wait in each server, for any of its models.

    Triton counts the microseconds that requests have waited; as many a second as requests wait (Little's law).
    """
    return f"sum by (namespace, pod) (rate(nv_inference_queue_duration_us{{{where}}}[{_RATE}])) / 1e6"


def where(options: DeployOptions, *more: str) -> str:
    """Labels that pick the servers of one deployment, whether Kubernetes or KServe named its pods."""
    # No dash within the two last parts: those of another deployment, whose name begins alike, are not meant.
    pods = f"{options.name}-(predictor-)?[a-z0-9]+-[a-z0-9]+"
    return ",".join([f'namespace="{options.namespace}"', f'pod=~"{pods}"', *more])


def pod_monitor(options: DeployOptions) -> dict[str, Any]:
    """Which pods Prometheus reads, where its operator runs."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(options, options.name),
        "spec": {
            "selector": {"matchLabels": pod.selector(options)},
            "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics", "interval": "15s"}],
        },
    }


def rules(facts: Facts, options: DeployOptions) -> dict[str, Any]:
    """Alerts; its ``spec`` is a plain rules file for a Prometheus without the operator."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": metadata(options, options.name),
        "spec": {"groups": [{"name": f"lrclr-{options.name}", "rules": _alerts(facts, options)}]},
    }


def adapter_rule(options: DeployOptions) -> dict[str, Any]:
    """An entry for prometheus-adapter's ``rules``, which feeds the autoscaler."""
    return {
        "rules": [
            {
                "seriesQuery": f"nv_inference_queue_duration_us{{{where(options)}}}",
                "resources": {"overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}}},
                "name": {"as": WAITING},
                "metricsQuery": (
                    f"sum by (<<.GroupBy>>) (rate(nv_inference_queue_duration_us{{<<.LabelMatchers>>}}[{_RATE}])) / 1e6"
                ),
            }
        ]
    }


def _alerts(facts: Facts, options: DeployOptions) -> list[dict[str, Any]]:
    here = where(options)
    model = where(options, 'model="lrclr"')
    ours = where(options, f'reason=~"{OURS}"')
    # More requests than the queue holds never wait: the server refuses them.
    crowded = min(2 * wanted_waiting(facts, options), MAX_QUEUED - 1)
    return [
        _alert(
            "LrclrGone",
            f"absent(nv_inference_request_success{{{model}}})",
            minutes=5,
            severity="critical",
            summary=f"No server of {options.name} is there, or none can be read",
        ),
        _alert(
            "LrclrFails",
            f"sum(rate(lrclr_failures_total{{{ours}}}[5m])) / sum(rate(lrclr_requests_total{{{here}}}[5m])) > 0.01",
            minutes=5,
            severity="critical",
            summary="More than one request of a hundred fails by the servers' own fault",
        ),
        _alert(
            "LrclrSilent",
            f"sum by (namespace, pod) (nv_inference_pending_request_count{{{model}}}) > 0 "
            f"and sum by (namespace, pod) (increase(lrclr_requests_total{{{here}}}[5m])) == 0",
            minutes=5,
            severity="critical",
            summary="A server has requests and takes none up",
        ),
        _alert(
            "LrclrCrowded",
            f"{waiting(here)} > {crowded}",
            minutes=15,
            severity="warning",
            summary=f"More than {crowded} requests wait in a server: there are too few, or they cannot be started",
        ),
        _alert(
            "LrclrRefuses",
            f"sum(rate(lrclr_failures_total{{{here}}}[15m])) / sum(rate(lrclr_requests_total{{{here}}}[15m])) > 0.2",
            minutes=15,
            severity="warning",
            summary="More than a fifth of the requests is refused: a client sends what cannot be answered",
        ),
    ]


def _alert(name: str, expression: str, *, minutes: int, severity: str, summary: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expression,
        "for": f"{minutes}m",
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
