"""The manifest of a bundle: its content, its origin and the results of its gates.

It is checked before anything is loaded. It holds no absolute path, no time and no patient data, so the same checkpoint
exported twice gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, NotRequired, TypedDict

from msgspec import Meta

from lrclr import contract
from lrclr._records import json_content, record_from
from lrclr.bundle._serving import ServingSettings, TuningEntry
from lrclr.contract import ModelNames
from lrclr.errors import BundleError, UsageError

GRAPHS: Final = tuple(contract.GRAPHS)
SCHEMA_VERSION: Final = 8
MANIFEST, GOLDEN, TOKENIZER, FINDINGS = "manifest.json", "golden.npz", "tokenizer.json", "findings.toml"
_DIGEST = "manifest_sha256"
# The name of a member of an ensemble: no control characters, line separators or halves of characters.
MEMBER_NAME: Final = r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,255}\Z"
# Fields of a manifest that are the same for all members of an ensemble.
_SHARED: Final = (
    "preprocess",
    "tokenizer",
    "precision",
    "opset",
    "max_batch",
    "profiles",
    "tolerances",
    "engine",
)
# Of the scoring. Scale, bias and threshold may be those of each member: a network may have learnt its own.
SHARED_SCORING: Final = ("alpha", "fusion_trained")
# Fields that are left out if they are empty.
_OPTIONAL: Final = frozenset({"ensemble", "tuning"})
_MAX_MANIFEST_BYTES = 16 << 20

_Size = Annotated[list[int], Meta(min_length=3, max_length=3)]


class FileEntry(TypedDict):
    """Hash and size of a file."""

    sha256: str
    bytes: int


class TensorEntry(TypedDict):
    """Type and shape of an input or output; a name stands for a dynamic axis."""

    type: str
    shape: list[int | str]


class Float32Entry(TypedDict):
    """What of a tower in float16 stays in float32: the residual stream, and some linear layers."""

    residual_stream: bool
    layers: list[str]


class GraphEntry(TypedDict):
    """One graph, see `Manifest`."""

    inputs: dict[str, TensorEntry]
    outputs: dict[str, TensorEntry]
    precision_histogram: dict[str, dict[str, int]]
    inlined: str | None
    region_maps: int | None
    # In float16 only.
    largest_activations: NotRequired[dict[str, float]]
    products_run: NotRequired[dict[str, int]]
    float32_parts: NotRequired[Float32Entry]


class TokenizerEntry(TypedDict):
    """The tokenizer, see `Manifest`."""

    sha256: str
    context_length: int
    eot_id: int
    has_bos: bool
    pad_id: int
    fixed_length: bool
    causal: bool


class MemberEntry(TypedDict):
    """A member of an ensemble: its name, and the manifest that a bundle of this network alone would have.

    Such a manifest has no table of files and no members. Its models in Triton have the prefix of the member. The name
    is shown in terminals, so that it has no control characters.
    """

    name: Annotated[str, Meta(pattern=MEMBER_NAME)]
    manifest: dict[str, Any]


class EnsembleEntry(TypedDict):
    """The members of an ensemble, in order, and the name of the one whose regions are shown."""

    regions_from: str
    members: list[MemberEntry]


class EngineEntry(TypedDict):
    """The bundle's engine, see `Manifest`."""

    name: str
    why: str


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`, without its schema version and its hash.

    In the manifest of an ensemble, every field that describes one network is that of the member that gives the regions;
    `combined` makes it.

    Attributes:
        made_with: versions of the software that made the bundle, and the machine that ran the gates.
        checkpoint: ``source`` (kind) and ``sha256`` of the checkpoint, and ``origin`` if it is known: the repository of
            the Hugging Face Hub and its commit.
        model: configuration of the network, unchanged.
        scoring: ``alpha`` in effect, ``fusion_trained``, and the keys of `ScoreCalibration.to_dict`.
        preprocess: see `PreprocessSpec.to_dict`.
        tokenizer: hash, context length, number of the EOT token, `ClipTokenizer.options`, and whether the text encoder
            is ``causal``.
        precision: type of the matrix products in the graphs: ``"fp16"``, ``"fp32"``, ``"int8"`` or ``"fp8"``.
        quantization: for int8 and fp8 the calibration data, the number of quantised layers of each graph, the layers
            that were left out with the reason, and the loss on the calibration images; None for other precisions.
        opset: ONNX operator set of the graphs.
        max_batch: largest number of images in one run of the image encoder.
        profiles: smallest, commonest and largest size of each dynamic axis, for one image and for batches. Plans are
            built for these sizes, and the server accepts them.
        graphs: for each graph its inputs, outputs, precision histogram, the number of maps that its region node takes,
            and the file in which that node is expanded (``inlined``), or None. For towers in float16 also the largest
            magnitude in each layer on the calibration images (``largest_activations``), and what stays in float32
            because of it (``float32_parts``), if anything does.
            ``products_run`` is the number of products by type that ONNX Runtime ran when the gates passed.
        engine: ``name`` of the engine that runs the bundle by default, and the reason (``why``).
        triton: names and version of the models, from `ModelNames.to_dict`.
        plans: the results of `lrclr build` for each engine, and for each GPU where plans depend on it, with versions,
            options and gates; see `plan_entry`. For OpenVINO the files of a server; the engine reads the ONNX graphs.
        tolerances: limits of the gates; ``"overridden"`` lists those that the user changed.
        gates: every gate with its tolerance and its measured value; of an ensemble the gate of the mean probability,
            as those of a member are in the manifest of the member.
        files: hash and size of every other file, by its path within the bundle.
        ensemble: the members of an ensemble; None for a single network.
        tuning: what `lrclr tune` found for each engine that it measured; of an ensemble for all members together.
    """

    made_with: dict[str, str]
    checkpoint: dict[str, str]
    model: dict[str, Any]
    scoring: dict[str, Any]
    preprocess: dict[str, Any]
    tokenizer: TokenizerEntry
    precision: Annotated[str, Meta(pattern="^(fp16|fp32|int8|fp8)$")]
    quantization: dict[str, Any] | None
    opset: int
    max_batch: int
    profiles: Annotated[list[dict[str, _Size]], Meta(min_length=1)]
    graphs: dict[str, GraphEntry]
    engine: EngineEntry
    triton: dict[str, Any]
    plans: list[dict[str, Any]]
    tolerances: dict[str, Any]
    gates: list[dict[str, Any]]
    files: dict[str, FileEntry]
    ensemble: EnsembleEntry | None = None
    tuning: list[TuningEntry] = field(default_factory=list)

    def to_json(self) -> str:
        """The text of the manifest, with its hash.

        A single network has no field ``ensemble``, and a bundle that was not tuned no field ``tuning``.
        """
        content = {"schema": SCHEMA_VERSION, **self._content()}
        return json.dumps({**content, _DIGEST: _digest(content)}, indent=2, sort_keys=True, allow_nan=False) + "\n"

    @property
    def names(self) -> ModelNames:
        """Names of the models in Triton.

        Raises:
            BundleError: the manifest has names that no bundle has.
        """
        try:
            return ModelNames(**self.triton)
        except (TypeError, UsageError) as error:
            raise damaged("its names of models cannot be used") from error

    def _content(self) -> dict[str, Any]:
        content = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in content.items() if value or name not in _OPTIONAL}

    @property
    def member_names(self) -> tuple[str, ...]:
        """Names of the members of an ensemble, in order; empty for a single network."""
        return () if self.ensemble is None else tuple(each["name"] for each in self.ensemble["members"])

    @property
    def lead(self) -> int:
        """Index of the member that gives the regions; 0 for a single network."""
        return 0 if self.ensemble is None else self.member_names.index(self.ensemble["regions_from"])

    @property
    def members(self) -> tuple[Manifest, ...]:
        """The manifest of each member of an ensemble, in order; of a single network this one alone."""
        if self.ensemble is None:
            return (self,)
        return tuple(Manifest(**each["manifest"]) for each in self.ensemble["members"])

    @property
    def all_gates(self) -> list[dict[str, Any]]:
        """The gates; of an ensemble those of the mean probability, then those of each member."""
        return [*([] if self.ensemble is None else self.gates), *(gate for each in self.members for gate in each.gates)]

    def with_members(self, members: Sequence[Manifest]) -> Manifest:
        """The manifest with other content of the same members, in order; see `members`."""
        if self.ensemble is None:
            (alone,) = members
            return alone
        made = self.combined(self.names, self.member_names, members, self.ensemble["regions_from"])
        return replace(made, gates=self.gates, tuning=self.tuning)

    @property
    def triton_engine(self) -> str:
        """The engine that Triton uses: it has no backend for plans of TensorRT-RTX, and serves the graphs instead."""
        name = self.engine["name"]
        return "onnxruntime" if name == "tensorrt-rtx" else name

    @property
    def serving(self) -> ServingSettings:
        """How Triton serves the bundle: as `lrclr tune` found for `triton_engine`, else the defaults."""
        entry = next((each for each in self.tuning if each["engine"] == self.triton_engine), None)
        return ServingSettings() if entry is None else record_from(entry["settings"], ServingSettings)

    def tuned(self, settings: ServingSettings, measured: dict[str, Any] | None = None) -> Manifest:
        """The manifest with other settings for `triton_engine`.

        Args:
            settings: the settings.
            measured: what was measured with them.
        """
        entry: TuningEntry = {
            "engine": self.triton_engine,
            "settings": settings.to_dict(),
            "measured": measured or {},
        }
        others = [each for each in self.tuning if each["engine"] != entry["engine"]]
        return replace(self, tuning=sorted([*others, entry], key=lambda each: each["engine"]))

    @classmethod
    def combined(
        cls, names: ModelNames, member_names: Sequence[str], members: Sequence[Manifest], regions_from: str
    ) -> Manifest:
        """The manifest of an ensemble, without its own gates and without files.

        Args:
            names: names of its models.
            member_names: name of each member.
            members: manifest of each member, all with the same preprocessing, tokenizer, `SHARED_SCORING`, precision
                and engine.
            regions_from: name of the member that gives the regions.
        """
        lead = members[list(member_names).index(regions_from)]
        digest = hashlib.sha256("".join(each.checkpoint["sha256"] for each in members).encode())
        entries: list[MemberEntry] = [
            {"name": name, "manifest": replace(each, files={})._content()}  # noqa: SLF001 - of this class
            for name, each in zip(member_names, members, strict=True)
        ]
        return replace(
            lead,
            checkpoint={"source": f"ensemble of {len(members)}", "sha256": digest.hexdigest()},
            triton=names.to_dict(),
            gates=[],
            files={},
            ensemble={"regions_from": regions_from, "members": entries},
            tuning=[],
        )

    @property
    def served_plans(self) -> list[dict[str, Any]]:
        """The plans that Triton serves: those of TensorRT with weights, if TensorRT is the engine of the bundle.

        Triton would run a stripped plan without its weights, which `lrclr predict` puts back. Triton has no backend for
        plans of TensorRT-RTX.
        """
        if self.engine["name"] != "tensorrt":
            return []
        return [entry for entry in self.plans if entry["engine"] == "tensorrt" and not entry["options"]["strip"]]

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            BundleError: it has another version, is incomplete, or was changed since it was written.
        """
        try:
            content = json_content(text)
        except ValueError as error:
            raise damaged(str(error)) from error
        if not isinstance(content, dict):
            raise damaged("it is not a JSON object")
        version = content.get("schema")
        if version != SCHEMA_VERSION:
            shown = version if isinstance(version, int) else "unknown"
            raise BundleError(
                f"the bundle's manifest has version {shown}",
                why=f"this lrclr reads version {SCHEMA_VERSION}",
                fix="Export the checkpoint again with `lrclr export`.",
            )
        if content.pop(_DIGEST, None) != _digest(content):
            raise damaged("its content does not match its hash")
        del content["schema"]
        manifest = cls._checked(content)
        if manifest.ensemble is not None:
            members = [cls._checked(each["manifest"]) for each in manifest.ensemble["members"]]
            _check_members(manifest, members)
        if manifest.to_json() != text:
            raise damaged("it is not what lrclr wrote")
        return manifest

    @classmethod
    def _checked(cls, content: dict[str, Any]) -> Manifest:
        """A manifest from the content of a file or of a member's entry, whose fields have the right types."""
        names = {each.name for each in fields(cls)}
        differing = (content.keys() ^ names) - (_OPTIONAL - content.keys())
        if differing:
            raise damaged(f"its fields differ: {', '.join(sorted(differing))}")
        try:
            record_from(content, cls)
            for entry in content.get("tuning", []):
                record_from(entry["settings"], ServingSettings)
        except ValueError as error:
            raise damaged(str(error)) from error
        # Not the record, which has no nested field that is unknown here.
        return cls(**content)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_members(manifest: Manifest, members: Sequence[Manifest]) -> None:
    """Raise BundleError unless the members of an ensemble belong together. A manifest may be forged."""
    ensemble = manifest.ensemble
    assert ensemble is not None  # noqa: S101 - for the type checker
    names = manifest.member_names
    if len(members) < 2 or len(set(names)) != len(names) or ensemble["regions_from"] not in names:
        raise damaged("its ensemble has fewer than two members, equal names, or regions of none of them")
    own = manifest.names
    if own.members != len(members) or [each.names for each in members] != list(own.of_members):
        raise damaged("the names of the models of its members are not those of an ensemble")
    if any(each.ensemble is not None or each.files or each.tuning for each in members):
        raise damaged("a member of its ensemble has members, files or a tuning of its own")
    expected = Manifest.combined(own, names, members, ensemble["regions_from"])
    if replace(expected, gates=manifest.gates, files=manifest.files, tuning=manifest.tuning) != manifest:
        raise damaged("it differs from what its members say")
    for each in members:
        differing = [name for name in _SHARED if getattr(each, name) != getattr(members[0], name)]
        differing += [name for name in SHARED_SCORING if each.scoring.get(name) != members[0].scoring.get(name)]
        if differing:
            raise damaged(f"its members differ in {differing[0]}")


def damaged(why: str) -> BundleError:
    return BundleError(
        "the bundle's manifest is damaged", why=why, fix="Export the checkpoint again with `lrclr export`."
    )


def read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(
            f"{path} is not a bundle", why=f"it has no {MANIFEST}", fix="Make one with `lrclr export CHECKPOINT`."
        )
    try:
        if file.stat().st_size > _MAX_MANIFEST_BYTES:
            raise damaged("it is larger than any manifest of lrclr")
        # Not read as text, which would convert line breaks.
        return Manifest.from_json(file.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise damaged("it is not UTF-8 text") from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read", why=error.strerror) from error
