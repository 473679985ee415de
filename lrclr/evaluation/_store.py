"""`store`: writes fitted values into a bundle or a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr._files import link_tree, replace_directory, write_whole
from lrclr.auto import is_bundle
from lrclr.bundle import Bundle, bundle_entries, write_manifest
from lrclr.card import CARD, ModelCard
from lrclr.engines._onnxruntime_package import onnxruntime_library
from lrclr.errors import UsageError
from lrclr.inference import (
    CALIBRATION_KEYS,
    ScoreCalibration,
    ZeroShotClassifier,
    combined_score,
    global_score,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lrclr.bundle import Golden, Manifest
    from lrclr.engines import Engine
    from lrclr.verification import GateResult, Tolerances

_Change = Callable[[dict[str, Any]], dict[str, Any]]
_CONFIG = "config.json"
_OWN = "; since it was set to"


def store(
    path: str | os.PathLike[str],
    *,
    alpha: float | None,
    score_scale: float | None,
    score_bias: float = 0.0,
    finding_calibration: Mapping[str, tuple[float, float]] | None = None,
    kept: Collection[str] = (),
) -> None:
    """Write scoring into a bundle or an LRCLR checkpoint folder, all of it or nothing.

    The reference answers of a bundle are recomputed for this scoring, and its gates are run on them, so that
    `lrclr verify` checks the stored values afterwards. Another alpha changes the ranking of images: the metrics of the
    model card are then left out.

    Args:
        path: the bundle or the folder.
        alpha: weight of the local score; ``None`` leaves it unchanged, as without a trained fusion head.
        score_scale, score_bias: values for findings without their own, see `lrclr.inference.ScoreCalibration`. A scale
            of ``None`` leaves both unchanged, in an ensemble those of each member.
        finding_calibration: scale and bias by finding; replaces the stored values.
        kept: findings that keep the values that they have.

    Raises:
        UsageError: the checkpoint cannot hold these values.
        GateError: the bundle does not pass a gate with this scoring; nothing was changed.
    """
    shared = None if score_scale is None else (score_scale, score_bias)

    def change(scoring: dict[str, Any]) -> dict[str, Any]:
        new = ScoreCalibration.from_dict(scoring).refitted(shared, finding_calibration or {}, kept).to_dict()
        # The new calibration may have no bias.
        rest = {key: value for key, value in scoring.items() if key not in CALIBRATION_KEYS}
        return rest | new | ({} if alpha is None else {"alpha": alpha})

    # A link to a model stays, and the model to which it leads is changed.
    folder = Path(os.path.realpath(path))
    if is_bundle(folder):
        _store_bundle(folder, change)
    else:
        _store_checkpoint(folder, change)


def check_storable(path: str | os.PathLike[str]) -> None:
    """Check, before an evaluation, that `store` can write into the model.

    Raises:
        UsageError: the model cannot hold fitted values, or ONNX Runtime, which checks a bundle, is not installed.
        EngineError: ONNX Runtime cannot be used.
    """
    if is_bundle(path):
        onnxruntime_library()
    else:
        _config(Path(path))


def _config(path: Path) -> dict[str, Any]:
    file = path / _CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is not JSON, or cannot be read") from error
    if not isinstance(config, dict) or config.get("model_type") != "lrclr":
        raise UsageError(
            f"{path} cannot hold fitted values",
            why="it is not an LRCLR checkpoint folder",
            fix="Make one with `lrclr convert`.",
        )
    return config


def _store_checkpoint(path: Path, change: _Change) -> None:
    config = _config(path)
    changed = change(config)
    if changed.get("alpha") != config.get("alpha"):
        _drop_metrics(path)
    text = json.dumps(changed, indent=2, sort_keys=True) + "\n"
    write_whole(path / _CONFIG, text.encode())


def _drop_metrics(folder: Path) -> None:
    """Leave the metrics out of a folder's card: they were measured with other scores."""
    card = ModelCard.beside(folder)
    if card.metrics:
        write_whole(folder / CARD, card.without_metrics().to_toml().encode())


def _store_bundle(path: Path, change: _Change) -> None:
    from lrclr.bundle import Golden
    from lrclr.engines import EngineOptions, engines_of, open_named_engine
    from lrclr.verification import Tolerances, raise_refused, verify

    bundle = Bundle(path)
    engine = open_named_engine(bundle, EngineOptions("onnxruntime", emulate=True))
    goldens, tasks = [], []
    scorings = [change(member.manifest.scoring) for member in bundle.members]
    for member, runner, scoring in zip(bundle.members, engines_of(engine), scorings, strict=True):
        limits = Tolerances.of_manifest(member.manifest.tolerances)
        golden, task = _task_reference(Golden.load(member.golden_path), member, runner, scoring, limits)
        raise_refused(task)
        goldens.append(_rescored(golden, member, scoring))
        tasks.append(task)
    with replace_directory(path, expected=bundle_entries(path), overwrite=True) as staging:
        link_tree(path, staging)
        for member, golden in zip(bundle.members, goldens, strict=True):
            file = staging / member.golden_path.relative_to(bundle.path)
            # A new file: the old one is shared with the existing bundle.
            file.unlink()
            golden.save(file)
        if scorings[0]["alpha"] != bundle.manifest.scoring["alpha"]:
            _drop_metrics(staging)
        manifest = bundle.manifest.with_members(
            [
                replace(member.manifest, scoring=scoring)
                for member, scoring in zip(bundle.members, scorings, strict=True)
            ]
        )
        report = verify(Bundle.unfinished(staging, manifest), engine)
        report.require()
        measured = {(result.gate, result.subject): result.to_dict() for result in report.gates}
        members = [
            _remeasured(member, f"{name}: " if name else "", measured, task, report.ran_on)
            for name, member, task in zip(manifest.member_names or ("",), manifest.members, tasks, strict=True)
        ]
        manifest = manifest.with_members(members)
        if manifest.ensemble is not None:
            manifest = _remeasured(manifest, "", measured, [], report.ran_on)
        write_manifest(staging, manifest)


def _remeasured(
    manifest: Manifest,
    prefix: str,
    measured: Mapping[tuple[str, str], dict[str, Any]],
    task: Sequence[GateResult],
    ran_on: str,
) -> Manifest:
    """A manifest with the gates that were measured again; `prefix` stands before their subjects."""
    new = {(gate.gate, gate.subject): gate.to_dict() for gate in task}

    def of(gate: dict[str, Any]) -> dict[str, Any]:
        found = measured.get((gate["gate"], prefix + gate["subject"]), gate)
        return new.get((gate["gate"], gate["subject"]), {**found, "subject": gate["subject"]})

    made_with = {**manifest.made_with, "gates_ran_on": ran_on}
    return replace(manifest, gates=list(map(of, manifest.gates)), made_with=made_with)


def _task_reference(
    golden: Golden, bundle: Bundle, engine: Engine, scoring: dict[str, Any], limits: Tolerances
) -> tuple[Golden, list[GateResult]]:
    """The reference AUROC under another scoring, and the task gate against PyTorch's AUROC.

    PyTorch's AUROC is that of the alpha of the export, and the checkpoint is not available here. The gate must pass
    with it. Then the bundle's own AUROC under the new alpha becomes the reference for other machines and engines, and
    the gate's note says so.
    """
    from lrclr.verification import task_auroc, task_gate

    before = ZeroShotClassifier(bundle, engine)
    results = task_gate(partial(task_auroc, before), float(golden.task_auroc), limits.task_auroc)
    alpha = float(scoring["alpha"])
    if not results or alpha == before.spec.alpha:
        return golden, results
    own = task_auroc(ZeroShotClassifier(replace(before.spec, alpha=alpha), engine))
    # The measurement against PyTorch stays in the note when alpha is changed again.
    notes = [gate["note"] for gate in bundle.manifest.gates if gate["gate"] == results[0].gate]
    measured = (notes or [results[0].note])[0].partition(_OWN)[0]
    note = f"{measured}{_OWN} alpha {alpha:g} the reference is this bundle's own"
    return replace(golden, task_auroc=np.array(own, np.float32)), [replace(results[0], note=note)]


def _rescored(golden: Golden, bundle: Bundle, scoring: dict[str, Any]) -> Golden:
    """The reference with the probabilities of PyTorch's scores under another scoring."""
    score = combined_score(
        global_score(golden["image_embedding"], golden["text_embedding"]), golden["local_score"], scoring["alpha"]
    )
    asked = score[:, : len(bundle.findings.prompts)]
    calibration = ScoreCalibration.from_dict(scoring)
    return replace(golden, probabilities=calibration.probabilities(asked, bundle.findings, bundle.findings))
