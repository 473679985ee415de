"""Repositories of the Hugging Face Hub: names such as ``hf:OWNER/NAME@REVISION``, downloads and uploads.

The package huggingface_hub does the transfers, and its settings apply: the token from ``hf auth login`` or
``HF_TOKEN``, the cache in ``HF_HOME``, ``HF_ENDPOINT``, and ``HF_HUB_OFFLINE=1`` to use only what the cache holds.
"""

from __future__ import annotations

from lrclr.hub._reference import HubReference, hub_reference
from lrclr.hub._repository import HubRepository, open_repository
from lrclr.hub._upload import Uploaded, upload_files

__all__ = ["HubReference", "HubRepository", "Uploaded", "hub_reference", "open_repository", "upload_files"]
