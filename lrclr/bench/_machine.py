"""Processor, memory and settings of the machine as the operating system reports them, without names."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil

from lrclr._processors import cpu_flags, cpu_info, cpu_quota, processors

_CPU = Path("/sys/devices/system/cpu")


def machine() -> dict[str, Any]:
    """Processor, memory, virtual machine and container; ``None`` if the system does not report a value.

    Results with equal values are of the same kind of machine.
    """
    found = cpu_info()
    return {
        "processor": found.get("model name") or platform.processor() or platform.machine(),
        "family_model_stepping": [found.get(key) for key in ("cpu family", "model", "stepping")],
        "flags": sorted(cpu_flags()),
        "architecture": platform.machine(),
        "cores": processors(),
        "cores_of_the_machine": os.cpu_count(),
        "cpu_quota": None if (quota := cpu_quota()) is None else round(quota, 2),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "virtual": "hypervisor" in found.get("flags", "").split() or _hypervisor(),
        "container": _container(),
    }


def settings() -> dict[str, Any]:
    """Settings that may differ on the same machine: governor, turbo, and environment variables of engines."""
    read = ("OMP_", "MKL_", "OPENBLAS_", "KMP_", "MALLOC_", "GOMP_", "ORT_", "OV_", "CUDA_VISIBLE", "LD_PRELOAD")
    boost = _text(_CPU / "cpufreq/boost")
    no_turbo = _text(_CPU / "intel_pstate/no_turbo")
    return {
        "governor": _text(_CPU / "cpu0/cpufreq/scaling_governor"),
        "turbo": {"1": True, "0": False}.get(boost or "", None if no_turbo is None else no_turbo == "0"),
        # Without the path of LD_PRELOAD, which may contain a user's name.
        "variables": {
            name: "set" if name == "LD_PRELOAD" else value
            for name, value in sorted(os.environ.items())
            if name.startswith(read) and "/" not in value.replace("LD_PRELOAD", "")
        },
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def _hypervisor() -> bool:
    return bool(_text(Path("/sys/hypervisor/type")))


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    return "kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
