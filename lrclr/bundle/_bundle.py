"""A bundle: a Triton model repository with a manifest of its content, its origin and the results of its gates.

The manifest is checked before anything is loaded. It holds no absolute path, no time and no patient data, so the same
checkpoint exported twice gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Final, NotRequired, TypedDict

from msgspec import Meta

from lrclr import contract
from lrclr._files import sha256_of
from lrclr._processors import processors
from lrclr._records import json_content, record_from
from lrclr.card import CARD, MARK, README
from lrclr.contract import ModelNames
from lrclr.errors import BundleError, LrclrError, UsageError
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import ClipTokenizer, FindingSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

GRAPHS: Final = tuple(contract.GRAPHS)
SCHEMA_VERSION: Final = 8
MANIFEST, GOLDEN, TOKENIZER, FINDINGS = "manifest.json", "golden.npz", "tokenizer.json", "findings.toml"
# The only code in a bundle. Triton runs it.
SERVER_MODEL: Final = """from lrclr.triton.model.lrclr_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""
# An empty file beside SERVER_MODEL. Without it, Python makes a folder of this name, and a bundle with an additional
# folder is refused. The Python in Triton ignores PYTHONDONTWRITEBYTECODE.
NO_CACHE: Final = "__pycache__"
# Every path that a manifest may list, with the names and the version of its models. Of the files that
# Python or Triton would run as code, only the server's model matches, and its content is compared with SERVER_MODEL.
_LISTED: Final = (
    r"GOLDEN|tokenizer\.json|findings\.toml|card\.toml|README\.md"
    r"|(?:GRAPH|CLASSIFIER)/config\.pbtxt"
    r"|GRAPH/warmup/[a-z0-9_]+"
    r"|GRAPH/VERSION/model[a-z0-9_.]*\.(onnx|data|xml|bin|plan)"
    rf"|CLASSIFIER/VERSION/(?:model\.py|{NO_CACHE})"
)
# The root of an ext4 volume contains this folder, which only root can read. It is ignored.
_LOST_AND_FOUND: Final = "lost+found"
_DIGEST = "manifest_sha256"
# The name of a member of an ensemble: no control characters, line separators or halves of characters.
MEMBER_NAME: Final = r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,255}\Z"
# Fields of a manifest that are the same for all members of an ensemble.
_SHARED: Final = (
    "scoring",
    "preprocess",
    "tokenizer",
    "precision",
    "opset",
    "max_batch",
    "profiles",
    "tolerances",
    "engine",
)
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
        precision: type of the matrix products in the graphs: ``"fp16"``, ``"fp32"`` or ``"int8"``.
        quantization: for int8 the calibration data, the number of int8 layers of each graph, the layers that stayed in
            float32 with the reason, and the loss on the calibration images; None for other precisions.
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
    """

    made_with: dict[str, str]
    checkpoint: dict[str, str]
    model: dict[str, Any]
    scoring: dict[str, Any]
    preprocess: dict[str, Any]
    tokenizer: TokenizerEntry
    precision: Annotated[str, Meta(pattern="^(fp16|fp32|int8)$")]
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

    def to_json(self) -> str:
        """The text of the manifest, with its hash. A single network has no field ``ensemble``."""
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
            raise _damaged("its names of models cannot be used") from error

    def _content(self) -> dict[str, Any]:
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.ensemble is None:
            del content["ensemble"]
        return content

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
        return replace(made, gates=self.gates)

    @classmethod
    def combined(
        cls, names: ModelNames, member_names: Sequence[str], members: Sequence[Manifest], regions_from: str
    ) -> Manifest:
        """The manifest of an ensemble, without its own gates and without files.

        Args:
            names: names of its models.
            member_names: name of each member.
            members: manifest of each member, all with the same preprocessing, tokenizer, scoring, precision and engine.
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
            raise _damaged(str(error)) from error
        if not isinstance(content, dict):
            raise _damaged("it is not a JSON object")
        version = content.get("schema")
        if version != SCHEMA_VERSION:
            shown = version if isinstance(version, int) else "unknown"
            raise BundleError(
                f"the bundle's manifest has version {shown}",
                why=f"this lrclr reads version {SCHEMA_VERSION}",
                fix="Export the checkpoint again with `lrclr export`.",
            )
        if content.pop(_DIGEST, None) != _digest(content):
            raise _damaged("its content does not match its hash")
        del content["schema"]
        manifest = cls._checked(content)
        if manifest.ensemble is not None:
            members = [cls._checked(each["manifest"]) for each in manifest.ensemble["members"]]
            _check_members(manifest, members)
        if manifest.to_json() != text:
            raise _damaged("it is not what lrclr wrote")
        return manifest

    @classmethod
    def _checked(cls, content: dict[str, Any]) -> Manifest:
        """A manifest from the content of a file or of a member's entry, whose fields have the right types."""
        names = {field.name for field in fields(cls)}
        differing = (content.keys() ^ names) - ({"ensemble"} - content.keys())
        if differing:
            raise _damaged(f"its fields differ: {', '.join(sorted(differing))}")
        try:
            record_from(content, cls)
        except ValueError as error:
            raise _damaged(str(error)) from error
        # Not the record, which has no nested field that is unknown here.
        return cls(**content)


class Bundle:
    """A bundle on disk whose files are exactly those that its manifest lists.

    Args:
        path: the bundle's folder.

    Attributes:
        members: of an ensemble, the bundle of each member, in order. They share its folder, tokenizer and findings. Of
            a single network this bundle alone.

    Raises:
        BundleError: the folder is not a bundle; a file is missing, was changed, is a symbolic link or is not listed;
            the manifest lists a path that cannot be in a bundle, or has another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        manifest = _read_manifest(Path(path))
        _check_files(Path(path), manifest)
        self._open(Path(path), manifest)

    @classmethod
    def unfinished(cls, path: Path, manifest: Manifest, *, golden: str = GOLDEN) -> Bundle:
        """Open a bundle whose manifest is not written yet. Its files are not checked.

        Args:
            path: the folder, with graphs, tokenizer, findings and golden data.
            manifest: the manifest so far.
            golden: name of the file with the golden data: that of `member_golden` for a member of an ensemble.

        Raises:
            BundleError: the preprocessing, the findings or the tokenizer cannot be used.
        """
        bundle = cls.__new__(cls)
        bundle._open(path, manifest)  # noqa: SLF001 - of this class
        bundle._golden = golden  # noqa: SLF001 - of this class
        return bundle

    def _open(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        try:
            self.preprocess = PreprocessSpec.from_dict(self.manifest.preprocess)
            self.findings = FindingSet.load(self.path / FINDINGS)
            entry = self.manifest.tokenizer
            self.tokenizer = ClipTokenizer.from_file(
                self.path / TOKENIZER,
                context_length=entry["context_length"],
                has_bos=entry["has_bos"],
                pad_id=entry["pad_id"],
                fixed_length=entry["fixed_length"],
            )
        except LrclrError as error:
            raise BundleError(f"the bundle {self.path} cannot be used", why=str(error)) from error
        self._golden, self._whole = GOLDEN, self
        self.members: tuple[Bundle, ...] = (self,)
        if manifest.ensemble is not None:
            self.members = tuple(self._member(each) for each in manifest.members)

    def _member(self, manifest: Manifest) -> Bundle:
        member = copy(self)
        member.manifest, member.members = manifest, (member,)
        member._golden, member._whole = member_golden(manifest.names), self  # noqa: SLF001 - of this class
        return member

    @property
    def lead(self) -> Bundle:
        """The member that gives the regions; of a single network this bundle."""
        return self.members[self.manifest.lead]

    @property
    def sha256(self) -> str:
        """SHA-256 of ``manifest.json``, which identifies the bundle: it lists the hash of every other file."""
        return hashlib.sha256(self._whole.manifest.to_json().encode()).hexdigest()

    def require(self, sha256: str) -> None:
        """Check that this is the expected bundle.

        Raises:
            BundleError: its manifest has another hash.
        """
        if self.sha256 != sha256:
            raise BundleError(
                f"{self.path} is not the bundle that was expected",
                why=f"its manifest has the hash {self.sha256}, and {sha256} was expected",
                fix="Put the expected bundle there, or change the expected hash.",
            )

    def graph_path(self, graph: str) -> Path:
        """The ONNX file of one of `GRAPHS`; of an ensemble that of `lead`."""
        names = self.lead.manifest.names
        return self.path / names.folder(names.of(graph)) / "model.onnx"

    def inlined_path(self, graph: str) -> Path | None:
        """The ONNX file of one of `GRAPHS` without functions; None if the bundle has none."""
        file = self.manifest.graphs[graph]["inlined"]
        return None if file is None else self.path / file

    def require_servable(self) -> None:
        """Check that Triton can serve the plans of this bundle.

        Raises:
            UsageError: the weights of its plans were stripped.
        """
        if self.manifest.engine["name"] == "tensorrt" and not self.manifest.served_plans:
            raise UsageError(
                f"Triton cannot serve the plans of the bundle {self.path}",
                why="they were built with --strip, and Triton does not put the weights back",
                fix=f"Run: lrclr build {self.path} --engine tensorrt (without --strip), or --engine onnxruntime",
            )

    def plan_path(self, graph: str, entry: Mapping[str, Any]) -> Path:
        """The plan of one of `GRAPHS`, by an entry of the manifest's ``plans``."""
        return self.path / str(entry["graphs"][graph]["file"])

    @property
    def golden_path(self) -> Path:
        """File with the inputs of the gates and the outputs of the PyTorch model; of an ensemble that of `lead`."""
        return self.path / self.lead._golden  # noqa: SLF001 - of this class

    @property
    def patch_size(self) -> int:
        """Side of a patch, in pixels of the network's input."""
        return int(self.manifest.model["vision_config"]["patch_size"])


def require_digest(text: str) -> None:
    """Raise UsageError if a text is not a SHA-256 in hexadecimal digits."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise UsageError(
            f"{text!r} is not a SHA-256",
            why="a SHA-256 has 64 digits from 0 to f",
            fix="sha256sum BUNDLE/manifest.json prints it.",
        )


def bundle_entries(path: Path) -> tuple[str, ...]:
    """Return the entries that a folder may hold to be replaced by a bundle: those of the bundle that is there.

    Names of models depend on the bundle's prefix. Without a readable manifest, they are those without a prefix.
    """
    try:
        names = _read_manifest(path).names
    except BundleError:
        names = ModelNames()
    card = path / README
    # A folder may hold nothing but a README.md of someone else.
    has_own = card.is_file() and MARK.encode() in card.read_bytes()
    return (*names.all, MANIFEST, *_goldens(names), TOKENIZER, FINDINGS, CARD, *([README] if has_own else []))


def member_golden(names: ModelNames) -> str:
    """Name of the golden file of a member of an ensemble, by the names of its models."""
    return f"{names.prefix}{GOLDEN}"


def _goldens(names: ModelNames) -> tuple[str, ...]:
    return tuple(map(member_golden, names.of_members)) if names.members else (GOLDEN,)


def plan_file(engine: str, capability: str) -> str:
    """Name of the file of a plan. TensorRT has one for each compute capability, TensorRT-RTX one for all."""
    return f"model_sm{capability.replace('.', '')}.plan" if engine == "tensorrt" else "model.rtx.plan"


def file_table(root: Path) -> dict[str, FileEntry]:
    """Hash and size of every file below `root`, for the manifest."""
    return {
        path.relative_to(root).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check_members(manifest: Manifest, members: Sequence[Manifest]) -> None:
    """Raise BundleError unless the members of an ensemble belong together. A manifest may be forged."""
    ensemble = manifest.ensemble
    assert ensemble is not None  # noqa: S101 - for the type checker
    names = manifest.member_names
    if len(members) < 2 or len(set(names)) != len(names) or ensemble["regions_from"] not in names:
        raise _damaged("its ensemble has fewer than two members, equal names, or regions of none of them")
    own = manifest.names
    if own.members != len(members) or [each.names for each in members] != list(own.of_members):
        raise _damaged("the names of the models of its members are not those of an ensemble")
    if any(each.ensemble is not None or each.files for each in members):
        raise _damaged("a member of its ensemble has members or files of its own")
    expected = Manifest.combined(own, names, members, ensemble["regions_from"])
    if replace(expected, gates=manifest.gates, files=manifest.files) != manifest:
        raise _damaged("it differs from what its members say")
    for each in members:
        differing = [name for name in _SHARED if getattr(each, name) != getattr(members[0], name)]
        if differing:
            raise _damaged(f"its members differ in {differing[0]}")


def _damaged(why: str) -> BundleError:
    return BundleError(
        "the bundle's manifest is damaged", why=why, fix="Export the checkpoint again with `lrclr export`."
    )


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(
            f"{path} is not a bundle", why=f"it has no {MANIFEST}", fix="Make one with `lrclr export CHECKPOINT`."
        )
    try:
        if file.stat().st_size > _MAX_MANIFEST_BYTES:
            raise _damaged("it is larger than any manifest of lrclr")
        # Not read as text, which would convert line breaks.
        return Manifest.from_json(file.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise _damaged("it is not UTF-8 text") from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read", why=error.strerror) from error


def _check_files(root: Path, manifest: Manifest) -> None:
    """Compare a folder with a manifest's table of files.

    The table may be forged: a path in it could lead out of the folder, or name a file that Triton would run.
    """
    files, names = manifest.files, manifest.names
    _check_table(files, names)
    _check_unlisted(root, files)
    for name in files:
        if not (root / name).is_file():
            raise BundleError(
                f"the bundle {root} is incomplete", why=f"{name} is missing", fix="Export the checkpoint again."
            )
    for name, unchanged in _unchanged(root, files):
        if not unchanged:
            raise BundleError(
                f"the bundle {root} is damaged",
                why=f"{name} was changed since the export",
                fix="Export the checkpoint again, or restore the file.",
            )
    model = f"{names.folder(names.classifier)}/model.py"
    if files[model]["sha256"] != hashlib.sha256(SERVER_MODEL.encode()).hexdigest():
        raise BundleError(
            f"the bundle {root} is refused",
            why=f"Triton runs {model} as code, and its content is not what lrclr writes there",
            fix="Export the checkpoint again. If you did not change the file, treat it as an attack.",
        )


def _unchanged(root: Path, files: Mapping[str, FileEntry]) -> Iterator[tuple[str, bool]]:
    """Yield each file and whether it has its size and hash. Files are hashed in several threads, the largest first."""

    def check(name: str) -> bool:
        entry = files[name]
        return (root / name).stat().st_size == entry["bytes"] and sha256_of(root / name) == entry["sha256"]

    # hashlib lets other threads run while it hashes.
    with ThreadPoolExecutor(processors(), thread_name_prefix="lrclr-hash") as pool:
        largest_first = sorted(files, key=lambda name: files[name]["bytes"], reverse=True)
        checks = {name: pool.submit(check, name) for name in largest_first}
        for name in files:
            yield name, checks[name].result()


def _listed(names: ModelNames) -> re.Pattern[str]:
    """Return the pattern of every path that the manifest of a bundle with these names may list."""
    words = {
        "GRAPH": f"(?:{'|'.join(names.graphs)})",
        "CLASSIFIER": names.classifier,
        "VERSION": str(names.version),
        "GOLDEN": f"(?:{'|'.join(map(re.escape, _goldens(names)))})",
    }
    # In one pass: a prefix may contain one of these words.
    return re.compile(re.sub("|".join(words), lambda word: words[word[0]], _LISTED))


def _check_table(files: Mapping[str, FileEntry], names: ModelNames) -> None:
    needed = {f"{names.folder(model)}/model.onnx" for model in names.graphs}
    needed |= {f"{model}/config.pbtxt" for model in names.all}
    needed |= {f"{names.folder(names.classifier)}/{name}" for name in ("model.py", NO_CACHE)}
    needed |= {*_goldens(names), TOKENIZER, FINDINGS, README}
    listed = _listed(names)
    if not needed <= files.keys():
        raise _damaged(f"it does not list {', '.join(sorted(needed.difference(files)))}")
    for name in files:
        if not listed.fullmatch(name):
            raise BundleError(
                "the bundle's manifest is refused",
                why=f"it lists {name[:80]!r}, which cannot be a file of a bundle",
                fix="Export the checkpoint again with `lrclr export`.",
            )


def _check_unlisted(root: Path, files: Mapping[str, Any]) -> None:
    """Refuse files that the manifest does not list: Python would import an ``__init__.py`` or ``__pycache__``."""
    known = {MANIFEST, *files}
    folders = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    links, unlisted = [], []
    waiting = [root]
    while waiting:
        for entry in _entries(waiting.pop()):
            name = Path(entry.path).relative_to(root).as_posix()
            if entry.is_symlink():
                links.append(name)
            elif not entry.is_dir(follow_symlinks=False):
                if name not in known:
                    unlisted.append(name)
            elif name in folders:
                waiting.append(Path(entry.path))
            elif name != _LOST_AND_FOUND:
                unlisted.append(f"{name}/")
    if links:
        raise BundleError(
            f"the bundle {root} is refused",
            why=f"{_some(links)} {'are symbolic links' if len(links) > 1 else 'is a symbolic link'}",
            fix="Copy the bundle with `cp -rL`, which replaces links with files.",
        )
    if unlisted:
        raise BundleError(
            f"the bundle {root} is refused",
            why=f"its manifest does not list {_some(unlisted)}",
            fix="Delete these files.",
        )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise BundleError(f"the folder {folder} of the bundle cannot be read", why=error.strerror) from error


def _some(names: list[str]) -> str:
    shown = ", ".join(ascii(name[:80])[1:-1] for name in sorted(names)[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
