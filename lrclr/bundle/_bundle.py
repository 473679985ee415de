"""A bundle: a Triton model repository with a manifest that says what is in it, what it was made of, and how it did.

The manifest is checked before anything is loaded. It holds no path, no time and no patient data, so the same
checkpoint exported twice gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from lrclr import contract
from lrclr._files import sha256_of, write_whole
from lrclr.contract import ModelNames
from lrclr.errors import BundleError, LrclrError, UsageError
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import ClipTokenizer, FindingSet

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "GRAPHS",
    "NO_CACHE",
    "SCHEMA_VERSION",
    "SERVER_MODEL",
    "Bundle",
    "Manifest",
    "bundle_entries",
    "plan_file",
    "write_manifest",
]

GRAPHS: Final = tuple(contract.GRAPHS)
SCHEMA_VERSION: Final = 7
MANIFEST, GOLDEN, TOKENIZER, FINDINGS = "manifest.json", "golden.npz", "tokenizer.json", "findings.toml"
# The only code in a bundle. Triton runs it.
SERVER_MODEL: Final = """from lrclr.triton.model.lrclr_model import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""
# An empty file beside SERVER_MODEL. Without it, Python makes a folder of this name there, and a bundle with another
# folder is refused. The Python in Triton ignores PYTHONDONTWRITEBYTECODE.
NO_CACHE: Final = "__pycache__"
# Every path that a manifest may list, with the names and the version of its models. No path that Python or Triton
# would run as code matches, except the server's model, whose content is compared with SERVER_MODEL.
_LISTED: Final = (
    r"golden\.npz|tokenizer\.json|findings\.toml"
    r"|(?:GRAPH|CLASSIFIER)/config\.pbtxt"
    r"|GRAPH/warmup/[a-z0-9_]+"
    r"|GRAPH/VERSION/model[a-z0-9_.]*\.(onnx|data|xml|bin|plan)"
    rf"|CLASSIFIER/VERSION/(?:model\.py|{NO_CACHE})"
)
# The root of an ext4 volume has this folder, and only root can read it. It is never entered.
_LOST_AND_FOUND: Final = "lost+found"
_DIGEST = "manifest_sha256"
_MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds, beside its schema version and its own hash.

    Attributes:
        made_with: versions of what made the bundle, and the machine its gates ran on.
        checkpoint: kind and hash of the checkpoint.
        model: the network's configuration, unchanged.
        scoring: ``alpha`` in effect, ``fusion_trained``, and what `ScoreCalibration.to_dict` gives.
        preprocess: see `PreprocessSpec.to_dict`.
        tokenizer: hash, context length, number of EOT.
        precision: ``"fp16"``, ``"fp32"`` or ``"int8"``: what the matrix products of the graphs compute in.
        quantization: of int8: what it was calibrated on, per graph the number of layers in int8, which stayed in
            float32 and why, and what was lost on the calibration images; None for other precisions.
        opset: ONNX operator set of the graphs.
        max_batch: most images that the image encoder takes at once.
        profiles: smallest, commonest and largest size of each dynamic axis, for one image and for batches: what plans
            are built for and what the server takes.
        graphs: per graph its inputs, outputs, precision histogram, the number of maps that its region node takes, and
            the file in which that node is expanded (``inlined``), or None.
        engine: ``name`` of what answers with the bundle unless another is asked for, and ``why`` it is that.
        triton: names and version of the models, as `ModelNames.to_dict` gives them.
        plans: per engine, and GPU where it is for one, what `lrclr build` made, with what, and how it did; see
            `plan_entry`. Of OpenVINO the files that a server reads; the engine itself reads the graphs.
        tolerances: what the gates demanded; overridden ones are named under ``"overridden"``.
        gates: every gate with its tolerance and its measured value.
        files: path, within the bundle, to hash and size of every other file.
    """

    made_with: dict[str, str]
    checkpoint: dict[str, str]
    model: dict[str, Any]
    scoring: dict[str, Any]
    preprocess: dict[str, Any]
    tokenizer: dict[str, Any]
    precision: str
    quantization: dict[str, Any] | None
    opset: int
    max_batch: int
    profiles: list[dict[str, list[int]]]
    graphs: dict[str, dict[str, Any]]
    engine: dict[str, str]
    triton: dict[str, Any]
    plans: list[dict[str, Any]]
    tolerances: dict[str, Any]
    gates: list[dict[str, Any]]
    files: dict[str, dict[str, Any]]

    def to_json(self) -> str:
        """The manifest's text, with its own hash."""
        content = {"schema": SCHEMA_VERSION, **{field.name: getattr(self, field.name) for field in fields(self)}}
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

    @property
    def served_plans(self) -> list[dict[str, Any]]:
        """Of `plans`, those that Triton serves: TensorRT's with their weights, where the bundle was made for TensorRT.

        Triton would run a stripped plan without its weights; `lrclr predict` puts them back. It has no backend for
        plans of TensorRT-RTX.
        """
        if self.engine["name"] != "tensorrt":
            return []
        return [entry for entry in self.plans if entry["engine"] == "tensorrt" and not entry["options"]["strip"]]

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            BundleError: it is of another version, incomplete, or was changed since it was written.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise _damaged("it is not JSON") from error
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
            raise _damaged("its content does not match its own hash")
        del content["schema"]
        names = {field.name for field in fields(cls)}
        if content.keys() != names:
            raise _damaged(f"its fields differ: {', '.join(sorted(content.keys() ^ names))}")
        manifest = cls(**content)
        if manifest.to_json() != text:
            raise _damaged("it is not as it was written")
        return manifest


class Bundle:
    """A bundle on disk whose files are exactly those that its manifest lists.

    Args:
        path: the bundle's folder.

    Raises:
        BundleError: the folder is not a bundle; a file is missing, was changed, is a symbolic link or is not listed;
            the manifest lists a path that no bundle has, or is of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        manifest = _read_manifest(Path(path))
        _check_files(Path(path), manifest)
        self._open(Path(path), manifest)

    @classmethod
    def unfinished(cls, path: Path, manifest: Manifest) -> Bundle:
        """The bundle that a folder will become. Its files are not checked, since its manifest is not written yet.

        Args:
            path: the folder, with graphs, tokenizer, findings and golden data.
            manifest: what is known so far.

        Raises:
            BundleError: the preprocessing, the findings or the tokenizer cannot be used.
        """
        bundle = cls.__new__(cls)
        bundle._open(path, manifest)  # noqa: SLF001 - its own
        return bundle

    def _open(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        try:
            self.preprocess = PreprocessSpec.from_dict(self.manifest.preprocess)
            self.findings = FindingSet.load(self.path / FINDINGS)
            self.tokenizer = ClipTokenizer.from_file(
                self.path / TOKENIZER, context_length=self.manifest.tokenizer["context_length"]
            )
        except LrclrError as error:
            raise BundleError(f"the bundle {self.path} cannot be used", why=str(error)) from error

    @property
    def sha256(self) -> str:
        """SHA-256 of ``manifest.json``, by which answers name the bundle; it vouches for every other file's hash."""
        return hashlib.sha256(self.manifest.to_json().encode()).hexdigest()

    def require(self, sha256: str) -> None:
        """Refuse any bundle but the one that was meant.

        Raises:
            BundleError: its manifest has another hash.
        """
        if self.sha256 != sha256:
            raise BundleError(
                f"{self.path} is not the bundle that was expected",
                why=f"its manifest has the hash {self.sha256}, and {sha256} was expected",
                fix="Put the right bundle there, or expect this one.",
            )

    def graph_path(self, graph: str) -> Path:
        """The ONNX file of one of `GRAPHS`."""
        names = self.manifest.names
        return self.path / names.folder(names.of(graph)) / "model.onnx"

    def inlined_path(self, graph: str) -> Path | None:
        """The ONNX file of one of `GRAPHS` without functions; None where the export was not asked for one."""
        file = self.manifest.graphs[graph].get("inlined")
        return None if file is None else self.path / str(file)

    def require_servable(self) -> None:
        """Refuse to serve a bundle that was made for plans which Triton cannot serve.

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
        """The file of one of `GRAPHS` that an entry of the manifest's ``plans`` speaks of."""
        return self.path / str(entry["graphs"][graph]["file"])

    @property
    def golden_path(self) -> Path:
        """Inputs and the PyTorch model's outputs, by which `lrclr verify` runs the gates again."""
        return self.path / GOLDEN

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels of the model's input."""
        return int(self.manifest.model["vision_config"]["patch_size"])


def require_digest(text: str) -> None:
    """Raise UsageError for what is no SHA-256 in hexadecimal."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise UsageError(
            f"{text!r} is no SHA-256",
            why="it takes 64 digits from 0 to f",
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
    return (*names.all, MANIFEST, GOLDEN, TOKENIZER, FINDINGS)


def plan_file(engine: str, capability: str) -> str:
    """Name of a plan beside its graph: for TensorRT one a compute capability, for TensorRT-RTX one for all."""
    return f"model_sm{capability.replace('.', '')}.plan" if engine == "tensorrt" else "model.rtx.plan"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder, with a new table of the files that are there."""
    write_whole(folder / MANIFEST, replace(manifest, files=file_table(folder)).to_json().encode())


def file_table(root: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of every file below `root`, as the manifest records them."""
    return {
        path.relative_to(root).as_posix(): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _damaged(why: str) -> BundleError:
    return BundleError(
        "the bundle's manifest is damaged", why=why, fix="Export the checkpoint again with `lrclr export`."
    )


def _read_manifest(path: Path) -> Manifest:
    file = path / MANIFEST
    if not file.is_file():
        raise BundleError(
            f"there is no bundle at {path}", why=f"it has no {MANIFEST}", fix="Make one with `lrclr export CHECKPOINT`."
        )
    try:
        if file.stat().st_size > _MAX_MANIFEST_BYTES:
            raise _damaged("it is larger than a manifest can be")
        # Decoded by hand: reading as text would take one kind of line break for another.
        return Manifest.from_json(file.read_bytes().decode())
    except UnicodeDecodeError as error:
        raise _damaged("it is not UTF-8 text") from error
    except OSError as error:
        raise BundleError(f"{file} cannot be read", why=error.strerror) from error


def _check_files(root: Path, manifest: Manifest) -> None:
    """Compare a folder with a manifest's table of files.

    The table itself may be forged: a path in it could lead out of the folder, or name a file that Triton would run.
    """
    files, names = manifest.files, manifest.names
    _check_table(files, names)
    _check_strangers(root, files)
    for name, entry in files.items():
        file = root / name
        if not file.is_file():
            raise BundleError(
                f"the bundle {root} is incomplete", why=f"{name} is missing", fix="Export the checkpoint again."
            )
        if file.stat().st_size != entry["bytes"] or sha256_of(file) != entry["sha256"]:
            raise BundleError(
                f"the bundle {root} is damaged",
                why=f"{name} is not the file that was exported",
                fix="Export the checkpoint again, or restore the file.",
            )
    model = f"{names.folder(names.classifier)}/model.py"
    if files[model]["sha256"] != hashlib.sha256(SERVER_MODEL.encode()).hexdigest():
        raise BundleError(
            f"the bundle {root} is refused",
            why=f"Triton runs {model} as code, and its content is not what lrclr writes there",
            fix="Export the checkpoint again. If you did not change the file, find out who did.",
        )


def _listed(names: ModelNames) -> re.Pattern[str]:
    """Return the pattern of every path that the manifest of a bundle with these names may list."""
    words = {
        "GRAPH": f"(?:{'|'.join(names.graphs)})",
        "CLASSIFIER": names.classifier,
        "VERSION": str(names.version),
    }
    # In one pass: a prefix may contain one of these words.
    return re.compile(re.sub("|".join(words), lambda word: words[word[0]], _LISTED))


def _check_table(files: Mapping[str, Mapping[str, Any]], names: ModelNames) -> None:
    needed = {f"{names.folder(model)}/model.onnx" for model in names.graphs}
    needed |= {f"{model}/config.pbtxt" for model in names.all}
    needed |= {f"{names.folder(names.classifier)}/{name}" for name in ("model.py", NO_CACHE)}
    needed |= {GOLDEN, TOKENIZER, FINDINGS}
    listed = _listed(names)
    if not isinstance(files, dict) or not needed <= files.keys():
        raise _damaged(f"it does not list {', '.join(sorted(needed.difference(files)))}")
    for name, entry in files.items():
        if not listed.fullmatch(name):
            raise BundleError(
                "the bundle's manifest is refused",
                why=f"it lists {name[:80]!r}, and no bundle has such a file",
                fix="Export the checkpoint again with `lrclr export`.",
            )
        if not isinstance(entry, dict) or not (
            isinstance(entry.get("sha256"), str) and isinstance(entry.get("bytes"), int)
        ):
            raise _damaged(f"it has no hash or size of {name}")


def _check_strangers(root: Path, files: Mapping[str, Any]) -> None:
    """Refuse what the manifest does not list: Python would import a stray ``__init__.py`` or ``__pycache__``."""
    known = {MANIFEST, *files}
    folders = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    links, strangers = [], []
    waiting = [root]
    while waiting:
        for entry in _entries(waiting.pop()):
            name = Path(entry.path).relative_to(root).as_posix()
            if entry.is_symlink():
                links.append(name)
            elif not entry.is_dir(follow_symlinks=False):
                if name not in known:
                    strangers.append(name)
            elif name in folders:
                waiting.append(Path(entry.path))
            elif name != _LOST_AND_FOUND:
                strangers.append(f"{name}/")
    if links:
        raise BundleError(
            f"the bundle {root} is refused",
            why=f"{_some(links)} {'are symbolic links' if len(links) > 1 else 'is a symbolic link'}",
            fix="Copy the bundle with `cp -rL`, which puts files in the place of links.",
        )
    if strangers:
        raise BundleError(
            f"the bundle {root} is refused",
            why=f"its manifest does not list {_some(strangers)}",
            fix="Delete what is not the bundle's.",
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
