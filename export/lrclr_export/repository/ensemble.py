"""Exports several checkpoints as one bundle: an ensemble, whose probability is the mean of theirs."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from lrclr._files import replace_directory
from lrclr.bundle import MEMBER_NAME, SHARED_SCORING, Bundle, Manifest, bundle_entries, member_golden
from lrclr.contract import ModelNames
from lrclr.engines import EngineOptions, open_named_engine
from lrclr.errors import LrclrError, UsageError
from lrclr.verification import average_gate, raise_refused
from lrclr_export.progress import NO_PROGRESS
from lrclr_export.repository.entries import scoring_entry, tokenizer_entry
from lrclr_export.repository.pipeline import write_network, write_server_model
from lrclr_export.repository.records import write_records

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from lrclr.card import ModelCard
    from lrclr.checkpoints import Checkpoint
    from lrclr_export.progress import ProgressCallbacks
    from lrclr_export.repository.pipeline import ExportOptions

__all__ = ["Member", "export_ensemble"]


@dataclass(frozen=True)
class Member:
    """A checkpoint of an ensemble.

    Attributes:
        name: its name in the manifest and in reports of gates.
        read: reads it. It is called twice, so that one checkpoint is in memory at a time.
    """

    name: str
    read: Callable[[], Checkpoint]


def export_ensemble(
    members: Sequence[Member],
    output: Path,
    options: ExportOptions,
    *,
    regions_from: str | None = None,
    card: ModelCard | None = None,
    progress: ProgressCallbacks = NO_PROGRESS,
    finish: Callable[[Bundle], Manifest] = lambda bundle: bundle.manifest,
) -> Bundle:
    """Export checkpoints to one bundle `output`, in place of an existing bundle. After an error `output` is unchanged.

    The members are exported one after the other. Their gates run as for a bundle of their own, then the gate of the
    mean probability, for which all members are open in ONNX Runtime.

    Args:
        members: at least two, with different weights and names, and with the same preprocessing, tokenizer, findings
            and alpha. Scale, bias and threshold of scores may be those of each member.
        output: the bundle's folder.
        options: options of the export.
        regions_from: name of the member that gives the regions; by default the first.
        card: what is stated about the ensemble. The cards of the members are about other probabilities, and are not
            used.
        progress, finish: as for `export_bundle`.

    Raises:
        UsageError: the members cannot be one ensemble; the error names the difference.
        GateError, ExportError: as `export_bundle`. The error begins with the name of the member.
    """
    names = ModelNames(options.names.prefix, options.names.version, members=len(members))
    member_names = [member.name for member in members]
    lead = member_names[0] if regions_from is None else regions_from
    _check_names(member_names, lead)
    _check_alike(members, progress)
    with replace_directory(output, expected=bundle_entries(output), overwrite=True) as staging:
        manifests = []
        for number, (member, own) in enumerate(zip(members, names.of_members, strict=True), 1):
            progress.task(f"member {number} of {len(members)}: read {member.name}")
            try:
                manifests.append(
                    write_network(
                        staging,
                        member.read(),
                        replace(options, names=own),
                        golden_name=member_golden(own),
                        progress=progress,
                    )
                )
            except LrclrError as error:
                error.what = f"{member.name}: {error.what}"
                raise
        write_server_model(staging, names)
        if card is not None:
            card.save(staging)
        manifest = Manifest.combined(names, member_names, manifests, lead)
        progress.task("run the gate of the mean probability")
        bundle = Bundle.unfinished(staging, manifest)
        result = average_gate(bundle, open_named_engine(bundle, EngineOptions("onnxruntime", emulate=True)))
        progress.gates([result])
        raise_refused([result])
        finished = finish(Bundle.unfinished(staging, replace(manifest, gates=[result.to_dict()])))
        progress.task("write the manifest")
        write_records(staging, finished)
    return Bundle(output)


def _check_names(names: Sequence[str], lead: str) -> None:
    if len(names) < 2:
        raise UsageError("an ensemble needs at least two checkpoints")
    if len(set(names)) != len(names):
        raise UsageError("two members of the ensemble have the same name", fix="Give each another name.")
    if unfit := [name for name in names if not re.match(MEMBER_NAME, name)]:
        raise UsageError(
            f"{unfit[0][:40]!r} cannot be the name of a member",
            why="a name has 1 to 255 characters, and no control characters",
            fix="Rename its file.",
        )
    if lead not in names:
        raise UsageError(f"no member is named {lead!r}", fix=f"Choose {', '.join(names)}.")


_FIXES: Final = {
    "preprocessing": "Use checkpoints that agree, or make them agree with --preprocess.",
    "tokenizer": "Use checkpoints that agree, or make them agree with --tokenizer.",
    "findings": "Use checkpoints that agree, or make them agree with --findings.",
    "scoring": "Use checkpoints with one alpha, whose fusion heads are all trained or all untrained.",
}


def _check_alike(members: Sequence[Member], progress: ProgressCallbacks) -> None:
    """Read every checkpoint once, before the first export, and compare it with the first."""
    first: dict[str, Mapping[str, Any]] = {}
    known: dict[str, str] = {}
    for member in members:
        progress.task(f"read {member.name}")
        checkpoint = member.read()
        # Of the weights and not of the file, which may be another format of the same network.
        weights = _weights_sha256(checkpoint)
        if weights in known:
            raise UsageError(
                f"{known[weights]} and {member.name} have the same weights",
                why="such a member would count twice in the mean",
                fix="Give each checkpoint once.",
            )
        known[weights] = member.name
        facts: dict[str, Mapping[str, Any]] = {
            "preprocessing": checkpoint.preprocess.to_dict(),
            "tokenizer": tokenizer_entry(checkpoint),
            "findings": {each.name: (each.positive, each.negative) for each in checkpoint.findings.findings},
            "scoring": {name: scoring_entry(checkpoint)[name] for name in SHARED_SCORING},
        }
        first = first or facts
        for what, own in facts.items():
            if list(own.items()) != list(first[what].items()):
                raise UsageError(
                    f"{members[0].name} and {member.name} cannot be one ensemble",
                    why=f"they differ in {what}: {_difference(first[what], own)}",
                    fix=_FIXES[what],
                )


def _weights_sha256(checkpoint: Checkpoint) -> str:
    digest = hashlib.sha256()
    for name, tensor in checkpoint.model.state_dict().items():
        digest.update(f"{name} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first three names whose values differ, with short values."""
    differing = [name for name in {**one, **other} if one.get(name) != other.get(name)]

    def shown(values: Mapping[str, Any], name: str) -> str:
        return str(values[name])[:40] if name in values else "not there"

    if not differing:
        return "their order"
    return "; ".join(f"{name} ({shown(one, name)}, {shown(other, name)})" for name in differing[:3])
