"""Helm charts that serve a bundle in a cluster, with values from the bundle. Needs the extra ``deploy``."""

from __future__ import annotations

from lrclr.deploy._chart import write_kserve, write_kubernetes
from lrclr.deploy._options import DeployOptions

__all__ = ["DeployOptions", "write_kserve", "write_kubernetes"]
