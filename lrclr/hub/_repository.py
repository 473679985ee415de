"""A repository of the hub at one commit, from which single files are downloaded."""

from __future__ import annotations

import glob
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lrclr._files import sha256_of
from lrclr.errors import HubError
from lrclr.hub._client import hub_errors, hub_library, is_offline, model_info

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lrclr.hub._reference import HubReference


@dataclass(frozen=True)
class HubRepository:
    """A repository at one commit.

    Attributes:
        reference: the repository at the commit.
        folder: the folder in the cache of huggingface_hub that holds the downloaded files, under their names.
        names: all files of the repository; without the network, those in the folder.
        sha256: hashes of files, as far as the hub gives them; None without the network.
    """

    reference: HubReference
    folder: Path
    names: frozenset[str]
    sha256: Mapping[str, str] | None = field(repr=False)

    def fetch(self, names: Collection[str]) -> None:
        """Download files, unless they are in the folder already.

        Args:
            names: some of `names`.

        Raises:
            HubError: the hub refused or cannot be reached, the disk is full, or a file is not the one of this commit.
        """
        if self.sha256 is None or not names:
            return
        with hub_errors(self.reference):
            _download(self.reference, names)
            for name in names:
                self._check(self.folder / name, self.sha256.get(name))

    def _check(self, file: Path, sha256: str | None) -> None:
        if not file.is_file():
            raise HubError(f"{file.name} of {self.reference} was not downloaded", fix="Run it again.")
        if sha256 is not None and sha256_of(file) != sha256:
            raise HubError(
                f"{file.name} of {self.reference} is damaged",
                why="its SHA-256 is not the one that the hub gives",
                fix=f"Remove {file.resolve()}, and run it again.",
            )


def open_repository(reference: HubReference, first: Collection[str]) -> HubRepository:
    """Find the commit of a revision, and list its files.

    With ``HF_HUB_OFFLINE=1``, only what the cache of huggingface_hub holds is used. Without it, the network is used,
    and an error of the network does not lead to an old version in the cache.

    Args:
        reference: the repository.
        first: files to download at once, as far as they exist.

    Raises:
        UsageError: the hub does not accept the name.
        HubError: there is no such repository or revision, it is gated, or the hub cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    with hub_errors(reference):
        if is_offline():
            folder = _download(reference, first, local_files_only=True)
            names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
            return HubRepository(reference.at(folder.name), folder, frozenset(names), None)
        # Raises without a network, where `snapshot_download` would take what the cache holds of this revision.
        info = model_info(reference, files_metadata=True)
        files = {each.rfilename: each for each in info.siblings or []}
        # With the revision and not its commit, so that the cache keeps which commit it is for the time without network.
        folder = _download(reference, [name for name in first if name in files])
    if folder.name != info.sha:
        raise HubError(f"{reference} was changed meanwhile", fix="Run it again.")
    hashes = {name: each.lfs.sha256 for name, each in files.items() if each.lfs is not None}
    return HubRepository(reference.at(folder.name), folder, frozenset(files), hashes)


def _download(reference: HubReference, names: Collection[str], *, local_files_only: bool = False) -> Path:
    return Path(
        hub_library().snapshot_download(
            reference.repository,
            revision=reference.revision,
            allow_patterns=[glob.escape(name) for name in sorted(names)],
            library_name="lrclr",
            local_files_only=local_files_only,
        )
    )
