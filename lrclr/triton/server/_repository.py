"""The model repository of a running server, with versions of bundles.

The server does not read the bundle's folder, which a new export replaces: it would lose its files, or serve the image
encoder of one bundle with the text encoder of another. Instead, version N of every model here belongs to one bundle.

The server checks the repository once a second, and loads changes. A version appears as a link to a complete folder, so
the server sees all of it or nothing. The files are copies: Triton reloads a file when its inode changes, and a hard
link that another program makes changes the inode.
"""

from __future__ import annotations

import os
import shutil
import time
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from lrclr.bundle import MANIFEST, NO_CACHE, SERVER_MODEL
from lrclr.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lrclr.bundle import Bundle
    from lrclr.contract import ModelNames

_BACKENDS: Final = {"onnxruntime", "openvino", "tensorrt"}
# The fields that the exporter sets. Other fields can name libraries, agents or environments that Triton would load.
_FIELDS: Final = frozenset(
    {
        "backend",
        "cc_model_filenames",
        "default_model_filename",
        "dynamic_batching",
        "input",
        "instance_group",
        "max_batch_size",
        "model_transaction_policy",
        "model_warmup",
        "name",
        "optimization",
        "output",
        "parameters",
        "version_policy",
    }
)


class ServedRepository:
    """Writes the model repository of one server.

    Args:
        root: an empty folder.
        names: names of the models, and the number of their first version.
        instances: number of instances of the model `lrclr`; None for that of the bundle.

    Attributes:
        repository: the folder that the server reads.
        version: the newest version of the model `lrclr` in it; 0 if there is none.
    """

    def __init__(self, root: Path, names: ModelNames, *, instances: int | None = None) -> None:
        self._names = names
        self.repository = root / "repository"
        self._copies = root / "bundles"
        self._copies.mkdir()
        for model in names.all:
            (self.repository / model).mkdir(parents=True)
        self._instances = instances
        self._configs: dict[str, str] = {}
        self._folders: dict[int, Path] = {}
        # The version that the bundle of each version here gives its models.
        self._sources: dict[int, int] = {}
        self._numbers = count(names.version)
        self._touched_ns = 0
        self.version = 0

    def prepare(self, bundle: Bundle) -> int:
        """Copy a bundle as the next version. The server does not see it until `publish`.

        Returns:
            The number of the version.

        Raises:
            ServerError: the folder cannot be written, or the bundle's configuration differs from that of the running
                server. The version is removed, and nothing else was changed.
        """
        names = self._names
        if bundle.manifest.names.prefix != names.prefix:
            raise ServerError(
                "the new bundle cannot take over in a running server",
                why=f"its models' names begin with {bundle.manifest.names.prefix!r}, and the server's with "
                f"{names.prefix!r}",
                fix="Stop the server and start it again.",
            )
        configs = {}
        for model in names.all:
            text = (bundle.path / model / "config.pbtxt").read_text(encoding="utf-8")
            is_classifier = model == names.classifier
            configs[model] = _checked(model, text, is_classifier=is_classifier, instances=self._instances)
        for model, text in self._configs.items():
            # All versions of a model share one configuration.
            if _without_warmup(configs[model]) != _without_warmup(text):
                raise ServerError(
                    "the new bundle cannot take over in a running server",
                    why=f"the configuration of {model} differs: other sizes, another --max-batch, or lrclr tune",
                    fix="Stop the server and start it again.",
                )
        version = next(self._numbers)
        folder = self._copies / str(version)
        try:
            for name in (*bundle.manifest.files, MANIFEST):
                copy = folder / "bundle" / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / name, copy)
            (folder / "model.py").write_text(SERVER_MODEL, encoding="utf-8")
            # Otherwise Python would cache the compiled model in a folder of this name, and Triton would see a change.
            (folder / NO_CACHE).touch()
            if not self._configs:
                self._write_shared(folder / "bundle", configs)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ServerError("the server's model repository cannot be written", why=error.strerror) from error
        self._configs = self._configs or configs
        self._folders[version] = folder
        self._sources[version] = bundle.manifest.names.version
        return version

    def prepare_again(self) -> int:
        """Prepare another version of the newest bundle, without a copy; returns its number."""
        version = next(self._numbers)
        self._folders[version] = self._folders[self.version]
        self._sources[version] = self._sources[self.version]
        return version

    def publish(self, version: int, models: Sequence[str]) -> None:
        """Make models of a version visible to the server."""
        folder = self._folders[version]
        for model in models:
            is_classifier = model == self._names.classifier
            target = folder if is_classifier else folder / "bundle" / model / str(self._sources[version])
            (self.repository / model / str(version)).symlink_to(target)
            self._touch(model)
        if self._names.classifier in models:
            self.version = version

    def drop(self, version: int) -> None:
        """Remove a version. Its files are deleted unless another version uses them."""
        for model in self._names.all:
            link = self.repository / model / str(version)
            if link.is_symlink():
                link.unlink()
                self._touch(model)
        folder = self._folders.pop(version)
        if folder not in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)
        self._sources.pop(version)
        classifier = self.repository / self._names.classifier
        published = [other for other in self._folders if (classifier / str(other)).is_symlink()]
        self.version = max(published, default=0)

    def withdraw(self) -> None:
        """Remove the model `lrclr`: the server answers the requests that it has accepted, and accepts no more."""
        (self.repository / self._names.classifier).rename(self._copies / self._names.classifier)

    def _write_shared(self, bundle: Path, configs: dict[str, str]) -> None:
        """Write the files that all versions share.

        The warm-up files of the first bundle are kept, since Triton would load every version again if they changed.
        Only their shapes matter. They are part of the configuration, and other findings may have others.
        """
        for model, text in configs.items():
            if (bundle / model / "warmup").is_dir():
                shutil.copytree(bundle / model / "warmup", self.repository / model / "warmup")
            (self.repository / model / "config.pbtxt").write_text(text, encoding="utf-8")

    def _touch(self, model: str) -> None:
        """Set the time of a model's folder, by which the server sees that versions were added or removed.

        It is later than all times before, also if the system's clock was set back.
        """
        self._touched_ns = max(self._touched_ns + 1_000_000, time.time_ns())
        os.utime(self.repository / model, ns=(self._touched_ns, self._touched_ns))


def _checked(model: str, text: str, *, is_classifier: bool, instances: int | None) -> str:
    """A model's configuration, with the given number of instances of the model `lrclr`.

    Raises:
        ServerError: the configuration has values that the exporter does not write, such as another backend: a bundle
            may be forged.
    """
    from google.protobuf import text_format  # type: ignore[import-untyped, unused-ignore]

    try:
        config = _parsed(text)
    except text_format.ParseError as error:
        raise _refused(model, "it is not a valid configuration of Triton") from error
    unknown = {field.name for field, _ in config.ListFields()} - _FIELDS
    if unknown:
        raise _refused(model, f"the exporter does not set {', '.join(sorted(unknown))}")
    if config.name != model or config.backend not in ({"python"} if is_classifier else _BACKENDS):
        raise _refused(model, f"it has the backend {config.backend[:40]!r} and the name {config.name[:40]!r}")
    if "/" in text_format.MessageToString(config):
        raise _refused(model, "it contains a path, which a bundle does not need")
    if is_classifier and instances is not None:
        for group in config.instance_group:
            group.count = instances
        return str(text_format.MessageToString(config))
    return text


def _without_warmup(text: str) -> Any:
    """A configuration that was checked, as Triton's message, without the shapes of its warm-up."""
    config = _parsed(text)
    config.ClearField("model_warmup")
    return config


def _parsed(text: str) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _refused(model: str, why: str) -> ServerError:
    return ServerError(f"the bundle's configuration of {model} is refused", why=why, fix="Export the checkpoint again.")
