"""What makes an engine a bundle's own: the manifest and Triton's configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lrclr._files import write_whole
from lrclr.bundle import GRAPHS, MANIFEST, Manifest, file_table
from lrclr_export.repository.openvino_config import batched_again, serving_openvino
from lrclr_export.repository.plan_config import serving_graph, serving_plans

if TYPE_CHECKING:
    from pathlib import Path


def make_default(folder: Path, manifest: Manifest, engine: str, why: str) -> None:
    """Write the manifest, and Triton's configuration: it serves plans of TensorRT, and has no backend for RTX's.

    Args:
        folder: a bundle that nobody else sees yet.
        manifest: its own, with what was built.
        engine: that shall answer unless another is asked for.
        why: it is that.
    """
    entries = [entry for entry in manifest.plans if entry["engine"] == engine]
    for graph in GRAPHS:
        config = folder / graph / "config.pbtxt"
        shapes = {name: tensor["shape"] for name, tensor in manifest.graphs[graph]["inputs"].items()}
        text = batched_again(config.read_text(encoding="utf-8"), shapes, manifest.profiles)
        if engine == "tensorrt":
            capabilities = [entry["compute_capabilities"][0] for entry in entries]
            text = serving_plans(text, shapes, manifest.profiles, capabilities)
        elif engine == "openvino":
            file = str(entries[0]["graphs"][graph]["file"]).rpartition("/")[2]
            text = serving_openvino(text, file, half=manifest.precision == "fp16")
        else:
            text = serving_graph(text)
        write_whole(config, text.encode())
    renewed = replace(manifest, engine={"name": engine, "why": why}, files=file_table(folder))
    write_whole(folder / MANIFEST, renewed.to_json().encode())
