"""Wrong requests as any client could send them, written directly to the wire without tritonclient's checks."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from lrclr.samples import sample_paths
from tests.raster_files import png_chunk

if TYPE_CHECKING:
    import http.client

    from hypothesis.strategies import SearchStrategy
    from numpy.typing import NDArray

GOOD_IMAGE = min((path.read_bytes() for path in sample_paths()), key=len)
MAX_BATCH = 32


@dataclass(frozen=True)
class WireTensor:
    """An input tensor. Name, type, shape and content need not match."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class WrongRequest:
    """A request that must be refused.

    Attributes:
        what: what is wrong with it.
        model: name of the model to which it is sent.
        tensors: inputs of the request.
        codes: accepted gRPC status codes of the refusal.
        says: a word that the error must contain. Empty for errors of Triton itself.
    """

    what: str
    model: str
    tensors: tuple[WireTensor, ...]
    codes: tuple[str, ...] = ("INVALID_ARGUMENT",)
    says: str = ""


def byte_tensor(name: str, *values: bytes) -> WireTensor:
    """A BYTES tensor in Triton's encoding: the length before each value."""
    return WireTensor(
        name, "BYTES", (len(values),), b"".join(struct.pack("<I", len(value)) + value for value in values)
    )


def numbers(name: str, datatype: str, array: NDArray[Any]) -> WireTensor:
    return WireTensor(name, datatype, array.shape, array.tobytes())


IMAGE = byte_tensor("image", GOOD_IMAGE)


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header states this size but which contains almost no data."""

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(64)))
        + png_chunk(b"IEND", b"")
    )


def about(
    what: str, *tensors: WireTensor, says: str = "", codes: tuple[str, ...] = ("INVALID_ARGUMENT",)
) -> WrongRequest:
    return WrongRequest(what, "lrclr", tensors, codes, says)


def alpha_of(value: float) -> WireTensor:
    return numbers("alpha", "FP64", np.array([value], np.float64))


def pixels(size: int, rows: int = 1, *, fill: float = 0.0, dtype: type = np.float32) -> NDArray[Any]:
    return np.full((rows, 3, size, size), fill, dtype)


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def bad_files() -> SearchStrategy[WrongRequest]:
    """Requests with files that are not radiographs."""
    cut = st.integers(0, len(GOOD_IMAGE) // 2).map(lambda end: GOOD_IMAGE[:end])
    bomb = st.builds(png_of, st.integers(30_000, 2**31 - 1), st.integers(30_000, 2**31 - 1))
    overwritten = st.integers(40, len(GOOD_IMAGE) // 2).map(
        lambda at: GOOD_IMAGE[:at] + bytes(40) + GOOD_IMAGE[at + 40 :]
    )
    junk = st.binary(max_size=300)
    preamble = st.binary(max_size=60).map(lambda rest: bytes(128) + b"DICM" + rest)
    file = st.one_of(cut, bomb, overwritten, junk, preamble)
    single_file = st.builds(lambda content: about("file", byte_tensor("image", content), says="Image"), file)
    file_in_batch = st.builds(
        lambda content, place: about(
            "file among good ones",
            byte_tensor("image", *[content if k == place else GOOD_IMAGE for k in range(3)]),
            says=f"image {place + 1} of 3",
        ),
        file,
        st.integers(0, 2),
    )
    return st.one_of(single_file, file_in_batch)


def bad_parameters() -> SearchStrategy[WrongRequest]:
    """Requests with a valid image and invalid findings, alpha or frame."""
    unknown = WORDS.map(lambda word: about("finding", IMAGE, byte_tensor("finding", b"No " + word.encode())))
    invalid = st.sampled_from((b"\xff\xfe", b"\xc3(", b"\xed\xa0\x80")).flatmap(
        lambda value: st.sampled_from(("finding", "findings_toml")).map(
            lambda name: about("not UTF-8", IMAGE, byte_tensor(name, value), says="UTF-8")
        )
    )
    toml = WORDS.map(lambda word: about("findings file", IMAGE, byte_tensor("findings_toml", b"[[" + word.encode())))
    prompt = st.integers(100, 60_000).map(
        lambda count: about(
            "huge prompt",
            IMAGE,
            byte_tensor("findings_toml", b'[[finding]]\nname = "A"\npositive = ["' + b"fluid " * count + b'"]\n'),
        )
    )
    many = st.integers(150, 3000).map(
        lambda count: about(
            "many findings",
            IMAGE,
            byte_tensor("findings_toml", "".join(f'[[finding]]\nname = "F{k}"\n' for k in range(count)).encode()),
            says="prompts",
        )
    )
    alpha = st.one_of(
        st.sampled_from((np.nan, np.inf, -np.inf, -1e-9, 1.0001)), st.floats(1.01, 1e300), st.floats(-1e300, -0.01)
    ).map(lambda value: about("alpha", IMAGE, alpha_of(value), says="alpha"))
    frame = st.integers(-(2**63), -1).map(
        lambda value: about("frame", IMAGE, numbers("frame", "INT64", np.array([value])), says="frame")
    )
    far = st.integers(1, 2**63 - 1).map(
        lambda value: about("frame", IMAGE, numbers("frame", "INT64", np.array([value])), says="frame")
    )
    return st.one_of(unknown, invalid, toml, prompt, many, alpha, frame, far)


def bad_tensors(size: int) -> SearchStrategy[WrongRequest]:
    """Requests whose tensors do not match the configuration."""
    images = st.sampled_from((IMAGE, numbers("pixel_values", "FP32", pixels(size))))
    name = st.builds(
        lambda value, suffix: about("name", value, byte_tensor(f"x{suffix}", b"1")), images, st.text("abc_", max_size=9)
    )
    kind = st.sampled_from(("FP32", "INT64", "BOOL", "UINT8", "FP16", "INT8", "NONE", "")).map(
        lambda datatype: about("type", replace(IMAGE, datatype=datatype))
    )
    shape = (
        st.lists(st.integers(-3, 70), max_size=4)
        .filter(lambda dims: dims != [1])
        .map(lambda dims: about("shape", replace(IMAGE, shape=tuple(dims))))
    )
    side = (
        st.integers(1, size * 2)
        .filter(lambda value: value != size)
        .map(lambda value: about("size", numbers("pixel_values", "FP32", pixels(value))))
    )
    length = st.integers(1, len(GOOD_IMAGE)).map(
        lambda less: about("length", replace(IMAGE, content=IMAGE.content[:-less]))
    )
    count = st.integers(65, 200).map(lambda rows: about("images", byte_tensor("image", *[b"x"] * rows), says="images"))
    nothing = st.just(about("nothing"))
    both = st.just(about("both", IMAGE, numbers("pixel_values", "FP32", pixels(size)), says="either"))
    asked = st.just(about("describe", IMAGE, numbers("describe", "BOOL", np.array([True])), says="describe"))
    fill = st.sampled_from((np.nan, np.inf, -np.inf)).map(
        lambda value: about("values", numbers("pixel_values", "FP32", pixels(size, fill=value)), says="NaN")
    )
    twice = st.sampled_from(("alpha", "frame")).map(
        lambda which: about("two", IMAGE, replace(alpha_of(0.5), name=which, shape=(2,), content=bytes(16)))
    )
    return st.one_of(name, kind, shape, side, length, count, nothing, both, asked, fill, twice)


def bad_graph_requests(size: int) -> SearchStrategy[WrongRequest]:
    """Requests to the graphs."""
    rows = st.integers(MAX_BATCH + 1, MAX_BATCH * 4).map(
        lambda count: WrongRequest(
            "batch", "image_encoder", (numbers("pixel_values", "FP32", pixels(size, count)),), says="batch"
        )
    )
    ids = st.integers(49_408, 2**62).map(
        lambda token: WrongRequest(
            "token", "text_encoder", (numbers("input_ids", "INT64", np.array([[49_406, token]])),)
        )
    )
    long = st.integers(78, 400).map(
        lambda tokens: WrongRequest(
            "tokens", "text_encoder", (numbers("input_ids", "INT64", np.ones((1, tokens), np.int64)),)
        )
    )
    heads = st.integers(0, 9).map(
        lambda regions: WrongRequest(
            "rows", "fusion_head", (numbers("region_tokens", "FP32", np.zeros((1, regions, 8), np.float32)),)
        )
    )
    model = st.text("abcdef", min_size=1, max_size=9).map(
        lambda name: WrongRequest("model", f"no_{name}", (IMAGE,), ("NOT_FOUND", "INVALID_ARGUMENT"))
    )
    return st.one_of(rows, ids, long, heads, model)


def wrong_requests(size: int) -> SearchStrategy[WrongRequest]:
    """All wrong requests.

    Args:
        size: side of the model's input, in pixels.
    """
    return st.one_of(bad_files(), bad_parameters(), bad_tensors(size), bad_graph_requests(size))


def over_grpc(stub: Any, request: WrongRequest) -> tuple[str, str]:
    """Status code and line; OK for an answer."""
    import grpc  # type: ignore[import-untyped, unused-ignore]
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferRequest(model_name=request.model)
    for tensor in request.tensors:
        message.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.content)
    try:
        stub.ModelInfer(message, timeout=30)
    except grpc.RpcError as error:
        return error.code().name, error.details()
    return "OK", ""


def over_http(connection: http.client.HTTPConnection, request: WrongRequest) -> tuple[int, str]:
    """HTTP status and line."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": tensor.name,
                    "datatype": tensor.datatype,
                    "shape": list(tensor.shape),
                    "parameters": {"binary_data_size": len(tensor.content)},
                }
                for tensor in request.tensors
            ]
        }
    ).encode()
    body = head + b"".join(tensor.content for tensor in request.tensors)
    connection.request(
        "POST", f"/v2/models/{request.model}/infer", body, {"Inference-Header-Content-Length": str(len(head))}
    )
    answer = connection.getresponse()
    content = answer.read()
    try:
        line = json.loads(content).get("error", "")
    except ValueError:
        line = content.decode(errors="replace")
    return answer.status, line
