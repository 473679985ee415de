"""Manifests that put a bundle behind many servers, made from the bundle's own. Needs the extra ``deploy``."""

from __future__ import annotations

from lrclr.deploy._options import DeployOptions
from lrclr.deploy._write import write_kserve, write_kubernetes

__all__ = ["DeployOptions", "write_kserve", "write_kubernetes"]
