"""Uploads files to a repository of the hub, in one commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrclr.errors import UsageError
from lrclr.hub._client import client, hub_errors, hub_library

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lrclr.hub._reference import HubReference

__all__ = ["Uploaded", "upload_files"]

_CARD = "README.md"


@dataclass(frozen=True)
class Uploaded:
    """The result of an upload.

    Attributes:
        reference: the repository at the new commit.
        url: page of the commit.
        private: whether the repository is private.
        card: whether the model card was written.
    """

    reference: HubReference
    url: str
    private: bool
    card: bool


def upload_files(
    reference: HubReference,
    files: Mapping[str, Path],
    card: str,
    *,
    folder: str,
    mark: str,
    public: bool,
    message: str,
) -> Uploaded:
    """Make a repository if there is none, and replace one folder of it by files, with a model card beside it.

    Args:
        reference: the repository, without a revision.
        files: file on this machine by its name in the folder. Nothing else is uploaded.
        card: text of the model card.
        folder: folder of the repository that holds these files and no others afterwards.
        mark: a text in `card`. A model card without it was written by someone else, and is kept.
        public: whether a new repository can be seen by everyone. An existing one keeps its visibility.
        message: of the commit.

    Raises:
        UsageError: the repository is public, and `public` is False; or the reference has a revision.
        HubError: the hub refused or cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    if reference.revision is not None:
        raise UsageError(
            f"{reference} names a revision", fix=f"Push to hf:{reference.repository}: it gets a new commit."
        )
    library = hub_library()
    with hub_errors(reference, writing=True):
        api = client()
        api.create_repo(reference.repository, private=not public, exist_ok=True)
        info = api.model_info(reference.repository)
        if not info.private and not public:
            raise UsageError(
                f"{reference} is public",
                why="everyone could see the bundle",
                fix="Add --public, or choose another name.",
            )
        there = {each.rfilename for each in info.siblings or []}
        operations: list[Any] = [
            library.CommitOperationAdd(f"{folder}/{name}", str(path)) for name, path in sorted(files.items())
        ]
        gone = {name for name in there if name.startswith(f"{folder}/")} - {f"{folder}/{name}" for name in files}
        operations += [library.CommitOperationDelete(name) for name in sorted(gone)]
        is_ours = _CARD not in there or mark in _text(api, reference, info.sha)
        if is_ours:
            operations.append(library.CommitOperationAdd(_CARD, card.encode()))
        made = api.create_commit(
            reference.repository, operations, commit_message=message, parent_commit=info.sha if there else None
        )
    return Uploaded(reference.at(made.oid), str(made.commit_url), bool(info.private), is_ours)


def _text(api: Any, reference: HubReference, commit: str) -> str:
    with open(api.hf_hub_download(reference.repository, _CARD, revision=commit), encoding="utf-8") as file:  # noqa: PTH123
        return str(file.read())
