"""Requests and answers of the model `lrclr` as tritonclient's tensors, and its errors as ours."""

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

from lrclr import errors
from lrclr.errors import (
    ImageError,
    LrclrError,
    MissingExtraError,
    ServerError,
    ServerUnavailableError,
    UsageError,
)
from lrclr.inference import Answers, Prediction
from lrclr.triton import protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from numpy.typing import NDArray

    from lrclr.text import FindingSet

__all__ = [
    "OF_ONE_IMAGE",
    "ImageSource",
    "Reply",
    "as_infer_inputs",
    "describe_inputs",
    "description",
    "encoded",
    "error_of",
    "inputs",
    "reply",
    "triton_grpc",
]

ImageSource = str | os.PathLike[str] | bytes | np.ndarray[Any, np.dtype[np.uint8]]
# Errors of a request with one image that say nothing about other images. The server answers with a MissingExtraError
# to an image whose format it has no decoder for.
OF_ONE_IMAGE = (ImageError, MissingExtraError)
# Of the server's own errors. It has no model while the model is loaded again.
_KINDS: dict[str, type[LrclrError]] = {
    "UNAVAILABLE": ServerUnavailableError,
    "NOT_FOUND": ServerUnavailableError,
    "INVALID_ARGUMENT": UsageError,
}
# The model `lrclr` writes the kind of its error before the text.
_OURS = re.compile(r"^(\w+Error): (.*)$")


@dataclass(frozen=True)
class Reply:
    """What a server answered.

    Attributes:
        predictions: one an image, in order.
        heatmaps: PNG files, one an image, if they were asked for.
        bundle: SHA-256 of the manifest of the bundle that answered.
        exact: whether the server read the files in full; None if it was sent no files.
    """

    predictions: list[Prediction]
    heatmaps: list[bytes]
    bundle: str
    exact: bool | None = None


def triton_grpc() -> ModuleType:
    """tritonclient's gRPC module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        from tritonclient import grpc
    except ImportError:
        raise MissingExtraError("tritonclient", "serve", "asking a server") from None
    module: ModuleType = grpc
    return module


def encoded(source: ImageSource) -> bytes:
    """An image as a file's bytes: a path is read, an array of uint8 is written as PNG.

    Raises:
        ImageError: a file cannot be read, or an array is no picture.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in {2, 3} or source.shape[2:] not in {(), (3,)}:
            raise ImageError("an image must be an array of uint8, [H, W] or [H, W, 3]")
        content = io.BytesIO()
        Image.fromarray(source).save(content, "PNG", compress_level=1)
        return content.getvalue()
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ImageError("the file cannot be read", why=error.strerror) from error


def inputs(
    images: Sequence[bytes] | NDArray[np.float32],
    findings: FindingSet | None,
    alpha: float | None,
    frame: int | None = None,
    *,
    heatmap: bool = False,
    exact: bool = False,
) -> dict[str, NDArray[Any]]:
    """The tensors of a request, by name; `images` are files, or preprocessed images ``[B, 3, S, S]``."""
    tensors: dict[str, NDArray[Any]] = {}
    if isinstance(images, np.ndarray):
        tensors["pixel_values"] = images
    else:
        tensors["image"] = _bytes(images)
    if findings is not None:
        tensors["findings_toml"] = _bytes([findings.to_toml().encode()])
    if alpha is not None:
        tensors["alpha"] = np.array([alpha], np.float64)
    if frame is not None:
        tensors["frame"] = np.array([frame], np.int64)
    if heatmap:
        tensors["heatmap"] = np.array([True])
    if exact:
        tensors["exact"] = np.array([True])
    return tensors


def as_infer_inputs(tensors: Mapping[str, NDArray[Any]]) -> list[Any]:
    """tritonclient's objects for the tensors of the model `lrclr`."""
    grpc = triton_grpc()
    made = []
    for name, array in tensors.items():
        one = grpc.InferInput(name, list(array.shape), protocol.INPUTS[name].datatype)
        one.set_data_from_numpy(array)
        made.append(one)
    return made


def describe_inputs() -> list[Any]:
    """The request that asks what the model is."""
    return as_infer_inputs({"describe": np.array([True])})


def description(result: Any) -> dict[str, Any]:
    """What the server says of its model.

    Raises:
        ServerError: it says nothing that we understand.
    """
    text = result.as_numpy("description")
    if text is None:
        raise ServerError("the server did not describe its model", why="it is none of lrclr's")
    content: dict[str, Any] = json.loads(text.ravel()[0])
    return content


def reply(result: Any, images: int, *, fusion_trained: bool) -> Reply:
    """Tensors of an answer to predictions.

    Raises:
        ServerError: the answer is not for as many images as were sent.
    """
    optional = {"description", "exact", "heatmap", "remarks"}
    arrays = {name: result.as_numpy(name) for name in protocol.OUTPUTS if name not in optional}
    missing = [name for name, array in arrays.items() if array is None]
    if missing or len(arrays["probability"]) != images:
        raise ServerError("the server's answer is incomplete", why=f"missing: {', '.join(missing) or 'images'}")
    names = [name.decode() for name in arrays["finding"].ravel().tolist()]
    alpha = float(arrays["alpha"].ravel()[0])
    # Servers of bundles that were exported before there were remarks give none.
    remarks = result.as_numpy("remarks")
    texts = [b""] * images if remarks is None else remarks.ravel().tolist()
    answers = Answers(**{name: arrays[name] for name in Answers.names()})
    boxes = [[tuple(box) for box in of_image] for of_image in arrays["region_box"].tolist()]
    sizes = arrays["image_size"].tolist()
    records = answers.predictions(names, sizes, boxes, alpha=alpha, fusion_trained=fusion_trained)
    predictions = [
        replace(record, remarks=tuple(text.decode().splitlines())) for record, text in zip(records, texts, strict=True)
    ]
    heatmaps, exact = result.as_numpy("heatmap"), result.as_numpy("exact")
    return Reply(
        predictions,
        [] if heatmaps is None else heatmaps.ravel().tolist(),
        arrays["bundle"].ravel()[0].decode(),
        None if exact is None else bool(exact.ravel()[0]),
    )


def error_of(error: Any, address: str, seconds: float) -> LrclrError:
    """tritonclient's exception as one of ours, with the server's own line.

    Args:
        error: an `InferenceServerException`.
        address: of the server.
        seconds: how long it was waited for.
    """
    status = str(error.status() or "").removeprefix("StatusCode.")
    line = (str(error.message()).strip().splitlines() or ["no message"])[0].strip()
    if "DEADLINE" in status.upper() or "Deadline Exceeded" in line:
        return ServerUnavailableError(
            f"{address} did not answer within {seconds:g} s", fix="Give it longer, or look at the server's log."
        )
    unreachable = _unreachable(line, address) if status == "UNAVAILABLE" else None
    if unreachable is not None:
        return unreachable
    if status == "RESOURCE_EXHAUSTED":
        return UsageError("a message is too large", why=line, fix="Send fewer images at once, or raise max_message.")
    busy = next((meaning for sign, meaning in protocol.BUSY.items() if sign in line), None)
    if busy is not None and status == "UNAVAILABLE":
        refused = ServerUnavailableError(
            f"{address} is busy",
            why=busy,
            fix=f"Ask again after {protocol.RETRY_SECONDS:g} s or later, with fewer requests at once.",
        )
        refused.retry_after = protocol.RETRY_SECONDS
        return refused
    ours = _OURS.match(line)
    if ours is not None and ours[1] in errors.__all__:
        kind: type[LrclrError] = getattr(errors, ours[1])
        return kind.told(ours[2])
    fix = None
    if status == "NOT_FOUND":
        fix = "If the bundle was exported with --name-prefix, name the model: --model-name PREFIXlrclr."
    return _KINDS.get(status, ServerError)(f"{address} answered {status or 'with an error'}", why=line, fix=fix)


def _unreachable(line: str, address: str) -> ServerUnavailableError | None:
    """Return the error for a text of gRPC about an address at which no server answers."""
    if "Connection refused" in line:
        return ServerUnavailableError(
            f"nothing listens at {address}", fix="Start a server with `lrclr serve BUNDLE`, or check the address."
        )
    if line.startswith(("errors resolving", "DNS resolution failed")):
        return ServerUnavailableError(f"the host of {address} is unknown", why=line, fix="Check the address.")
    return None


def _bytes(values: Sequence[bytes]) -> NDArray[np.object_]:
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return array
