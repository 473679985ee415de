"""The model repository of a running server: versions of bundles, side by side.

A server is not pointed at the bundle itself: a bundle that is exported anew is replaced as a whole, and a server must
not lose its files, nor serve the image encoder of one bundle with the text encoder of another. Version N of every
model here is that of one bundle.
"""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

from lrclr._files import link_or_copy
from lrclr.bundle import GRAPHS, MANIFEST, Bundle
from lrclr.contract import MODEL
from lrclr.errors import ServerError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MODELS", "Stage"]

MODELS = (*GRAPHS, MODEL)


class Stage:
    """A repository in the making.

    Args:
        root: an empty folder.
        instances: of the model `lrclr`, instead of the bundle's number.
    """

    def __init__(self, root: Path, *, instances: int | None = None) -> None:
        self.root = root
        self._instances = instances
        self.version = 0

    def add(self, bundle: Bundle) -> int:
        """Put a bundle in as the next version, and return that.

        Raises:
            ServerError: the folder cannot be written; nothing of the version is left.
        """
        version = self.version + 1
        try:
            for model in MODELS:
                self._put_model(bundle.path, model, version)
            own = self.root / MODEL / str(version) / "bundle"
            for name in (*bundle.manifest.files, MANIFEST):
                link_or_copy(bundle.path / name, own / name)
        except (OSError, ServerError) as error:
            self.drop(version)
            if isinstance(error, ServerError):
                raise
            raise ServerError("the server's model repository cannot be written", why=error.strerror) from error
        self.version = version
        return version

    def mark_changed(self) -> None:
        """Make the server take every model for a new one when it is next asked to load it.

        A changed configuration would not do: the server then keeps the processes that it has, the dead ones too.
        """
        for model in MODELS:
            for version in (self.root / model).glob("[0-9]*"):
                marker = version / "reloaded"
                marker.write_text(f"{time.time_ns()}\n", encoding="utf-8")

    def drop(self, version: int) -> None:
        """Take a version out again."""
        for model in MODELS:
            shutil.rmtree(self.root / model / str(version), ignore_errors=True)
        self.version = min(self.version, version - 1)

    def _put_model(self, bundle: Path, model: str, version: int) -> None:
        for file in sorted((bundle / model / "1").rglob("*")):
            if file.is_file():
                link_or_copy(file, self.root / model / str(version) / file.relative_to(bundle / model / "1"))
        for file in sorted((bundle / model / "warmup").glob("*")):
            target = self.root / model / "warmup" / file.name
            target.unlink(missing_ok=True)
            link_or_copy(file, target)
        config = (bundle / model / "config.pbtxt").read_text(encoding="utf-8")
        if model == MODEL and self._instances is not None:
            config = _with_instances(config, self._instances)
        target = self.root / model / "config.pbtxt"
        if not target.exists():
            target.write_text(config, encoding="utf-8")
        elif target.read_text(encoding="utf-8") != config:
            # All versions of a model share one configuration.
            raise ServerError(
                "the new bundle cannot take over in a running server",
                why=f"the configuration of {model} differs: other sizes or another --max-batch",
                fix="Stop the server and start it again.",
            )


def _with_instances(config: str, instances: int) -> str:
    from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]
    from tritonclient.grpc import model_config_pb2

    model = text_format.Parse(config, model_config_pb2.ModelConfig())
    for group in model.instance_group:
        group.count = instances
    return str(text_format.MessageToString(model))
