"""How servers are to run, beside what the bundle says."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from lrclr.deploy._source import Source
from lrclr.errors import UsageError
from lrclr.triton.protocol import MAX_QUEUED

if TYPE_CHECKING:
    from typing import Final

__all__ = ["DeployOptions"]

# RFC 1123, as Kubernetes reads it; shorter than its 63, for what is made from the name has an ending.
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_NAME: Final = 40
_QUANTITY: Final = re.compile(r"[1-9][0-9]*(\.[0-9]+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?")
# Registry with port, path, tag, digest: no blanks and nothing that YAML or a shell could take for more.
_IMAGE: Final = re.compile(r"[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?(@sha256:[0-9a-f]{64})?")
_LABEL_KEY: Final = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


@dataclass(frozen=True)
class DeployOptions:
    """Checked when made.

    Attributes:
        image: container image of lrclr on a Triton server; ``lrclr/triton/server/container/Containerfile`` builds it.
        name: of everything that is made.
        source: where the bundle comes from: ``pvc://CLAIM[/PATH]``, ``oci://IMAGE`` or ``s3://BUCKET/PATH``; a claim
            called NAME-bundle if not given.
        fetch_image: a container with rclone, for ``s3://`` on plain Kubernetes.
        secret: name of a Secret whose entries are the environment of rclone. Never the secret itself.
        service_account: that the pods run as; the namespace's own if not given.
        pull_secret: name of the Secret that opens the image's registry.
        gpu: whether a server has a GPU; where not given, if the bundle's engine wants one.
        gpu_resource: what the cluster calls a GPU.
        memory, cpu: of a server; from the measured rule if not given. See `lrclr.deploy._resources`.
        instances: processes of the model `lrclr`; the bundle's own number if not given.
        min_replicas, max_replicas: servers.
        waiting: requests that wait in a server, on average, before another is started; half its processes if not
            given, and no more than half of the requests that may wait in a server.
        clients: label of the pods that may ask, as ``key=value``.
        monitoring: namespace that may read the metrics.
        exit_timeout: seconds that requests in flight have when a server is stopped.
        ipv6: listen on IPv6 addresses, in a cluster whose pods have such addresses first.
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
                f"{self.name!r} cannot be the name",
                why="Kubernetes takes small letters, digits and dashes, a letter first and no dash last",
                fix=f"Use at most {_LONGEST_NAME} of them.",
            )
        if not _LABEL.fullmatch(self.monitoring):
            raise UsageError(f"{self.monitoring!r} cannot be a namespace's name")
        for what in ("secret", "service_account", "pull_secret"):
            name = getattr(self, what)
            if name is not None and not (len(name) <= 253 and _SUBDOMAIN.fullmatch(name)):
                raise UsageError(
                    f"the {what.replace('_', ' ')} cannot be called so",
                    # It may be a secret that was given in place of its name: it is not repeated.
                    why="Kubernetes takes small letters, digits, dashes and dots",
                    fix="Give the name of the object in the cluster.",
                )
        for image in (self.image, self.fetch_image):
            if image is not None and not (len(image) <= 512 and _IMAGE.fullmatch(image)):
                raise UsageError(
                    f"{image!r} is no image reference", fix="Use REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:…"
                )
        for what in ("memory", "cpu"):
            quantity = getattr(self, what)
            if quantity is not None and not _QUANTITY.fullmatch(quantity):
                raise UsageError(f"{quantity!r} is no amount of {what}", fix="Use for example 6Gi, or 4.")
        key, separator, value = self.clients.partition("=")
        if not (separator and _LABEL_KEY.fullmatch(key) and _LABEL_VALUE.fullmatch(value)):
            raise UsageError(f"{self.clients!r} is no label", fix="Use KEY=VALUE.")
        if not _LABEL_KEY.fullmatch(self.gpu_resource) or "/" not in self.gpu_resource:
            raise UsageError(f"{self.gpu_resource!r} is no resource", fix="Use for example nvidia.com/gpu.")
        self._check_numbers()
        if self.origin.kind != "s3" and (self.fetch_image or self.secret):
            raise UsageError("--fetch-image and --secret are for s3:// alone")

    def _check_numbers(self) -> None:
        limits = {
            "instances": (1, 64),
            "min_replicas": (1, 1000),
            "max_replicas": (1, 1000),
            "waiting": (1, MAX_QUEUED - 1),
            "exit_timeout": (1, 3600),
        }
        assert limits.keys() <= {field.name for field in fields(self)}  # noqa: S101 - they are looked up by name
        for what, (least, most) in limits.items():
            number = getattr(self, what)
            if number is not None and not least <= number <= most:
                raise UsageError(f"--{what.replace('_', '-')} {number} is not possible", fix=f"Use {least} to {most}.")
        if self.min_replicas > self.max_replicas:
            raise UsageError("--min-replicas is above --max-replicas")

    @property
    def origin(self) -> Source:
        """`source`, read."""
        return Source.parse(self.source or f"pvc://{self.name}-bundle")
