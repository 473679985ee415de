"""A folder of manifests: whole or not at all, the same bytes for the same bundle and options."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from lrclr._files import replace_directory, sha256_of
from lrclr.bundle import Bundle
from lrclr.deploy._board import board
from lrclr.deploy._facts import Facts
from lrclr.deploy._kserve import kserve
from lrclr.deploy._kubernetes import kubernetes
from lrclr.deploy._monitoring import adapter_rule, pod_monitor, rules
from lrclr.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

    from lrclr.deploy._options import DeployOptions

__all__ = ["write_kserve", "write_kubernetes"]

# By which a folder is known again. `sha256sum -c` reads it, and kubectl leaves it alone.
_SUMS: Final = "SHA256SUMS"
_MONITORING: Final = "monitoring"
_HEAD: Final = "# Written by lrclr deploy {target} for the bundle {sha256}. Research use only. Not a medical device.\n"


def write_kubernetes(
    bundle: str | os.PathLike[str], folder: str | os.PathLike[str], options: DeployOptions
) -> list[Path]:
    """Write manifests for plain Kubernetes.

    Args:
        bundle: the bundle's folder; every hash of it is checked.
        folder: for the manifests; made, or replaced where it holds nothing but what this wrote.
        options: how to run.

    Returns:
        The files, in the order of their names.

    Raises:
        BundleError: the bundle is not whole.
        UsageError: the options do not go with the bundle, or the folder is somebody else's.
        LrclrError: the folder cannot be written.
    """
    source = options.origin
    if source.kind == "s3" and options.fetch_image is None:
        raise UsageError(
            "a bundle in an object store needs a container that fetches it",
            fix="Give an image with rclone: --fetch-image.",
        )
    return _write("kubernetes", kubernetes, Path(bundle), Path(folder), options)


def write_kserve(bundle: str | os.PathLike[str], folder: str | os.PathLike[str], options: DeployOptions) -> list[Path]:
    """Write manifests for KServe; arguments and errors are those of `write_kubernetes`."""
    if options.fetch_image or options.secret:
        raise UsageError(
            "KServe fetches the bundle itself",
            fix="Leave --fetch-image and --secret out, and give a --service-account that holds what it needs.",
        )
    return _write("kserve", kserve, Path(bundle), Path(folder), options)


def _write(
    target: str,
    manifests: Callable[[Facts, DeployOptions], Mapping[str, Sequence[Mapping[str, Any]]]],
    bundle: Path,
    folder: Path,
    options: DeployOptions,
) -> list[Path]:
    facts = Facts.of(Bundle(bundle), options)
    head = _HEAD.format(target=target, sha256=facts.sha256)
    files = {name: head + _yaml(objects) for name, objects in manifests(facts, options).items()}
    watching = {
        "pod-monitor.yaml": head + _yaml([pod_monitor(options)]),
        "prometheus-rule.yaml": head + _yaml([rules(facts, options)]),
        "prometheus-adapter.yaml": head + _yaml([adapter_rule(options)]),
        "grafana-board.json": json.dumps(board(options), indent=2) + "\n",
    }
    files |= {f"{_MONITORING}/{name}": text for name, text in watching.items()}
    sums = "".join(f"{hashlib.sha256(files[name].encode()).hexdigest()}  {name}\n" for name in sorted(files))
    _require_ours(folder)
    entries = {name.partition("/")[0] for name in files} | _known(folder)
    with replace_directory(folder, expected=entries | {_SUMS}, overwrite=True) as staging:
        (staging / _MONITORING).mkdir()
        for name, text in {**files, _SUMS: sums}.items():
            (staging / name).write_text(text, encoding="utf-8")
    return [folder / name for name in sorted(files)]


def _require_ours(folder: Path) -> None:
    """Refuse a folder that holds what we did not write, or what was changed since."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    sums = _sums(folder)
    strangers = [
        name
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() or path.is_symlink()
        for name in [path.relative_to(folder).as_posix()]
        if name != _SUMS and (path.is_symlink() or sums.get(name) != sha256_of(path))
    ]
    if strangers or not sums:
        raise UsageError(
            f"{folder} cannot be replaced",
            why="it holds what lrclr deploy did not write, or what was changed since"
            + (f" ({', '.join(strangers[:3])}{', …' if len(strangers) > 3 else ''})" if strangers else ""),
            fix="Choose another folder, or move it away.",
        )


def _sums(folder: Path) -> dict[str, str]:
    file = folder / _SUMS
    if not file.is_file():
        return {}
    found = re.findall(r"^([0-9a-f]{64})  (\S+)$", file.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return {name: digest for digest, name in found}


def _known(folder: Path) -> set[str]:
    """Entries of a folder that `_require_ours` let pass: manifests of the other kind are replaced too."""
    return {name.partition("/")[0] for name in _sums(folder)}


class _Dumper(yaml.SafeDumper):  # type: ignore[misc, unused-ignore]
    """Lists stand further in than their key, and nothing is written as a reference to something else."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - PyYAML's own
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's own
        return True


def _yaml(objects: Sequence[Mapping[str, Any]]) -> str:
    return "---\n".join(
        yaml.dump(one, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True, default_flow_style=False)
        for one in objects
    )
