"""`push_bundle`: a bundle and its model card in a repository of the Hugging Face Hub."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from lrclr._files import sha256_of
from lrclr._version import __version__
from lrclr.bundle._bundle import MANIFEST
from lrclr.errors import UsageError
from lrclr.hub import HubReference, upload_files

if TYPE_CHECKING:
    from lrclr.bundle._bundle import Bundle
    from lrclr.hub import Uploaded

__all__ = ["model_card", "push_bundle"]

FOLDER: Final = "bundle"
# Beside the model card a repository has files of the hub's own. A bundle cannot hold either, so it has its own folder.
_MARK: Final = "<!-- written by lrclr push -->"
_LICENCE: Final = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")


def push_bundle(
    bundle: Bundle,
    reference: HubReference,
    *,
    public: bool = False,
    licence: str | None = None,
    message: str | None = None,
) -> Uploaded:
    """Upload a bundle to a repository of the hub, in one commit.

    Only the files that the manifest lists are uploaded, to the folder ``bundle``, and a model card. A model card that
    someone else wrote is kept.

    Args:
        bundle: its files were checked against its manifest when it was opened.
        reference: ``OWNER/NAME``. A repository that does not exist is made.
        public: whether a new repository can be seen by everyone, and an existing public one may be used.
        licence: the hub's identifier of the licence, such as ``"mit"``, for the model card.
        message: of the commit.

    Raises:
        UsageError: the repository is public, and `public` is False; or the licence is not an identifier.
        HubError: the hub refused or cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    manifest = bundle.path / MANIFEST
    files = {name: (bundle.path / name, entry["sha256"]) for name, entry in bundle.manifest.files.items()}
    files[MANIFEST] = (manifest, sha256_of(manifest))
    return upload_files(
        reference,
        files,
        model_card(bundle, reference, licence=licence),
        folder=FOLDER,
        mark=_MARK,
        public=public,
        message=message or f"lrclr bundle {bundle.sha256[:12]}",
    )


def model_card(bundle: Bundle, reference: HubReference, *, licence: str | None = None) -> str:
    """The text of the model card, ``README.md`` on the hub, from the manifest.

    Raises:
        UsageError: the licence is not an identifier.
    """
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UsageError(
            f"{licence[:60]!r} is not an identifier of a licence",
            fix="Give one of the hub's, such as mit or apache-2.0.",
        )
    manifest = bundle.manifest
    origin = manifest.checkpoint.get("origin", "")
    base = origin.removeprefix("hf:").partition("@")[0] if origin.startswith("hf:") else None
    front = [
        "library_name: lrclr",
        "pipeline_tag: zero-shot-image-classification",
        "tags: [chest-x-ray, onnx, triton]",
        *([f"base_model: {base}"] if base else []),
        *([f"license: {licence}"] if licence else []),
    ]
    trained = "trained" if manifest.scoring["fusion_trained"] else "not trained: scores use the global score alone"
    facts = {
        "bundle (SHA-256 of the manifest)": f"`{bundle.sha256}`",
        "checkpoint": f"{manifest.checkpoint['source']}, SHA-256 `{manifest.checkpoint['sha256']}`",
        "original weights": f"`{origin}`" if origin else "not recorded",
        "precision": manifest.precision,
        "engine": manifest.engine["name"],
        "input": f"{bundle.preprocess.image_size} × {bundle.preprocess.image_size} pixels, "
        f"{bundle.preprocess.kind} preprocessing",
        "fusion head": trained,
        "gates": f"{len(manifest.all_gates)} passed, with their limits and values in `{FOLDER}/{MANIFEST}`",
        "made with": f"lrclr {manifest.made_with.get('lrclr', __version__)}",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    findings = ", ".join(name.replace("|", "/") for name in bundle.findings.names)
    return f"""---
{chr(10).join(front)}
---
{_MARK}

# {reference.repository.rpartition("/")[2]}

A bundle of [lrclr](https://arxiv.org/abs/2303.14153): a zero-shot classifier for chest x-rays that shows the image
regions which support its findings, as verified ONNX graphs and a Triton model repository.

**Research use only. Not a medical device.** The gates show that the bundle computes what its checkpoint computes. They
do not show that its findings are right.

| | |
|---|---|
{table}

Findings: {findings}.

## Use

```console
hf download {reference.repository} --include '{FOLDER}/*' --local-dir model
lrclr verify model/{FOLDER}
lrclr predict study.dcm -b model/{FOLDER}
```

The licence of the weights is that of the checkpoint{f" ([{base}](https://huggingface.co/{base}))" if base else ""}.
"""
