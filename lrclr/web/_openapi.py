"""The OpenAPI document: what FastAPI does not see, since bodies are read within limits by `Bodies`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from lrclr.web import _types as types
from lrclr.web._problems import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from pydantic import BaseModel

    from lrclr.web._options import WebOptions

JSON: Final = "application/json"
FORM: Final = "multipart/form-data"
DICOM: Final = "application/dicom"
FILE_TYPES: Final = ("application/octet-stream", DICOM, "image/png", "image/jpeg", "image/tiff")
_REQUESTS: Final = (
    types.FindingsRequest,
    types.FindingsForm,
    types.EmbeddingsRequest,
    types.SimilarityRequest,
    types.Question,
    types.HeatmapRequest,
)
_REF: Final = "#/components/schemas/{model}"
_PROBLEM: Final = {
    "default": {
        "description": "Problem details (RFC 9457). The page `/errors` has a status for each class of errors.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
    }
}


def operation(
    summary: str,
    reply: type[BaseModel] | None = None,
    *,
    body: type[BaseModel] | None = None,
    form: bool = False,
    files: tuple[str, ...] = (),
    gives: str | None = None,
) -> dict[str, Any]:
    """Arguments of a route, for its OpenAPI description.

    Args:
        summary: one line.
        reply: type of the answer, if the function does not say.
        body: type of a JSON body.
        form: whether a multipart form with files is taken, too.
        files: media types of a body that is a file.
        gives: media type of the answer, if it is not JSON.
    """
    content: dict[str, Any] = {}
    if body is not None:
        content[JSON] = {"schema": {"$ref": _REF.format(model=body.__name__)}}
    if form:
        content[FORM] = {"schema": {"$ref": _REF.format(model="FindingsForm")}}
    for kind in files:
        content[kind] = {"schema": {"type": "string", "format": "binary", "minLength": 1}}
    described: dict[str, Any] = {"summary": summary, "responses": dict(_PROBLEM)}
    if reply is not None:
        described["response_model"] = reply
    if content:
        described["openapi_extra"] = {"requestBody": {"required": True, "content": content}}
    if gives is not None:
        schema = {"type": "string"} if gives.startswith("text/") else {"type": "string", "format": "binary"}
        described["responses"][200] = {"description": summary, "content": {gives: {"schema": schema}}}
        described["response_class"] = Response
    return described


def describe(app: FastAPI, options: WebOptions) -> None:
    """Add what FastAPI does not see to the OpenAPI document: bodies, problem details and the token."""
    made: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            kinds = [(kind, "validation") for kind in (*_REQUESTS, types.Problem)]
            _, definitions = models_json_schema(kinds, ref_template=_REF)  # type: ignore[arg-type]
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions["$defs"])
            if options.token is not None:
                components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
