"""Options of a deployment."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lrclr.deploy._source import Source
from lrclr.errors import UsageError
from lrclr.triton.protocol import MAX_QUEUED

# RFC 1123, as Kubernetes reads it. The limit is below its 63 characters, since objects add a suffix to the name.
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_NAME: Final = 40
_CPU: Final = re.compile(r"(?=.*[1-9])([0-9]{1,4}(\.[0-9]{1,3})?|[0-9]{1,7}m)")
_MEMORY: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_BYTES: Final = {
    None: 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_LEAST_MEMORY: Final = 2**30
_LONGEST_PREFIX: Final = 253
# Registry with port, path, tag, digest; without characters that are special in YAML or a shell.
_IMAGE: Final = re.compile(r"[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?")
_LABEL_KEY: Final = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True)
class DeployOptions:
    """Options of a deployment.

    Attributes:
        image: container image of lrclr on a Triton server; ``lrclr/triton/server/container/Containerfile`` builds it.
        name: name of the objects in the cluster.
        source: place of the bundle: ``pvc://CLAIM[/PATH]``, ``oci://IMAGE`` or ``s3://BUCKET/PATH``; by default the
            claim NAME-bundle.
        fetch_image: container image with rclone, for ``s3://`` on plain Kubernetes.
        secret: name of a Secret whose entries are the environment of rclone; not the secret itself.
        service_account: service account of the pods; by default that of the namespace.
        pull_secret: name of the Secret for the image's registry.
        gpu: whether a server has a GPU; by default if the bundle's engine needs one.
        gpu_resource: the cluster's name of the resource GPU.
        memory, cpu: resources of a server; by default from the measured rule in `lrclr.deploy._resources`.
        instances: processes of the model `lrclr`; by default the number of the bundle.
        min_replicas, max_replicas: numbers of servers.
        waiting: average number of waiting requests per server at which another server is started; by default half of
            its processes, and at most half of the queue of a server.
        clients: label of the pods that may send requests, as ``key=value``.
        monitoring: namespace that may read the metrics.
        exit_timeout: seconds that requests in flight have when a server is stopped.
        ipv6: listen on IPv6 addresses, for a cluster whose pods have IPv6 as their first address.
    """

    image: str
    name: str = "lrclr"
    source: str | None = None
    fetch_image: str | None = None
    secret: str | None = None
    service_account: str | None = None
    pull_secret: str | None = None
    gpu: bool | None = None
    gpu_resource: str = "nvidia.com/gpu"
    memory: str | None = None
    cpu: str | None = None
    instances: int | None = None
    min_replicas: int = 2
    max_replicas: int = 8
    waiting: int | None = None
    clients: str = "lrclr-client=true"
    monitoring: str = "monitoring"
    exit_timeout: int = 30
    ipv6: bool = False

    def __post_init__(self) -> None:
        if len(self.name) > _LONGEST_NAME or not _LABEL.fullmatch(self.name) or self.name[0].isdigit():
            raise UsageError(
                f"{self.name!r} is not a valid name",
                why="a name has lower-case letters, digits and dashes, a letter first, and no dash last",
                fix=f"Use at most {_LONGEST_NAME} characters.",
            )
        if not _LABEL.fullmatch(self.monitoring):
            raise UsageError(f"{self.monitoring!r} is not a valid name of a namespace")
        for what in ("secret", "service_account", "pull_secret"):
            name = getattr(self, what)
            if name is not None and not (len(name) <= 253 and _SUBDOMAIN.fullmatch(name)):
                raise UsageError(
                    # The value is not repeated: it may be a secret that was given in place of its name.
                    f"the {what.replace('_', ' ')} is not a valid name",
                    why="a name in Kubernetes has lower-case letters, digits, dashes and dots",
                    fix="Give the name of the object in the cluster.",
                )
        for image in (self.image, self.fetch_image):
            if image is not None and not (len(image) <= 512 and _IMAGE.fullmatch(image)):
                raise UsageError(
                    f"{image!r} is not an image reference", fix="Use REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:…"
                )
        if self.cpu is not None and not _CPU.fullmatch(self.cpu):
            raise UsageError(f"{self.cpu!r} is not a number of processors", fix="Use for example 2, 0.5 or 500m.")
        if self.memory is not None:
            _check_memory(self.memory)
        key, separator, value = self.clients.partition("=")
        if not (separator and _is_label_key(key) and _LABEL_VALUE.fullmatch(value)):
            raise UsageError(f"{self.clients!r} is not a label", fix="Use KEY=VALUE.")
        if not _is_label_key(self.gpu_resource) or "/" not in self.gpu_resource:
            raise UsageError(f"{self.gpu_resource!r} is not a resource", fix="Use for example nvidia.com/gpu.")
        self._check_numbers()
        if self.origin.kind != "s3" and (self.fetch_image or self.secret):
            raise UsageError("--fetch-image and --secret are only for s3://")

    def _check_numbers(self) -> None:
        limits = {
            "instances": (1, 64),
            "min_replicas": (1, 1000),
            "max_replicas": (1, 1000),
            "waiting": (1, MAX_QUEUED - 1),
            "exit_timeout": (1, 3600),
        }
        for what, (least, most) in limits.items():
            number = getattr(self, what)
            if number is not None and not least <= number <= most:
                raise UsageError(f"--{what.replace('_', '-')} cannot be {number}", fix=f"Use {least} to {most}.")
        if self.min_replicas > self.max_replicas:
            raise UsageError("--min-replicas is above --max-replicas")

    @property
    def origin(self) -> Source:
        """The parsed `source`."""
        return Source.parse(self.source or f"pvc://{self.name}-bundle")


def _check_memory(text: str) -> None:
    found = _MEMORY.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is not an amount of memory", fix="Use for example 6Gi.")
    if float(found[1]) * _BYTES[found[2]] < _LEAST_MEMORY:
        raise UsageError(f"a server cannot run with {text} of memory", fix="Give at least 1Gi, or omit --memory.")


def _is_label_key(text: str) -> bool:
    prefix, slash, _ = text.rpartition("/")
    return bool(_LABEL_KEY.fullmatch(text)) and (not slash or len(prefix) <= _LONGEST_PREFIX)
