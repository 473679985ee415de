"""What answers: the classifier of a bundle, or a Triton server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lrclr.errors import NotSupportedError, ServerError
from lrclr.inference import ImageFeatures, ModelSpec

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lrclr.inference import Prediction, ZeroShotClassifier
    from lrclr.text import FindingSet
    from lrclr.triton.client import Client

# Texts that the text encoder takes at once. Its memory grows with them.
_TEXTS = 64


class Backend(Protocol):
    """A model that answers. Safe to call from several threads.

    Attributes:
        spec: preprocessing, findings and scoring of the model.
        engine: name of what runs the graphs.
    """

    spec: ModelSpec
    engine: str

    def encode(self, files: Sequence[bytes], *, frame: int | None, exact: bool) -> list[Any]:
        """Read image files, for `predict`. Each result has the attribute ``nbytes``."""
        ...

    def predict(self, images: Sequence[Any], findings: FindingSet, alpha: float | None) -> list[Prediction]:
        """Predict the findings of what one call of `encode` returned."""
        ...

    def embed_images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        """Embeddings of image files, ``[B, D]`` of unit length."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings of texts, ``[P, D]`` of unit length."""
        ...

    def ready(self) -> bool:
        """Whether the model answers."""
        ...


class BundleBackend:
    """Answers with a classifier. The image encoder runs once per image, whatever is asked afterwards.

    Args:
        classifier: classifier of a bundle, whose engine may be a Triton server.
    """

    def __init__(self, classifier: ZeroShotClassifier) -> None:
        self.classifier = classifier
        self.spec = classifier.spec
        self.engine = classifier.engine.name
        # So that the first prompt of a user does not wait for the first run of the graphs.
        side = self.spec.preprocess.image_size
        classifier.predict_pixels(np.zeros((1, 3, side, side), np.float32), [(side, side)])

    def encode(self, files: Sequence[bytes], *, frame: int | None, exact: bool) -> list[ImageFeatures]:
        return self.classifier.encode_images(files, frame=frame, exact=exact)

    def predict(self, images: Sequence[ImageFeatures], findings: FindingSet, alpha: float | None) -> list[Prediction]:
        return self.classifier.predict_features(images, findings, alpha)

    def embed_images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self.classifier.embed_images(files)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        parts = [self.classifier.embed_texts(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
        return np.concatenate(parts)

    def ready(self) -> bool:
        return True


@dataclass(frozen=True)
class _File:
    """A file that the server reads with each question."""

    content: bytes
    frame: int | None
    exact: bool
    # The file is counted where it is kept.
    nbytes: int = 0


class ServerBackend:
    """Answers with a Triton server. The server reads and encodes the image anew for each question.

    Args:
        client: client of the server.

    Raises:
        ServerUnavailableError, ServerError: the server does not describe its model.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        description = client.describe()
        self.spec = ModelSpec.of_server(description)
        self.engine = f"triton, {description['engine']}"

    def encode(self, files: Sequence[bytes], *, frame: int | None, exact: bool) -> list[_File]:
        return [_File(content, frame, exact) for content in files]

    def predict(self, images: Sequence[_File], findings: FindingSet, alpha: float | None) -> list[Prediction]:
        first = images[0]
        reply = self._client.ask(
            [image.content for image in images],
            # The server's own findings may have changed with its bundle.
            findings=None if findings is self.spec.findings else findings,
            alpha=alpha,
            frame=first.frame,
            exact=first.exact,
        )
        if reply.bundle != self.spec.sha256:
            # Answers and reports would name a bundle that did not answer.
            raise ServerError(
                "the Triton server has another bundle now",
                why="it was replaced after the start of lrclr web",
                fix="Restart lrclr web, and reload the page.",
            )
        return reply.predictions

    def embed_images(self, files: Sequence[bytes]) -> NDArray[np.float32]:
        return self._client.embed_images(files)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:  # noqa: ARG002
        raise NotSupportedError(
            "there are no embeddings of texts",
            why="only the server has the bundle, and its model `lrclr` gives embeddings of images alone",
            fix="Start lrclr web with the bundle, too: lrclr web BUNDLE --server HOST:PORT.",
        )

    def ready(self) -> bool:
        return self._client.ready()


def open_backend(
    bundle: str | os.PathLike[str] | None = None,
    *,
    server: str | None = None,
    model_name: str | None = None,
    engine: str | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    tls_root: Path | None = None,
) -> Backend:
    """Open a bundle, a server, or a bundle whose graphs a server runs.

    Args:
        bundle: its folder; ``triton_repo`` if neither a bundle nor a server is given.
        server: ``host:port`` of the gRPC port of a server.
        model_name: name of the server's model `lrclr`, if no bundle is given.
        engine, provider, threads, tls_root: as for `lrclr.auto.open_model`.
    """
    if bundle is None and server is not None:
        from lrclr.contract import MODEL
        from lrclr.triton.client import Client, ClientOptions

        options = ClientOptions(model=model_name or MODEL, tls_root=tls_root)
        return ServerBackend(Client(server, options))
    from lrclr.auto import is_bundle, open_model

    folder = Path("triton_repo") if bundle is None else bundle
    if bundle is None and not is_bundle(folder):
        from lrclr.bundle import Bundle

        # It may be a checkpoint only if it was given. This raises the error of a missing bundle.
        Bundle(folder)
    opened = open_model(
        folder,
        engine=engine,
        provider=provider,
        threads=threads,
        server=server,
        tls_root=tls_root,
    )
    return BundleBackend(opened)
