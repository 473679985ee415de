"""Makes OpenVINO the engine of a bundle: its gates, and the additional files of its server."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrclr.bundle import GRAPHS
from lrclr.engines import OpenVINOEngine
from lrclr.engines._openvino import half_graphs, read_model, reason
from lrclr.engines._openvino_library import openvino_library, release
from lrclr.errors import ExportError
from lrclr.verification import raise_refused, verify
from lrclr_export.progress import NO_PROGRESS

if TYPE_CHECKING:
    from pathlib import Path

    from lrclr.bundle import Bundle, Manifest
    from lrclr_export.progress import ProgressCallbacks

ENGINE = "openvino"


def add_openvino(bundle: Bundle, *, why: str, progress: ProgressCallbacks = NO_PROGRESS) -> Manifest:
    """Make OpenVINO the engine of an unfinished bundle.

    A graph with region selection is also written in OpenVINO's format, since Triton's backend does not support the
    node.

    Args:
        bundle: unfinished; files are added to its folder.
        why: the reason for that engine.
        progress: progress callbacks.

    Returns:
        The manifest to write.

    Raises:
        MissingExtraError, EngineError: OpenVINO cannot be used.
        ExportError: a graph could not be written.
        GateError: a gate refused.
    """
    library = openvino_library()
    manifest = bundle.manifest
    files = {graph: bundle.graph_path(graph) for graph in GRAPHS}
    for graph, described in manifest.graphs.items():
        if described["region_maps"] is not None:
            progress.task(f"write {graph} in OpenVINO's format")
            files[graph] = _written(library, files[graph])
    engine = OpenVINOEngine(files, half=half_graphs(manifest.precision))
    progress.task(f"run the gates on {engine.name}")
    report = verify(bundle, engine)
    results = list(report.gates)
    progress.gates(results)
    raise_refused(results)
    entry: dict[str, Any] = {
        "engine": ENGINE,
        "library": release(library),
        "compute_capabilities": [],
        "gates_ran_on": report.ran_on,
        "gates": [result.to_dict() for result in results],
        "graphs": {
            graph: {"file": file.relative_to(bundle.path).as_posix(), "products_run": report.products[graph]}
            for graph, file in files.items()
        },
    }
    plans = [entry, *(other for other in manifest.plans if other["engine"] != ENGINE)]
    return replace(manifest, plans=plans, engine={"name": ENGINE, "why": why})


def _written(library: Any, graph: Path) -> Path:
    target = graph.with_suffix(".xml")
    for file in (target, target.with_suffix(".bin")):
        # It may be a hard link to the file of another bundle.
        file.unlink(missing_ok=True)
    try:
        model = read_model(graph)
        _number_nodes(model)
        library.save_model(model, target, compress_to_fp16=False)
    except Exception as error:
        raise ExportError(f"{target.name} could not be written", why=reason(error)) from error
    return target


def _number_nodes(model: Any) -> None:
    """Number nodes without a name. OpenVINO's numbers count through the whole process, so files would differ."""
    for place, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"{node.get_type_name()}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}_{place}")
