"""Whether a server answers: asked with a radiograph, for a model can be "ready" whose process is dead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lrclr._network import DIRECT, Address
from lrclr.contract import MODEL
from lrclr.errors import MissingExtraError, ServerError, ServerUnavailableError
from lrclr.protocol import BUSY, RETRY_SECONDS
from lrclr.samples import sample_paths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrclr.serving._options import ServeOptions

__all__ = ["Probe"]


class Probe:
    """A connection to a server of ours.

    Args:
        address: ``host:port`` of gRPC.
        options: the server's.
        key: header and value that open the protocols which are closed to others.
    """

    def __init__(self, address: str, options: ServeOptions, key: tuple[str, str]) -> None:
        try:
            from tritonclient import grpc
        except ImportError:
            raise MissingExtraError("tritonclient", "serve", "a Triton server") from None
        self._grpc = grpc
        # The server runs on this machine, whatever its address is: no proxy stands before it.
        channel: list[tuple[str, Any]] = [DIRECT]
        tls: dict[str, Any] = {}
        if options.tls_cert is not None:
            tls = {"ssl": True, "root_certificates": str(options.tls_cert)}
            channel.append(("grpc.ssl_target_name_override", options.tls_name))
        self._client = grpc.InferenceServerClient(Address.parse(address).target, channel_args=channel, **tls)
        self._headers = {f"triton-grpc-protocol-{key[0]}": key[1]}
        self._image = min(sample_paths(), key=lambda path: path.stat().st_size).read_bytes()

    def infer(self, *, timeout: float, version: int | None = None) -> None:
        """One radiograph through the model `lrclr`.

        Raises:
            ServerUnavailableError: no answer within `timeout` seconds, or none now. Its `retry_after` is set if the
                server refused because it is busy.
            ServerError: an answer that is an error.
        """
        image = self._grpc.InferInput("image", [1], "BYTES")
        image.set_data_from_numpy(np.array([self._image], dtype=np.object_))
        wanted = [self._grpc.InferRequestedOutput("probability")]
        result = self._call(
            "infer",
            MODEL,
            [image],
            outputs=wanted,
            client_timeout=timeout,
            model_version="" if version is None else str(version),
        )
        probability = result.as_numpy("probability")
        if probability is None or not np.isfinite(probability).all():
            raise ServerError("the server's answer holds no probabilities")

    def load(self, models: Sequence[str]) -> None:
        """Have models loaded, again if their files have changed.

        Raises:
            ServerError: one could not be; what was served before still is.
        """
        for model in models:
            self._call("load_model", model, headers=self._headers, client_timeout=300)

    def unload(self, models: Sequence[str]) -> None:
        """Have models unloaded.

        Raises:
            ServerError: the server refused.
        """
        for model in models:
            self._call("unload_model", model, headers=self._headers, client_timeout=60)

    def close(self) -> None:
        """End the connection."""
        self._client.close()
        # tritonclient would close it once more at the interpreter's end, and complain.
        del self._client

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return getattr(self._client, method)(*arguments, **options)
        except InferenceServerException as error:
            kind = ServerUnavailableError if _passing(error.status()) else ServerError
            text = str(error.message()).strip().splitlines() or ["no message"]
            failed = kind(f"the server did not do {method.replace('_', ' ')}", why=text[0].rstrip("."))
            if isinstance(failed, ServerUnavailableError) and any(sign in text[0] for sign in BUSY):
                failed.retry_after = RETRY_SECONDS
            raise failed from error


def _passing(status: object) -> bool:
    return any(word in str(status) for word in ("UNAVAILABLE", "DEADLINE", "NOT_FOUND", "Deadline"))
