"""Place of a bundle, as a URI for plain Kubernetes and KServe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from lrclr.errors import UsageError

_URI: Final = re.compile(r"(pvc|oci|s3)://([A-Za-z0-9][A-Za-z0-9._:@-]*)((?:/[A-Za-z0-9][A-Za-z0-9._:@=+-]*)*)/?")


@dataclass(frozen=True)
class Source:
    """Place of a bundle.

    Attributes:
        kind: ``"pvc"``, ``"oci"`` or ``"s3"``.
        root: name of the claim, the bucket or the registry.
        path: path below the root, with a leading slash; empty for the root.
    """

    kind: str
    root: str
    path: str

    @classmethod
    def parse(cls, uri: str) -> Source:
        """Parse a URI.

        Raises:
            UsageError: the URI has another form, or is an image without a digest.
        """
        match = _URI.fullmatch(uri)
        if match is None or ".." in uri:
            raise UsageError(
                # The URI is not repeated: it may contain a password.
                "the source of the bundle is not valid",
                fix="Use pvc://CLAIM[/PATH], oci://REGISTRY/NAME@sha256:DIGEST or s3://BUCKET/PATH.",
            )
        source = cls(match[1], match[2], match[3])
        if source.kind == "oci" and not re.search(r"@sha256:[0-9a-f]{64}$", uri):
            raise UsageError(
                "the image of the bundle has no digest",
                why="a tag can be moved to another image",
                fix="Use oci://REGISTRY/NAME@sha256:DIGEST.",
            )
        if source.kind == "pvc" and not re.fullmatch("[a-z0-9]([-a-z0-9.]*[a-z0-9])?", source.root):
            raise UsageError(f"{source.root!r} is not a valid name of a claim")
        return source

    @property
    def uri(self) -> str:
        """The URI."""
        return f"{self.kind}://{self.root}{self.path}"
