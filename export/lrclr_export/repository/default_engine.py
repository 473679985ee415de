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
    """Write the manifest, and Triton's configuration: see `Manifest.served_plans`, and else the ONNX graphs.

    Args:
        folder: a bundle that nobody else sees yet.
        manifest: its own, with what was built.
        engine: that shall answer unless another is asked for.
        why: it is that.
    """
    renewed = replace(manifest, engine={"name": engine, "why": why})
    entries = [entry for entry in manifest.plans if entry["engine"] == engine]
    served = {entry["compute_capabilities"][0]: entry["options"] for entry in renewed.served_plans}
    # What was built for other GPUs too serves those that no plan was built for.
    moving = [one for one in sorted(served, key=float) if served[one]["hardware_compatible"] == "ampere+"]
    for graph in GRAPHS:
        config = folder / graph / "config.pbtxt"
        shapes = {name: tensor["shape"] for name, tensor in manifest.graphs[graph]["inputs"].items()}
        text = batched_again(config.read_text(encoding="utf-8"), shapes, manifest.profiles)
        if served:
            text = serving_plans(text, shapes, manifest.profiles, list(served), default=moving[0] if moving else None)
        elif engine == "openvino":
            file = str(entries[0]["graphs"][graph]["file"]).rpartition("/")[2]
            text = serving_openvino(text, file, half=manifest.precision == "fp16")
        else:
            text = serving_graph(text)
        write_whole(config, text.encode())
    write_whole(folder / MANIFEST, replace(renewed, files=file_table(folder)).to_json().encode())
