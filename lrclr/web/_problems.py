"""Errors as problem details (RFC 9457).

The type of a problem names the class in `lrclr.errors`, and `STATUS` gives its status code. Details quote
names of findings, up to 40 characters, and nothing else of what was sent: it may be about a patient.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from lrclr import errors
from lrclr.dicom_results import ResultRefusedError
from lrclr.errors import LrclrError, ServerUnavailableError

MEDIA_TYPE: Final = "application/problem+json"


STATUS: Final[Mapping[type[LrclrError], int]] = {
    LrclrError: 500,
    errors.UsageError: 422,
    errors.FindingsError: 422,
    errors.NotSupportedError: 501,
    errors.MissingExtraError: 501,
    errors.ImageError: 422,
    errors.ImageLimitError: 413,
    ResultRefusedError: 422,
    errors.ServerError: 502,
    ServerUnavailableError: 503,
}
"""Status code of each class of errors. A class that is not in the table has that of its nearest base class."""


class HttpProblem(HTTPException):
    """A request that is refused before its meaning is looked at.

    Args:
        status: code.
        detail: what happened and what to do, in one line.
        headers: headers of the response.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, headers)


def status_of(error: LrclrError) -> int:
    """The status code of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem_of(error: Exception) -> Response:
    """The response to an error. An unexpected one is named by its type alone."""
    if isinstance(error, LrclrError):
        headers = {}
        if isinstance(error, ServerUnavailableError):
            headers["Retry-After"] = str(math.ceil(error.retry_after or 1.0))
        parts = {"what": error.what, "why": error.why, "fix": error.fix}
        more = {name: text for name, text in parts.items() if text is not None}
        return problem(status_of(error), str(error), type(error).__name__, headers=headers, **more)
    if isinstance(error, HTTPException):
        return problem(error.status_code, error.detail, headers=error.headers)
    return problem(500, f"unexpected {type(error).__name__}. Look at the log of lrclr web")


def problem(
    status: int, detail: str, name: str | None = None, *, headers: Mapping[str, str] | None = None, **more: Any
) -> Response:
    """A response with problem details.

    Args:
        status: code.
        detail: one line.
        name: class of the error; None for a problem of HTTP itself.
        headers: headers of the response.
        more: further members.
    """
    content = {
        "type": "about:blank" if name is None else f"/errors#{name}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        # OpenAI's clients show this member.
        "message": detail,
        **more,
    }
    return Response(json.dumps(content), status, dict(headers or {}), MEDIA_TYPE)
