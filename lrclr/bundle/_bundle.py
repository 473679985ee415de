"""A bundle: a Triton model repository with a manifest."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import Any

from lrclr.bundle._content import check_files, checking_files, goldens, member_golden
from lrclr.bundle._manifest import FINDINGS, GOLDEN, MANIFEST, TOKENIZER, Manifest, read_manifest
from lrclr.card import CARD, MARK, README
from lrclr.contract import ModelNames
from lrclr.errors import BundleError, LrclrError, UsageError
from lrclr.preprocessing import PreprocessSpec
from lrclr.text import ClipTokenizer, FindingSet


class Bundle:
    """A bundle on disk whose files are exactly those that its manifest lists.

    Args:
        path: the bundle's folder.

    Attributes:
        members: the bundle of each member of an ensemble, in order. They share its folder, tokenizer and findings. For
            a single network, only this bundle.

    Raises:
        BundleError: the folder is not a bundle; a file is missing, was changed, is a symbolic link or is not listed;
            the manifest lists a path that cannot be in a bundle, or has another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        manifest = read_manifest(Path(path))
        check_files(Path(path), manifest)
        self._open(Path(path), manifest)
        _ = self.tokenizer

    @classmethod
    @contextmanager
    def checking(cls, path: str | os.PathLike[str]) -> Iterator[Bundle]:
        """Open a bundle whose files are hashed while the block runs.

        An engine can load the graphs meanwhile. Use nothing that it computes before the block has ended. The tokenizer
        is read when it is first used.

        Raises:
            BundleError: as for the class. A changed file is reported after the block, in place of an error in it.
        """
        manifest = read_manifest(Path(path))
        with checking_files(Path(path), manifest):
            bundle = cls.__new__(cls)
            bundle._open(Path(path), manifest)  # noqa: SLF001 - of this class
            yield bundle

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
        _ = bundle.tokenizer
        bundle._golden = golden  # noqa: SLF001 - of this class
        return bundle

    def _open(self, path: Path, manifest: Manifest) -> None:
        # Graphs are loaded later, perhaps after the process has changed its folder.
        self.path, self.manifest = path.absolute(), manifest
        with self._reading():
            self.preprocess = PreprocessSpec.from_dict(self.manifest.preprocess)
            self.findings = FindingSet.load(self.path / FINDINGS)
        self._golden, self._whole = GOLDEN, self
        self.members: tuple[Bundle, ...] = (self,)
        if manifest.ensemble is not None:
            self.members = tuple(self._member(each) for each in manifest.members)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except LrclrError as error:
            raise BundleError(f"the bundle {self.path} cannot be used", why=str(error)) from error

    @cached_property
    def tokenizer(self) -> ClipTokenizer:
        """The tokenizer of the prompts."""
        entry = self.manifest.tokenizer
        with self._reading():
            return ClipTokenizer.from_file(
                self.path / TOKENIZER,
                context_length=entry["context_length"],
                has_bos=entry["has_bos"],
                pad_id=entry["pad_id"],
                fixed_length=entry["fixed_length"],
            )

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
            UsageError: the weights of its plans were stripped, or it is in FP8 and its engine is not TensorRT.
        """
        name = self.manifest.engine["name"]
        # Triton serves the graphs of a bundle with plans of TensorRT-RTX.
        self.require_products("onnxruntime" if name == "tensorrt-rtx" else name)
        if self.manifest.engine["name"] == "tensorrt" and not self.manifest.served_plans:
            raise UsageError(
                f"Triton cannot serve the plans of the bundle {self.path}",
                why="they were built with --strip, and Triton does not put the weights back",
                fix=f"Run: lrclr build {self.path} --engine tensorrt (without --strip), or --engine onnxruntime",
            )

    def require_products(self, engine: str) -> None:
        """Check that an engine multiplies numbers of the type that this bundle has.

        Raises:
            UsageError: the bundle is in FP8, and the engine is not TensorRT or TensorRT-RTX.
        """
        if self.manifest.precision == "fp8" and not engine.startswith("tensorrt"):
            raise UsageError(
                f"the bundle {self.path} is in FP8, and {engine} has no products in FP8",
                why="only TensorRT has them, on a GPU of compute capability 8.9 or newer",
                fix=f"On that machine run: lrclr build {self.path} --engine tensorrt. For other engines export with "
                f"--fp16. To check the bundle on a CPU run: lrclr verify {self.path} --engine onnxruntime",
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
        names = read_manifest(path).names
    except BundleError:
        names = ModelNames()
    card = path / README
    # A folder may hold nothing but a README.md of someone else.
    has_own = card.is_file() and MARK.encode() in card.read_bytes()
    return (*names.all, MANIFEST, *goldens(names), TOKENIZER, FINDINGS, CARD, *([README] if has_own else []))
