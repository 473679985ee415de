"""KServe: a runtime of this bundle, and the service that it runs as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lrclr.deploy import _pod as pod
from lrclr.deploy._around import autoscaler, disruption_budget, metadata, network_policy

if TYPE_CHECKING:
    from lrclr.deploy._facts import Facts
    from lrclr.deploy._options import DeployOptions

__all__ = ["kserve"]

# Where KServe puts what `storageUri` names, and what it calls the container that serves it.
_MODELS: Final = "/mnt/models"
_CONTAINER: Final = "kserve-container"
_FORMAT: Final = "lrclr"


def kserve(facts: Facts, options: DeployOptions) -> dict[str, list[dict[str, Any]]]:
    """Manifests by file name.

    KServe's own init container brings the bundle, after any of ours: its hashes are checked by the server, which
    starts with no other bundle than the expected one.
    """
    return {
        "serving-runtime.yaml": [_runtime(facts, options)],
        "inference-service.yaml": [_service(facts, options)],
        "autoscaler.yaml": [autoscaler(facts, options, target=f"{options.name}-predictor")],
        "disruption-budget.yaml": [disruption_budget(options)],
        "network-policy.yaml": [network_policy(options, fetches=options.origin.kind == "s3")],
    }


def _runtime(facts: Facts, options: DeployOptions) -> dict[str, Any]:
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {**metadata(options, options.name), "annotations": pod.described(facts)},
        "spec": {
            "supportedModelFormats": [{"name": _FORMAT, "version": "1", "autoSelect": False}],
            "protocolVersions": ["v2", "grpc-v2"],
            "multiModel": False,
            **({"imagePullSecrets": [{"name": options.pull_secret}]} if options.pull_secret else {}),
            "containers": [pod.container(facts, options, name=_CONTAINER, bundle=_MODELS, mounts=[])],
            "volumes": pod.volumes(facts, None),
        },
    }


def _service(facts: Facts, options: DeployOptions) -> dict[str, Any]:
    affinity = pod.affinity(facts)
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            **metadata(options, options.name),
            "annotations": {
                **pod.described(facts),
                # A Deployment without Knative, scaled by the autoscaler that stands beside this.
                "serving.kserve.io/deploymentMode": "RawDeployment",
                "serving.kserve.io/autoscalerClass": "external",
            },
        },
        "spec": {
            "predictor": {
                "labels": pod.labels(options),
                "annotations": pod.described(facts),
                "minReplicas": options.min_replicas,
                "maxReplicas": options.max_replicas,
                "deploymentStrategy": {
                    "type": "RollingUpdate",
                    "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
                },
                **({"serviceAccountName": options.service_account} if options.service_account else {}),
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": pod.pod_security(),
                **({"affinity": affinity} if affinity else {}),
                "topologySpreadConstraints": pod.spread(options),
                "terminationGracePeriodSeconds": pod.grace_seconds(options),
                "model": {
                    "modelFormat": {"name": _FORMAT, "version": "1"},
                    "runtime": options.name,
                    "protocolVersion": "v2",
                    "storageUri": options.origin.uri,
                },
            }
        },
    }
