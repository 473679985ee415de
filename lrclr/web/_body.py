"""Bodies of requests: limits while they arrive, and their meaning. Nothing is written to disk."""

from __future__ import annotations

import base64
import binascii
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from lrclr.errors import ImageError
from lrclr.web._gate import busy
from lrclr.web._problems import HttpProblem

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

    from starlette.requests import Request

    from lrclr.web._options import WebOptions

Content = TypeVar("Content", bound=BaseModel)
_DATA_URL: Final = re.compile(r"data:([\w.+/-]*)(;[\w.+=-]+)*;base64,", re.ASCII)
_IMAGE_URL: Final = re.compile(r"data:(image/|application/(dicom|octet-stream))", re.IGNORECASE)
_MOST_FIELDS: Final = 300
_LISTS: Final = frozenset({"findings", "prompts"})
_FIELD_BYTES: Final = 2**20
_MOST_ERRORS: Final = 10
# Values in JSON have commas between them. Millions of short ones in one body would take gigabytes and minutes to check.
_MOST_COMMAS: Final = 2**14
# Bytes a second. A slower client would hold a connection and a part of `all_bodies_bytes`.
_SLOWEST: Final = 2**14


class InvalidRequest(HttpProblem):
    """A request whose members are not valid.

    Args:
        errors: JSON pointer and meaning of each.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__(
            422, "the request is not valid: " + "; ".join(f"{e['pointer']}: {e['detail']}" for e in errors)
        )
        self.errors = errors


@dataclass(frozen=True)
class Form:
    """A multipart body.

    Attributes:
        files: contents of the files.
        content: the other fields, as the JSON that means the same.
    """

    files: list[bytes]
    content: bytes


class Bodies:
    """Reads bodies within the limits of one request and of all requests together.

    Args:
        options: limits.
    """

    def __init__(self, options: WebOptions) -> None:
        self._options = options
        self.bytes = 0

    @asynccontextmanager
    async def of(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request. It counts until the context ends.

        Raises:
            HttpProblem: 413; it is too large. 408; it does not arrive, or too slowly. 400; its length is not a number,
                or the client has closed the connection.
            ServerUnavailableError: all bodies together are too large.
        """
        limit = self._options.body_bytes
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise HttpProblem(400, "the header Content-Length is not a number")
        if int(length) > limit:
            raise _too_large(limit)
        held = 0
        body = bytearray()
        pause = self._options.body_seconds
        began = anyio.current_time()
        try:
            stream = request.stream()
            while True:
                left = began + pause + len(body) / _SLOWEST - anyio.current_time()
                with anyio.move_on_after(min(pause, left)) as timer:
                    try:
                        chunk = await anext(stream, None)
                    except ClientDisconnect:
                        raise HttpProblem(400, "the connection was closed within the body of the request") from None
                if timer.cancelled_caught:
                    raise HttpProblem(408, "the body of the request does not arrive")
                if chunk is None:
                    break
                if len(body) + len(chunk) > limit:
                    raise _too_large(limit)
                if self.bytes + len(chunk) > self._options.all_bodies_bytes:
                    raise busy("other requests are large")
                self.bytes += len(chunk)
                held += len(chunk)
                body += chunk
            yield bytes(body)
        finally:
            self.bytes -= held

    async def form(self, request: Request, body: bytes) -> Form:
        """The files and fields of a multipart body.

        Each field is a member of the JSON form, and its value is JSON. `findings` and `prompts` are given as a JSON
        list, or once for each name or text.

        Raises:
            HttpProblem: 400; the body is not multipart, or has too many parts.
        """
        limit = self._options.images

        async def whole() -> AsyncGenerator[bytes, None]:
            yield body

        class InMemory(MultiPartParser):
            # By default, files above 1 MB are written to disk.
            spool_max_size = len(body) + 1

        parser = InMemory(
            request.headers, whole(), max_files=limit, max_fields=_MOST_FIELDS, max_part_size=_FIELD_BYTES
        )
        try:
            form = await parser.parse()
        except (MultiPartException, KeyError, ValueError) as error:
            why = error.message if isinstance(error, MultiPartException) else "its parts cannot be separated"
            raise HttpProblem(400, f"the multipart body cannot be read: {why}") from None
        files: list[bytes] = []
        fields: dict[str, list[Any]] = {}
        async with _closing(form):
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    if name != "images":
                        raise HttpProblem(422, "files must be in the field `images`")
                    files.append(await value.read())
                else:
                    fields.setdefault(name, []).append(_value(name, value))
        members = {
            # A list may be one JSON list, or a field for each element.
            name: values[0] if len(values) == 1 and (name not in _LISTS or isinstance(values[0], list)) else values
            for name, values in fields.items()
        }
        return Form(files, json.dumps(members).encode())


@asynccontextmanager
async def _closing(form: Any) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await form.close()


def _value(name: str, text: str) -> Any:
    """The value of a field: JSON, except that a name or a prompt may be a bare text."""
    if name in _LISTS and text[:1] not in {"[", "{"}:
        return text
    _check_commas(text.count(","))
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _check_commas(number: int) -> None:
    if number > _MOST_COMMAS:
        raise HttpProblem(413, f"the JSON of the request has more than {_MOST_COMMAS} values. Send several requests")


def _too_large(limit: int) -> HttpProblem:
    return HttpProblem(413, f"the request is larger than {limit} bytes. Send fewer or smaller files")


def parsed(kind: type[Content], body: bytes) -> Content:
    """The content of a JSON body.

    Raises:
        HttpProblem: 400; it is not JSON. 413; it has too many values.
        InvalidRequest: a member is not valid. The error does not quote its value.
    """
    _check_commas(body.count(b","))
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if any(one["type"] == "json_invalid" for one in found):
            raise HttpProblem(400, "the body is not valid JSON in UTF-8") from None
        raise InvalidRequest(
            [
                {"pointer": "".join(f"/{part}"[:80] for part in one["loc"]), "detail": one["msg"]}
                for one in found[:_MOST_ERRORS]
            ]
        ) from None


def is_image(text: str) -> bool:
    """Whether an input of the embeddings is an image and not a text."""
    return _IMAGE_URL.match(text) is not None


def decoded_image(text: str, place: int, count: int) -> bytes:
    """The file in base64 or in a data URL.

    Raises:
        ImageError: it is not base64.
    """
    found = _DATA_URL.match(text[:200])
    try:
        content = base64.b64decode(text[found.end() :] if found else text, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content:
        raise ImageError(
            f"image {place + 1} of {count} is empty or not base64",
            fix="Send a file in base64, or as data:image/png;base64,…",
        )
    return content
