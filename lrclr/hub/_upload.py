"""Uploads files to a repository of the hub, in one commit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrclr.errors import LrclrError, UsageError
from lrclr.hub._client import client, hub_answers, hub_errors, hub_library, model_info

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lrclr.hub._reference import HubReference

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
    files: Mapping[str, tuple[Path, str]],
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
        files: file on this machine and its SHA-256, by its name in the folder. Nothing else is uploaded.
        card: text of the model card.
        folder: folder of the repository that holds these files and no others afterwards.
        mark: a text in `card`. A model card without it was written by someone else, and is kept.
        public: whether a new repository can be seen by everyone. An existing one keeps its visibility.
        message: message of the commit.

    Raises:
        UsageError: the repository is public, and `public` is False; or the reference has a revision.
        HubError: the hub refused or cannot be reached.
        LrclrError: a file has another SHA-256.
        MissingExtraError: huggingface_hub is not installed.
    """
    if reference.revision is not None:
        raise UsageError(
            f"{reference} names a revision", fix=f"Push to hf:{reference.repository}: it gets a new commit."
        )
    library = hub_library()
    with hub_errors(reference, writing=True):
        api = client()
        with hub_answers():
            api.create_repo(reference.repository, private=not public, exist_ok=True)
        info = model_info(reference)
        if not info.private and not public:
            raise UsageError(
                f"{reference} is public",
                why="everyone could see the bundle",
                fix="Add --public, or choose another name.",
            )
        there = {each.rfilename for each in info.siblings or []}
        operations: list[Any] = []
        for name, (path, sha256) in sorted(files.items()):
            operations.append(library.CommitOperationAdd(f"{folder}/{name}", str(path)))
            if operations[-1].upload_info.sha256.hex() != sha256:
                raise LrclrError(f"{path} was changed meanwhile", fix="Nothing was uploaded. Run it again.")
        gone = {name for name in there if name.startswith(f"{folder}/")} - {f"{folder}/{name}" for name in files}
        operations += [library.CommitOperationDelete(name) for name in sorted(gone)]
        is_ours = _CARD not in there or mark.encode() in _card(api, reference, info.sha)
        if is_ours:
            operations.append(library.CommitOperationAdd(_CARD, card.encode()))
        with hub_answers():
            made = api.create_commit(
                reference.repository, operations, commit_message=message, parent_commit=info.sha if there else None
            )
    return Uploaded(reference.at(made.oid), str(made.commit_url), bool(info.private), is_ours)


def _card(api: Any, reference: HubReference, commit: str) -> bytes:
    # As bytes: others may have written it in another encoding.
    return Path(api.hf_hub_download(reference.repository, _CARD, revision=commit)).read_bytes()
