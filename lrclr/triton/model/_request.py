"""Requests to the model `lrclr`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from lrclr import budget
from lrclr.errors import ImageError, MissingExtraError, UsageError
from lrclr.triton import protocol
from lrclr.triton.model._tensors import get

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrclr.errors import LrclrError


@dataclass(frozen=True)
class Request:
    """A checked request. Attributes are those of `lrclr.triton.protocol.INPUTS`; a missing input is None or False."""

    image: tuple[bytes, ...] | None = None
    pixel_values: NDArray[np.float32] | None = None
    finding: tuple[str, ...] | None = None
    findings_toml: str | None = None
    alpha: float | None = None
    frame: int | None = None
    heatmap: bool = False
    exact: bool = False
    embedding: bool = False
    sr: bool = False
    describe: bool = False

    @classmethod
    def read(cls, request: Any) -> Self:
        """Read a request of Triton.

        Raises:
            UsageError: inputs are too large, exclude each other, are missing, or have wrong values.
        """
        arrays = {tensor.name(): get(tensor) for tensor in request.inputs()}
        _check_bytes(arrays)
        for name, array in arrays.items():
            if array.size == 0:
                raise UsageError(f"the input {name} is empty", fix="Omit it, or give it a value.")
        if "describe" in arrays and _single(arrays, "describe"):
            if len(arrays) > 1:
                raise UsageError("describe cannot be used with other inputs")
            return cls(describe=True)
        if ("image" in arrays) == ("pixel_values" in arrays):
            raise UsageError("a request needs either image or pixel_values")
        if "finding" in arrays and "findings_toml" in arrays:
            raise UsageError("finding and findings_toml cannot be used together")
        frame = _single(arrays, "frame")
        if frame is not None and frame < 0:
            raise UsageError(f"frame is {frame}", why="a frame is a whole number from 0")
        toml = _texts(arrays, "findings_toml")
        alpha = _single(arrays, "alpha")
        heatmap = bool(_single(arrays, "heatmap"))
        exact, sr = bool(_single(arrays, "exact")), bool(_single(arrays, "sr"))
        if "pixel_values" in arrays and (heatmap or exact or sr or frame is not None):
            raise UsageError("heatmap, exact, sr and frame are for encoded images, not for pixel_values")
        _check_count(arrays.get("image", arrays.get("pixel_values")), heatmap=heatmap)
        return cls(
            image=tuple(arrays["image"].ravel().tolist()) if "image" in arrays else None,
            pixel_values=arrays.get("pixel_values"),
            finding=_texts(arrays, "finding"),
            findings_toml=None if toml is None else toml[0],
            alpha=None if alpha is None else float(alpha),
            frame=None if frame is None else int(frame),
            heatmap=heatmap,
            exact=exact,
            embedding=bool(_single(arrays, "embedding")),
            sr=sr,
        )


def status_of(error: LrclrError) -> str:
    """Triton's status code for an error, see `lrclr.triton.protocol`."""
    if isinstance(error, MissingExtraError):
        return "UNSUPPORTED"
    if isinstance(error, UsageError | ImageError):
        return "INVALID_ARG"
    return "INTERNAL"


def _check_bytes(arrays: dict[str, NDArray[Any]]) -> None:
    """Refuse a request that is too large, before it is read further."""
    sizes = {
        name: sum(map(len, array.ravel().tolist())) if array.dtype.kind == "O" else array.nbytes
        for name, array in arrays.items()
    }
    # Each value of a BYTES input is preceded by its length.
    total = sum(sizes.values()) + sum(4 * array.size for array in arrays.values() if array.dtype.kind == "O")
    if total > budget.REQUEST_BYTES:
        raise UsageError(
            f"the request has {total} bytes",
            why=f"the limit is {budget.REQUEST_BYTES}",
            fix="Send several requests, with fewer images each.",
        )
    for name in ("finding", "findings_toml"):
        if sizes.get(name, 0) > budget.FINDINGS_BYTES:
            raise UsageError(
                f"the input {name} has {sizes[name]} bytes",
                why=f"the limit is {budget.FINDINGS_BYTES}",
                fix="Send several requests, with fewer findings each.",
            )


def _check_count(images: NDArray[Any] | None, *, heatmap: bool) -> None:
    most = budget.REQUEST_HEATMAPS if heatmap else budget.REQUEST_IMAGES
    if images is not None and len(images) > most:
        with_heatmaps = " with heat maps" if heatmap else ""
        raise UsageError(
            f"a request holds {len(images)} images{with_heatmaps}",
            why=f"the limit is {most}",
            fix="Send several requests.",
        )


def _single(arrays: dict[str, NDArray[Any]], name: str) -> Any:
    if name not in arrays:
        return None
    if arrays[name].size != 1:
        raise UsageError(f"the input {name} must hold one value", why=f"its shape is {list(arrays[name].shape)}")
    return arrays[name].ravel()[0].item()


def _texts(arrays: dict[str, NDArray[Any]], name: str) -> tuple[str, ...] | None:
    if name not in arrays:
        return None
    if protocol.INPUTS[name].dims == (1,) and arrays[name].size != 1:
        raise UsageError(f"the input {name} must hold one text", why=f"its shape is {list(arrays[name].shape)}")
    try:
        return tuple(value.decode() for value in arrays[name].ravel().tolist())
    except UnicodeDecodeError as error:
        raise UsageError(f"the input {name} is not UTF-8 text") from error
