"""Open a model from a bundle, on this machine or in a server, or from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lrclr._processors import check_threads
from lrclr.auto._choice import open_engine
from lrclr.bundle import MANIFEST, Bundle
from lrclr.engines import EngineOptions
from lrclr.errors import UsageError, needing_torch
from lrclr.inference import ModelSpec, ZeroShotClassifier

if TYPE_CHECKING:
    import os

    from lrclr.checkpoints import Checkpoint, ReadOptions

_DEVICES = ("cpu", "cuda")


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a bundle, and not a checkpoint."""
    return (Path(path) / MANIFEST).is_file()


def open_model(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    server: str | None = None,
    tls_root: Path | None = None,
    reading: ReadOptions | None = None,
) -> ZeroShotClassifier:
    """Open a bundle on this machine or in a server, or a checkpoint with PyTorch.

    Args:
        path: folder of the bundle, or file or folder of the checkpoint.
        engine: engine of a bundle. None for the bundle's own, `lrclr.engines.AUTO` for the fastest on this machine.
        provider: ``"cpu"`` or ``"cuda"``.
        threads: threads of one operator; None for the engine's default.
        server: ``host:port`` of a server that serves this bundle.
        tls_root: PEM file that verifies the server, if its port is encrypted.
        reading: options of `load_checkpoint`.
    """
    if server is not None:
        from lrclr.triton.client import ClientOptions, TritonEngine

        bundle = Bundle(path)
        options = ClientOptions(model=bundle.manifest.names.classifier, tls_root=tls_root)
        return ZeroShotClassifier(bundle, TritonEngine(server, ModelSpec.of_bundle(bundle).sha256, options))
    if is_bundle(path):
        bundle = Bundle(path)
        return ZeroShotClassifier(bundle, open_engine(bundle, EngineOptions(engine, provider, threads)))
    return open_checkpoint(path, provider=provider, threads=threads, reading=reading)


def open_checkpoint(
    checkpoint: Checkpoint | str | os.PathLike[str],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    reading: ReadOptions | None = None,
) -> ZeroShotClassifier:
    """Open a checkpoint with PyTorch; parameters as for `open_model`. The checkpoint may be in memory."""
    if provider not in _DEVICES:
        raise UsageError(f"unknown provider {provider!r}", fix="Choose cpu or cuda.")
    check_threads(threads)
    with needing_torch("reading a checkpoint"):
        import torch

        from lrclr.checkpoints import Checkpoint, load_checkpoint

    if threads is not None:
        torch.set_num_threads(threads)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = load_checkpoint(checkpoint, **(reading or {}))
    return ZeroShotClassifier.from_checkpoint(checkpoint, device=provider)
