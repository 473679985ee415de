"""Fitted values written into the model that they were fitted for."""

from __future__ import annotations

import json
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrclr._files import replace_directory, sha256_of
from lrclr.bundle import ENTRIES, GOLDEN, MANIFEST, Bundle
from lrclr.errors import UsageError
from lrclr.evaluation._models import is_bundle
from lrclr.evaluation._write import write_whole
from lrclr.scoring import combined_score, global_score, probabilities

if TYPE_CHECKING:
    from lrclr.gates import Golden

__all__ = ["check_storable", "store"]

_CONFIG = "config.json"


def store(path: str | os.PathLike[str], *, alpha: float | None, score_scale: float) -> None:
    """Write scoring into a bundle or an LRCLR checkpoint folder, all of it or nothing.

    A bundle's reference answers are computed anew for this scoring, and its gates are run on them: what `lrclr verify`
    checks afterwards is what was stored.

    Args:
        path: the bundle or the folder.
        alpha: weight of the local score; ``None`` leaves it, as for a fusion head that is not trained.
        score_scale: factor on scores before the softmax.

    Raises:
        UsageError: the checkpoint has no place for it.
        GateError: a gate of the bundle does not hold with this scoring; nothing was changed.
    """
    change: dict[str, float] = {"score_scale": score_scale} | ({} if alpha is None else {"alpha": alpha})
    if is_bundle(path):
        _store_bundle(Path(path), change)
    else:
        _store_checkpoint(Path(path), change)


def check_storable(path: str | os.PathLike[str]) -> None:
    """Raise UsageError where `store` would find no place, before an hour of work."""
    if not is_bundle(path):
        _config(Path(path))


def _config(path: Path) -> dict[str, Any]:
    file = path / _CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is not readable JSON") from error
    if not isinstance(config, dict) or config.get("model_type") != "lrclr":
        raise UsageError(
            f"{path} has no place for fitted values",
            why="it is no LRCLR checkpoint folder",
            fix="Make one with `lrclr convert`.",
        )
    return config


def _store_checkpoint(path: Path, change: dict[str, float]) -> None:
    text = json.dumps({**_config(path), **change}, indent=2, sort_keys=True) + "\n"
    write_whole(path / _CONFIG, text.encode())


def _store_bundle(path: Path, change: dict[str, float]) -> None:
    from lrclr.engines import OnnxRuntimeEngine
    from lrclr.gates import Golden, Tolerances, raise_refused, run_gates

    bundle = Bundle(path)
    manifest = bundle.manifest
    scoring = {**manifest.scoring, **change}
    golden = _rescored(Golden.load(bundle.golden_path), bundle, scoring)
    limits = {name: value for name, value in manifest.tolerances.items() if name != "overridden"}
    engine = OnnxRuntimeEngine(bundle)
    results = run_gates(engine, golden, bundle.findings, scoring, Tolerances(**limits))
    raise_refused(results)
    measured = {(result.gate, result.subject): result.to_dict() for result in results}
    with replace_directory(path, expected=ENTRIES, overwrite=True) as staging:
        shutil.copytree(path, staging, dirs_exist_ok=True, copy_function=_link)
        # The old files are shared with the bundle that is still there: new ones take their places.
        for name in (GOLDEN, MANIFEST):
            (staging / name).unlink()
        golden.save(staging / GOLDEN)
        entry = {"sha256": sha256_of(staging / GOLDEN), "bytes": (staging / GOLDEN).stat().st_size}
        machine = f"{engine.name}, {platform.machine()}, {os.cpu_count()} cores"
        renewed = replace(
            manifest,
            scoring=scoring,
            gates=[measured.get((gate["gate"], gate["subject"]), gate) for gate in manifest.gates],
            files={**manifest.files, GOLDEN: entry},
            made_with={**manifest.made_with, "gates_ran_on": machine},
        )
        (staging / MANIFEST).write_text(renewed.to_json())


def _rescored(golden: Golden, bundle: Bundle, scoring: dict[str, Any]) -> Golden:
    """The reference with the probabilities that PyTorch's scores give under another scoring."""
    score = combined_score(
        global_score(golden.image_embedding, golden.text_embedding), golden.local_score, scoring["alpha"]
    )
    asked = score[:, : len(bundle.findings.prompts)]
    return replace(golden, probabilities=probabilities(asked, bundle.findings, scoring["score_scale"]))


def _link(source: str, target: str) -> str:
    """A hard link where the file system has them: graphs are large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
