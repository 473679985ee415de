"""`push_bundle`: a bundle and its model card in a repository of the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lrclr._files import sha256_of
from lrclr.bundle._card import with_licence
from lrclr.bundle._manifest import MANIFEST
from lrclr.card import MARK, README, is_licence
from lrclr.errors import UsageError
from lrclr.hub import HubReference, upload_files

if TYPE_CHECKING:
    from lrclr.bundle._bundle import Bundle
    from lrclr.hub import Uploaded

FOLDER: Final = "bundle"
# A repository has files of the hub's own, which a bundle cannot hold. So the bundle has its own folder.


def push_bundle(
    bundle: Bundle,
    reference: HubReference,
    *,
    public: bool = False,
    licence: str | None = None,
    message: str | None = None,
) -> Uploaded:
    """Upload a bundle to a repository of the hub, in one commit.

    Only the files that the manifest lists are uploaded, to the folder ``bundle``, and the bundle's model card once more
    beside it, where the hub shows it. A model card that someone else wrote is kept.

    Args:
        bundle: its files were checked against its manifest when it was opened.
        reference: ``OWNER/NAME``. A repository that does not exist is made.
        public: whether a new repository can be seen by everyone, and an existing public one may be used.
        licence: the hub's identifier of the licence, such as ``"mit"``, for a model card that states none.
        message: message of the commit.

    Raises:
        UsageError: the repository is public, and `public` is False; or the licence is not an identifier, or not the one
            that the model card states.
        HubError: the hub refused or cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    manifest = bundle.path / MANIFEST
    files = {name: (bundle.path / name, entry["sha256"]) for name, entry in bundle.manifest.files.items()}
    files[MANIFEST] = (manifest, sha256_of(manifest))
    return upload_files(
        reference,
        files,
        _card_of(bundle, licence),
        folder=FOLDER,
        mark=MARK,
        public=public,
        message=message or f"lrclr bundle {bundle.sha256[:12]}",
    )


def _card_of(bundle: Bundle, licence: str | None) -> str:
    """The bundle's model card, with a licence if one is given."""
    card = (bundle.path / README).read_text(encoding="utf-8")
    if licence is None:
        return card
    if not is_licence(licence):
        raise UsageError(
            f"{licence[:60]!r} is not an identifier of a licence",
            fix="Give one of the hub's, such as mit or apache-2.0.",
        )
    try:
        return with_licence(card, licence)
    except ValueError as error:
        raise UsageError(
            f"the licence {licence} cannot be put into the model card",
            why=f"the checkpoint states the licence {error}",
            fix="Omit --license, or export again with another --card.",
        ) from None
