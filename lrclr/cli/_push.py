"""`lrclr push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrclr.cli._console import note, out
from lrclr.errors import UsageError


def push(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    repository: Annotated[str, typer.Argument(metavar="hf:OWNER/NAME", help="Repository on the Hugging Face Hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository public, or push to one that is public.")
    ] = False,
    licence: Annotated[
        str | None,
        typer.Option("--license", help="The hub's identifier of the licence, for the model card, such as mit."),
    ] = None,
    message: Annotated[str | None, typer.Option("--message", help="Message of the commit.")] = None,
) -> None:
    """Push a bundle to the Hugging Face Hub, with a model card.

    Only the files that the manifest lists are uploaded. A repository that does not exist is created, private unless
    --public is given. The commit is printed. The token is that of `hf auth login`, or HF_TOKEN.

    Exit codes: 1 if the hub refuses or cannot be reached, or the bundle is damaged; 2 for wrong usage, such as a public
    repository without --public.
    """
    from lrclr.bundle import Bundle, push_bundle
    from lrclr.hub import hub_reference

    reference = hub_reference(repository)
    if reference is None:
        raise UsageError(f"{repository} is not a repository on the Hugging Face Hub", fix="Write hf:OWNER/NAME.")
    pushed = push_bundle(Bundle(bundle), reference, public=public, licence=licence, message=message)
    out().print(str(pushed.reference))
    note(f"{'private' if pushed.private else 'public'}: {pushed.url}")
    if not pushed.card:
        note("README.md of the repository is not from lrclr and was kept")
