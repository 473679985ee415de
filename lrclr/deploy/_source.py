"""Where the bundle comes from, as one URI that plain Kubernetes and KServe both understand."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lrclr.errors import UsageError

__all__ = ["Source"]

_URI: Final = re.compile(r"(pvc|oci|s3)://([A-Za-z0-9][A-Za-z0-9._:@-]*)((?:/[A-Za-z0-9][A-Za-z0-9._:@=+-]*)*)/?")


@dataclass(frozen=True)
class Source:
    """A place.

    Attributes:
        kind: ``"pvc"``, ``"oci"`` or ``"s3"``.
        root: name of the claim or the bucket, or the registry.
        path: below it, with a slash before it; empty for the root.
    """

    kind: str
    root: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> Source:
        """Read a URI.

        Raises:
            UsageError: it is none of ours, or an image without its digest.
        """
        match = _URI.fullmatch(uri)
        if match is None or ".." in uri:
            raise UsageError(
                # Not repeated: people put passwords into URIs.
                "the bundle cannot be had from there",
                fix="Use pvc://CLAIM[/PATH], oci://REGISTRY/NAME@sha256:DIGEST or s3://BUCKET/PATH.",
            )
        source = cls(match[1], match[2], match[3])
        if source.kind == "oci" and not re.search(r"@sha256:[0-9a-f]{64}$", uri):
            raise UsageError(
                "the image of the bundle has no digest",
                why="a tag can be moved",
                fix="Use oci://REGISTRY/NAME@sha256:DIGEST.",
            )
        if source.kind == "pvc" and not re.fullmatch("[a-z0-9]([-a-z0-9.]*[a-z0-9])?", source.root):
            raise UsageError(f"{source.root!r} cannot be a claim's name")
        return source

    @property
    def uri(self) -> str:
        """The URI again."""
        return f"{self.kind}://{self.root}{self.path}"
