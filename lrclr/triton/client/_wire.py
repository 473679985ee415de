"""Requests, answers and errors of the model `lrclr`, converted to and from tritonclient's types."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from lrclr import budget, errors
from lrclr.errors import (
    ImageError,
    ImageLimitError,
    LrclrError,
    MissingExtraError,
    ServerError,
    ServerUnavailableError,
    UsageError,
)
from lrclr.inference import Answers, Prediction
from lrclr.text import require_finding_set
from lrclr.triton import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from lrclr.text import FindingSet

ImageSource = str | os.PathLike[str] | bytes | np.ndarray[Any, np.dtype[np.uint8]]
# Errors of a request with one image that do not concern other images. The server answers with a MissingExtraError if it
# has no decoder for the format of an image.
OF_ONE_IMAGE = (ImageError, MissingExtraError)
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # that gRPC reads, except for this machine
# Errors of Triton itself, by status. NOT_FOUND: the model is being loaded again.
_KINDS: dict[str, type[LrclrError]] = {
    "UNAVAILABLE": ServerUnavailableError,
    "NOT_FOUND": ServerUnavailableError,
    "INVALID_ARGUMENT": UsageError,
}
# A request has four more bytes for each file.
_LARGEST_FILE = budget.REQUEST_BYTES - 4
# The model `lrclr` writes the class of its error before the text.
_LRCLR_ERROR = re.compile(r"^(\w+Error): (.*)$")


@dataclass(frozen=True)
class Reply:
    """Answer of a server.

    Attributes:
        predictions: one per image, in order.
        heatmaps: PNG files, one per image, if requested.
        bundle: SHA-256 of the manifest of the bundle that answered.
        exact: whether the server read the files in full; None if the request had no files.
        image_embedding: float32 ``[B, D]``, of unit length, if requested; else None.
        reports: DICOM structured reports, one per image, if requested.
    """

    predictions: list[Prediction]
    heatmaps: list[bytes]
    bundle: str
    exact: bool | None = None
    image_embedding: NDArray[np.float32] | None = None
    reports: tuple[bytes, ...] = ()


def triton_grpc() -> ModuleType:
    """tritonclient's gRPC module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from tritonclient import grpc
    except ImportError:
        raise MissingExtraError("tritonclient", "serve", "sending requests to a server") from None
    module: ModuleType = grpc
    return module


def encoded(source: ImageSource) -> bytes:
    """The content of an image file: a path is read, an array of uint8 is encoded as PNG.

    Raises:
        ImageError: a file cannot be read or is larger than a request, or an array is not an image.
        UsageError: it is something else.
    """
    content = _content(source)
    # The server would refuse the request.
    if len(content) > _LARGEST_FILE:
        raise ImageLimitError(
            f"the file has {len(content)} bytes", why=f"a server takes {_LARGEST_FILE} bytes, since it holds many"
        )
    return content


def _content(source: ImageSource) -> bytes:
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, np.ndarray):
        if (
            source.dtype != np.uint8
            or source.ndim not in {2, 3}
            or source.shape[2:] not in {(), (3,)}
            or not source.size
        ):
            raise ImageError("an image must be an array of uint8, [H, W] or [H, W, 3]")
        content = io.BytesIO()
        Image.fromarray(source).save(content, "PNG", compress_level=1)
        return content.getvalue()
    if not isinstance(source, str | os.PathLike):
        raise UsageError(f"an image cannot be {type(source).__name__}", fix="Give paths, bytes or arrays of uint8.")
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as error:  # a NUL in a path is a ValueError
        raise ImageError("the file cannot be read", why=getattr(error, "strerror", None) or str(error)) from error


def inputs(
    images: Sequence[bytes] | NDArray[np.float32],
    findings: FindingSet | None,
    alpha: float | None,
    frame: int | None = None,
    **flags: bool,
) -> dict[str, NDArray[Any]]:
    """The tensors of a request, by name.

    Args:
        images: files, or preprocessed images ``[B, 3, S, S]``.
        findings, alpha, frame: as for `Client.predict`.
        flags: `heatmap`, `exact`, `embedding` and `sr`, as for `Client.ask`.
    """
    tensors: dict[str, NDArray[Any]] = {}
    if isinstance(images, np.ndarray):
        tensors["pixel_values"] = np.ascontiguousarray(images, np.float32)
    else:
        tensors["image"] = np.array(images, np.object_)
    if findings is not None:
        require_finding_set(findings)
        tensors["findings_toml"] = np.array([findings.to_toml().encode()], np.object_)
    if alpha is not None:
        tensors["alpha"] = np.array([alpha], np.float64)
    if frame is not None:
        tensors["frame"] = np.array([frame], np.int64)
    return tensors | {name: np.array([True]) for name, asked in flags.items() if asked}


def as_infer_inputs(tensors: Mapping[str, NDArray[Any]]) -> list[Any]:
    """Tensors of the model `lrclr` in tritonclient's types."""
    grpc = triton_grpc()
    made = []
    for name, array in tensors.items():
        one = grpc.InferInput(name, list(array.shape), protocol.INPUTS[name].datatype)
        one.set_data_from_numpy(array)
        made.append(one)
    return made


def describe_inputs() -> list[Any]:
    """Inputs of the request for the model's description."""
    return as_infer_inputs({"describe": np.array([True])})


def description(result: Any) -> dict[str, Any]:
    """The description of the server's model.

    Raises:
        ServerError: the answer has none.
    """
    text = result.as_numpy("description")
    if text is None:
        raise ServerError(
            "the server did not describe its model", why="the model `lrclr` of this server was not written by lrclr"
        )
    content: dict[str, Any] = json.loads(text.ravel()[0])
    return content


def reply(result: Any, images: int, *, fusion_trained: bool) -> Reply:
    """Predictions from the tensors of an answer.

    Raises:
        ServerError: a tensor is missing, or the number of images is another than in the request.
    """
    optional = {"description", "exact", "heatmap", "image_embedding", "probability_spread", "remarks", "sr", "warnings"}
    arrays = {name: result.as_numpy(name) for name in protocol.OUTPUTS if name not in optional}
    missing = [name for name, array in arrays.items() if array is None]
    if missing or len(arrays["probability"]) != images:
        raise ServerError("the server's answer is incomplete", why=f"missing: {', '.join(missing) or 'images'}")
    names = [name.decode() for name in arrays["finding"].ravel().tolist()]
    alpha = float(arrays["alpha"].ravel()[0])
    # A server with an older bundle gives no remarks, or no warnings.
    remarks, warnings = _lines_of(result, "remarks", images), _lines_of(result, "warnings", images)
    spread = result.as_numpy("probability_spread")
    answers = Answers(**{name: arrays[name] for name in Answers.names()}, probability_spread=spread)
    boxes = [[tuple(box) for box in of_image] for of_image in arrays["region_box"].tolist()]
    sizes = arrays["image_size"].tolist()
    records = answers.predictions(names, sizes, boxes, alpha=alpha, fusion_trained=fusion_trained)
    predictions = [
        replace(record, remarks=remarks[image], warnings=warnings[image]) for image, record in enumerate(records)
    ]
    heatmaps, exact, reports = (result.as_numpy(name) for name in ("heatmap", "exact", "sr"))
    return Reply(
        predictions,
        [] if heatmaps is None else heatmaps.ravel().tolist(),
        arrays["bundle"].ravel()[0].decode(),
        None if exact is None else bool(exact.ravel()[0]),
        result.as_numpy("image_embedding"),
        () if reports is None else tuple(reports.ravel().tolist()),
    )


def embedding_of(reply: Reply) -> NDArray[np.float32]:
    """The embeddings in an answer.

    Raises:
        ServerError: the answer has none.
    """
    if reply.image_embedding is None:
        raise ServerError(
            "the server's answer has no image embedding",
            why="the bundle that it serves was exported by an older lrclr",
            fix="Export the checkpoint again.",
        )
    return reply.image_embedding


def _lines_of(result: Any, name: str, images: int) -> list[tuple[str, ...]]:
    """The lines of an optional output that has one text for each image."""
    texts = result.as_numpy(name)
    if texts is None:
        return [()] * images
    return [tuple(text.decode().splitlines()) for text in texts.ravel().tolist()]


def error_of(error: Any, address: str, seconds: float) -> LrclrError:
    """The lrclr error for an exception of tritonclient, with the server's message.

    Args:
        error: an `InferenceServerException`.
        address: address of the server.
        seconds: time limit of the call.
    """
    status = str(error.status() or "").removeprefix("StatusCode.")
    line = (str(error.message()).strip().splitlines() or ["no message"])[0].strip()
    if "DEADLINE" in status.upper() or "Deadline Exceeded" in line:
        return ServerUnavailableError(
            f"{address} did not answer within {seconds:g} s", fix="Give it longer, or look at the server's log."
        )
    connection = _of_connection(line, address) if status == "UNAVAILABLE" else None
    if connection is not None:
        return connection
    if status == "RESOURCE_EXHAUSTED":
        return UsageError("a message is too large", why=line, fix="Send fewer images at once, or raise max_message.")
    busy = next((meaning for sign, meaning in protocol.BUSY.items() if sign in line), None)
    if busy is not None and status == "UNAVAILABLE":
        refused = ServerUnavailableError(
            f"{address} is busy",
            why=busy,
            fix=f"Repeat the request after {protocol.RETRY_SECONDS:g} s or later, and send fewer at the same time.",
        )
        refused.retry_after = protocol.RETRY_SECONDS
        return refused
    match = _LRCLR_ERROR.match(line)
    if match is not None and match[1] in errors.__all__:
        kind: type[LrclrError] = getattr(errors, match[1])
        return kind.from_text(match[2])
    fix = None
    if "unexpected inference input 'embedding'" in line:
        fix = "The bundle that it serves was exported by an older lrclr, which gives no embeddings. Export it again."
    if status == "NOT_FOUND":
        fix = "If the bundle was exported with --name-prefix, name the model: --model-name PREFIXlrclr."
    return _KINDS.get(status, ServerError)(f"{address} answered {status or 'with an error'}", why=line, fix=fix)


def _of_connection(line: str, address: str) -> LrclrError | None:
    """Return the error for a text of gRPC about an address at which no server answers, or one that refuses a call."""
    if "This protocol is restricted" in line:
        return UsageError(
            f"{address} takes no shared memory", fix="Start it with `lrclr serve --shared-memory`, or leave it out."
        )
    if "Connection refused" in line:
        fix = "Start a server with `lrclr serve BUNDLE`, or check the address."
        if any(os.environ.get(name) for name in _PROXIES):
            fix += f" If a proxy that {' or '.join(_PROXIES)} names is in the way, add the host to no_proxy."
        return ServerUnavailableError(f"nothing listens at {address}", fix=fix)
    if line.startswith(("errors resolving", "DNS resolution failed")):
        return ServerUnavailableError(f"the host of {address} is unknown", why=line, fix="Check the address.")
    if line.startswith("failed to connect") and ("Socket closed" in line or "HTTP/2" in line):
        return ServerUnavailableError(
            f"what listens at {address} does not answer in gRPC",
            fix="Give the port for gRPC, 8001 by default, and not that for HTTP. "
            "A server with TLS needs --tls-root, in Python tls_root.",
        )
    return None
