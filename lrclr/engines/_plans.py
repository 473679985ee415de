"""Finds the plans in a bundle's manifest that this machine can run, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrclr.errors import BundleError, EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.bundle import Bundle
    from lrclr.engines._gpu import Gpu


def plan_entry(bundle: Bundle, engine: str, library_version: str, gpu: Gpu | None) -> Mapping[str, Any]:
    """The manifest's entry of plans that an engine can run on this machine.

    Args:
        bundle: the bundle.
        engine: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        library_version: version of the installed library.
        gpu: the GPU; None without a GPU.

    Raises:
        BundleError: the bundle has no plans, or only for another version or GPU. The error gives both, and the command
            that builds plans.
        EngineError: this machine has no GPU.
    """
    rebuild = f"Build them here with: lrclr build {bundle.path} --engine {engine}"
    entries = [entry for entry in bundle.manifest.plans if entry["engine"] == engine]
    if not entries:
        raise BundleError(f"the bundle {bundle.path} has no plans for {engine}", fix=rebuild)
    suitable = [entry for entry in entries if _runs_in(entry, library_version)]
    if not suitable:
        built = ", ".join(sorted({entry["library"] for entry in entries}))
        raise BundleError(
            "the plans were built with another version",
            why=f"built with {engine} {built}, and {library_version} is installed",
            fix=rebuild,
        )
    if gpu is None:
        raise EngineError(
            f"{engine} needs a GPU, and this machine has none",
            fix="Use --engine onnxruntime, which runs the graphs.",
        )
    for entry in suitable:
        if gpu.capability in entry["compute_capabilities"] or _is_compatible(entry, gpu.capability):
            return entry
    built = ", ".join(sorted({name for entry in suitable for name in entry["compute_capabilities"]}))
    raise BundleError(
        "the plans are for another GPU", why=f"built for compute capability {built}, and this is {gpu}", fix=rebuild
    )


def _runs_in(entry: Mapping[str, Any], version: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".") if part.isdigit()]

    if entry["options"]["version_compatible"]:
        return numbers(entry["library"]) <= numbers(version)
    return bool(entry["library"] == version)


def _is_compatible(entry: Mapping[str, Any], capability: str) -> bool:
    """Whether a plan also runs on GPUs of this compute capability."""
    return entry["options"]["hardware_compatible"] == "ampere+" and float(capability) >= 8.0
