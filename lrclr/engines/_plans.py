"""Whether a bundle's plans suit this machine: asked of its manifest before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrclr.errors import BundleError, EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.bundle import Bundle
    from lrclr.engines._gpu import Gpu


def plan_entry(bundle: Bundle, engine: str, library_version: str, gpu: Gpu | None) -> Mapping[str, Any]:
    """What the manifest says of the plans that this engine can run here.

    Args:
        bundle: with plans or without.
        engine: ``"tensorrt"`` or ``"tensorrt-rtx"``.
        library_version: of the library that would run them.
        gpu: that would; None where there is none.

    Raises:
        BundleError: there are none, or only for another library or GPU; the error names both and how to build anew.
        EngineError: there is no GPU.
    """
    rebuild = f"Build them here with: lrclr build {bundle.path} --engine {engine}"
    entries = [entry for entry in bundle.manifest.plans if entry["engine"] == engine]
    if not entries:
        raise BundleError(f"the bundle {bundle.path} has no plans for {engine}", fix=rebuild)
    suitable = [entry for entry in entries if _runs_in(entry, library_version)]
    if not suitable:
        built = ", ".join(sorted({entry["library"] for entry in entries}))
        raise BundleError(
            "the plans are of another version",
            why=f"built with {engine} {built}, this is {library_version}",
            fix=rebuild,
        )
    if gpu is None:
        raise EngineError(
            f"{engine} needs a GPU, and there is none here", fix="Ask for --engine onnxruntime, which runs the graphs."
        )
    for entry in suitable:
        if gpu.capability in entry["compute_capabilities"] or _moved(entry, gpu.capability):
            return entry
    built = ", ".join(sorted({name for entry in suitable for name in entry["compute_capabilities"]}))
    raise BundleError(
        "the plans are for another GPU", why=f"built for compute capability {built}, this is {gpu}", fix=rebuild
    )


def _runs_in(entry: Mapping[str, Any], version: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".") if part.isdigit()]

    if entry["options"]["version_compatible"]:
        return numbers(entry["library"]) <= numbers(version)
    return bool(entry["library"] == version)


def _moved(entry: Mapping[str, Any], capability: str) -> bool:
    """Whether the plan was built to run on GPUs of other capabilities than its own."""
    return entry["options"]["hardware_compatible"] == "ampere+" and float(capability) >= 8.0
