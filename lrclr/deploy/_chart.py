"""A Helm chart for one bundle: the chart of this package, with values from the bundle's manifest."""

from __future__ import annotations

import hashlib
import re
from importlib import resources as package_resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from lrclr._files import refuse_other_files, replace_directory, sha256_of
from lrclr.bundle import Bundle
from lrclr.deploy._facts import Facts
from lrclr.deploy._resources import cpu, memory, shared_memory, temporary
from lrclr.errors import UsageError
from lrclr.triton.protocol import MAX_QUEUED

if TYPE_CHECKING:
    import os
    from importlib.resources.abc import Traversable

    from lrclr.deploy._options import DeployOptions

__all__ = ["values", "write_kserve", "write_kubernetes"]

# Tells whether a folder holds only what this module wrote. `sha256sum -c` reads it.
_SUMS: Final = "SHA256SUMS"
_HEAD: Final = """\
# Written by lrclr deploy {platform} for the bundle {sha256}.
# Research use only. Not a medical device.
# Keep this file as it is, and put your own changes into another one: helm install NAME CHART -f own.yaml
"""


def write_kubernetes(
    bundle: str | os.PathLike[str], folder: str | os.PathLike[str], options: DeployOptions
) -> list[Path]:
    """Write a Helm chart that serves a bundle on plain Kubernetes.

    Args:
        bundle: the bundle's folder; every hash of it is checked.
        folder: for the chart; made, or replaced where it holds only what this function wrote.
        options: how to run.

    Returns:
        The files, in the order of their names.

    Raises:
        BundleError: the bundle is not whole.
        UsageError: the options do not suit the bundle, or the folder holds other files.
        LrclrError: the folder cannot be written.
    """
    if options.origin.kind == "s3" and options.fetch_image is None:
        raise UsageError(
            "a bundle in an object store needs a container that fetches it",
            fix="Give an image with rclone: --fetch-image.",
        )
    return _write("kubernetes", Path(bundle), Path(folder), options)


def write_kserve(bundle: str | os.PathLike[str], folder: str | os.PathLike[str], options: DeployOptions) -> list[Path]:
    """Write a Helm chart that serves a bundle with KServe; arguments and errors are those of `write_kubernetes`."""
    if options.fetch_image or options.secret:
        raise UsageError(
            "KServe fetches the bundle itself",
            fix="Leave --fetch-image and --secret out, and give a --service-account that holds what it needs.",
        )
    return _write("kserve", Path(bundle), Path(folder), options)


def values(platform: str, facts: Facts, options: DeployOptions) -> dict[str, Any]:
    """The chart's values, as ``values.schema.json`` describes them."""
    source = options.origin
    key, _, label = options.clients.partition("=")
    # Half as many requests as a server works on at once, or as its queue holds.
    waiting = options.waiting or max(1, min(facts.instances, MAX_QUEUED) // 2)
    return {
        "platform": platform,
        "name": options.name,
        "image": options.image,
        "pullSecret": options.pull_secret,
        "serviceAccount": options.service_account,
        "bundle": {
            "sha256": facts.sha256,
            "model": facts.model,
            "engine": facts.engine,
            "precision": facts.precision,
            "maxBatch": facts.max_batch,
            "computeCapabilities": list(facts.capabilities),
            "fromAmpere": facts.from_ampere,
            "source": {"kind": source.kind, "root": source.root, "path": source.path},
            "fetchImage": options.fetch_image,
            "secret": options.secret,
        },
        "server": {
            "instances": options.instances,
            "exitTimeout": options.exit_timeout,
            "ipv6": options.ipv6,
            "cpu": cpu(options),
            "memory": memory(facts, options),
            "sharedMemory": shared_memory(facts),
            "temporary": temporary(facts),
            "gpus": int(facts.gpu),
            "gpuResource": options.gpu_resource,
        },
        "autoscaling": {
            "minReplicas": options.min_replicas,
            "maxReplicas": options.max_replicas,
            "waiting": waiting,
        },
        "network": {"clients": {key: label}, "monitoring": options.monitoring},
        # These kinds exist only in a cluster with the Prometheus operator. A server refuses what its queue cannot hold,
        # so that more requests than that never wait.
        "monitoring": {"enabled": False, "crowded": min(2 * waiting, MAX_QUEUED - 1)},
    }


def _write(platform: str, bundle: Path, folder: Path, options: DeployOptions) -> list[Path]:
    facts = Facts.of(Bundle(bundle), options)
    text = yaml.safe_dump(values(platform, facts, options), sort_keys=False, width=110, default_flow_style=False)
    files = {**_chart(), "values.yaml": (_HEAD.format(platform=platform, sha256=facts.sha256) + text).encode()}
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    _check_unchanged(folder)
    entries = {name.partition("/")[0] for name in (*files, *_sums(folder))}
    with replace_directory(folder, expected=entries | {_SUMS}, overwrite=True) as staging:
        for name, content in {**files, _SUMS: sums.encode()}.items():
            (staging / name).parent.mkdir(exist_ok=True)
            (staging / name).write_bytes(content)
    return [folder / name for name in sorted(files)]


def _chart() -> dict[str, bytes]:
    """Files of the chart in this package."""

    def below(folder: Traversable, prefix: str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for entry in folder.iterdir():
            name = prefix + entry.name
            found |= below(entry, f"{name}/") if entry.is_dir() else {name: entry.read_bytes()}
        return found

    return below(package_resources.files("lrclr.deploy") / "chart", "")


def _check_unchanged(folder: Path) -> None:
    """Refuse a folder that holds a file which this module did not write, or which was changed since."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    sums = _sums(folder)
    others = [
        name
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() or path.is_symlink()
        for name in [path.relative_to(folder).as_posix()]
        if name != _SUMS and (path.is_symlink() or sums.get(name) != sha256_of(path))
    ]
    refuse_other_files(folder, others or ([] if sums else [entry.name for entry in folder.iterdir()]))


def _sums(folder: Path) -> dict[str, str]:
    file = folder / _SUMS
    if not file.is_file():
        return {}
    found = re.findall(r"^([0-9a-f]{64})  (\S+)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return {name: digest for digest, name in found}
