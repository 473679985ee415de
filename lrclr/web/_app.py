"""The application: the REST API, the page, and what surrounds them."""

from __future__ import annotations

import html
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response

from lrclr._version import __version__
from lrclr.errors import LrclrError
from lrclr.images._dicom import looks_like_dicom
from lrclr.samples import SAMPLES
from lrclr.web import _metrics as prometheus
from lrclr.web import _types as types
from lrclr.web._body import Bodies, InvalidRequest, parsed
from lrclr.web._gate import Gate
from lrclr.web._guard import Guard
from lrclr.web._kept import KeptImage, KeptImages
from lrclr.web._options import WebOptions
from lrclr.web._problems import MEDIA_TYPE, STATUS, HttpProblem, problem, problem_of
from lrclr.web._service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pydantic import BaseModel

    from lrclr.web._backend import Backend

__all__ = ["create_app"]

_STATIC: Final = Path(str(files("lrclr") / "web" / "static"))
_REQUESTS: Final = (
    types.FindingsRequest,
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
_JSON: Final = "application/json"
_FORM: Final = "multipart/form-data"
_DICOM: Final = "application/dicom"
_FILE_TYPES: Final = ("application/octet-stream", _DICOM, "image/png", "image/jpeg", "image/tiff")
_EXPIRE_EVERY: Final = 30.0


def create_app(backend: Backend, options: WebOptions | None = None) -> FastAPI:
    """Make the ASGI application of `lrclr web`.

    Args:
        backend: the model.
        options: limits, and the token. The server that runs the application listens where it was told.
    """
    options = options or WebOptions()
    service, metrics = Service(backend, options), prometheus.Metrics()
    gate, bodies, kept = Gate(options.workers, options.queued), Bodies(options), KeptImages(options)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def forget() -> None:
            while True:
                await anyio.sleep(_EXPIRE_EVERY)
                kept.expire()

        async with anyio.create_task_group() as group:
            group.start_soon(forget)
            yield
            group.cancel_scope.cancel()
        kept.clear()

    app = FastAPI(
        title="lrclr",
        version=__version__,
        summary="Chest x-ray findings, and the image regions that support them",
        description="Research use only: this is not a medical device.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    app.add_middleware(Guard, options=options, metrics=metrics)
    app.add_exception_handler(LrclrError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_error)

    async def asked(
        request: Request, kind: type[Any], work: Callable[[Any], BaseModel | bytes], media: str
    ) -> Response:
        """The response to a request with a JSON body."""
        _require_type(request, _JSON)
        async with bodies.of(request) as body:
            return await gate.run(lambda: _response(work(parsed(kind, body)), media))

    @app.post("/v1/findings", **_operation("Findings of images", types.FindingsRequest, form=True))
    async def findings(request: Request) -> types.FindingsReply:
        if _require_type(request, _JSON, _FORM) == _JSON:
            return await asked(request, types.FindingsRequest, service.findings, _JSON)
        async with bodies.of(request) as body:
            form = await bodies.form(request, body)
            if not form.files:
                raise HttpProblem(422, "the form has no file in the field `images`")
            content = form.content
            del body

            def work() -> Response:
                question = parsed(types.FindingsForm, content)
                return _response(service.findings(question.request(), form.files), _JSON)

            return await gate.run(work)

    @app.post("/v1/embeddings", **_operation("Embeddings of texts and images", types.EmbeddingsRequest))
    async def embeddings(request: Request) -> types.EmbeddingsReply:
        return await asked(request, types.EmbeddingsRequest, service.embeddings, _JSON)

    @app.post("/v1/similarity", **_operation("Cosines of images and texts", types.SimilarityRequest))
    async def similarity(request: Request) -> types.SimilarityReply:
        return await asked(request, types.SimilarityRequest, service.similarity, _JSON)

    @app.get("/v1/model", **_operation("The model that answers"))
    async def model() -> types.ModelReply:
        return service.model()

    @app.get("/v1/samples", **_operation("Synthetic radiographs for a first try"))
    async def samples() -> list[types.SampleReply]:
        return [
            types.SampleReply(
                name=one.name,
                finding=one.finding,
                files={"png": f"/samples/{one.name}.png", "dicom": f"/samples/{one.name}.dcm"},
            )
            for one in SAMPLES
        ]

    @app.post("/v1/images", status_code=201, **_operation("Keep an image for several questions", files=_FILE_TYPES))
    async def keep(
        request: Request,
        frame: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Frame of files with several.")] = None,
        exact: Annotated[bool, Query(description="Decode every pixel.")] = False,
    ) -> types.KeptReply:
        _require_type(request, *_FILE_TYPES)
        async with bodies.of(request) as body:

            def work() -> Response:
                (encoded,) = backend.encode([body], frame=frame, exact=exact)
                image = KeptImage(body, encoded, frame, exact)
                answer = service.answer(image, types.Question())
                # After the answer: a file that cannot be read is not kept.
                reply = types.KeptReply(
                    **dict(answer),
                    id=kept.add(image),
                    dicom=looks_like_dicom(body),
                    expires=options.kept_seconds,
                )
                return _response(reply, _JSON, 201)

            return await gate.run(work)

    @app.post("/v1/images/{number}/findings", **_operation("Findings of a kept image", types.Question))
    async def ask(number: str, request: Request) -> types.FindingsReply:
        image = kept.get(number)
        return await asked(request, types.Question, partial(service.answer, image), _JSON)

    @app.get("/v1/images/{number}/picture", **_operation("The picture that the model reads", gives="image/png"))
    async def picture(number: str) -> Response:
        image = kept.get(number)
        return await gate.run(lambda: _response(service.picture(image), "image/png"))

    @app.post(
        "/v1/images/{number}/heatmap",
        **_operation("Heat map of a kept image", types.HeatmapRequest, gives="image/png"),
    )
    async def heatmap(number: str, request: Request) -> Response:
        image = kept.get(number)
        return await asked(request, types.HeatmapRequest, partial(service.heatmap, image), "image/png")

    @app.post(
        "/v1/images/{number}/report",
        **_operation("DICOM structured report of a kept DICOM image", types.Question, gives=_DICOM),
    )
    async def report(number: str, request: Request) -> Response:
        image = kept.get(number)
        return await asked(request, types.Question, partial(service.report, image), _DICOM)

    @app.delete("/v1/images/{number}", status_code=204, **_operation("Forget a kept image"))
    async def forget(number: str) -> Response:
        kept.forget(number)
        return Response(status_code=204)

    @app.get("/healthz", **_operation("Whether the process runs"))
    async def health() -> types.Health:
        return types.Health(status="ok")

    @app.get("/readyz", **_operation("Whether the model answers"))
    async def ready() -> types.Health:
        # Not through the gate: a busy process is ready.
        if not await anyio.to_thread.run_sync(backend.ready):
            raise HttpProblem(503, "the Triton server does not answer", {"Retry-After": "1"})
        return types.Health(status="ok")

    @app.get("/metrics", **_operation("Metrics for Prometheus", gives="text/plain"))
    async def metrics_page() -> Response:
        gauges = {
            "lrclr_web_pending_requests": ("Requests that compute or wait", gate.pending),
            "lrclr_web_refused_total": ("Requests that were refused because too many wait", gate.refused),
            "lrclr_web_body_bytes": ("Bytes of the bodies of all requests now", bodies.bytes),
            "lrclr_web_kept_images": ("Images that are kept for further questions", len(kept)),
            "lrclr_web_kept_bytes": ("Bytes of these images and their features", kept.bytes),
        }
        return PlainTextResponse(metrics.text(gauges), media_type=prometheus.MEDIA_TYPE)

    _add_page(app)
    _describe(app, options)
    return app


async def _answer_error(_: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        # A parameter of the path or the query. Its value is not quoted.
        error = InvalidRequest(
            [{"pointer": "/".join(map(str, one["loc"])), "detail": one["msg"]} for one in error.errors()]
        )
    if isinstance(error, InvalidRequest):
        return problem(422, error.detail, errors=error.errors)
    return problem_of(error)


def _require_type(request: Request, *kinds: str) -> str:
    """The media type of the body, if it is one of these.

    Raises:
        HttpProblem: 415; it is another one. A page of another site could send some types without being asked.
    """
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in kinds:
        raise HttpProblem(415, f"the body must have the type {', '.join(kinds)}")
    return given


def _response(content: BaseModel | bytes, media: str, status: int = 200) -> Response:
    return Response(content if isinstance(content, bytes) else content.model_dump_json(), status, media_type=media)


def _operation(
    summary: str,
    body: type[BaseModel] | None = None,
    *,
    form: bool = False,
    files: tuple[str, ...] = (),
    gives: str | None = None,
) -> dict[str, Any]:
    """Arguments of a route, for its OpenAPI description.

    Args:
        summary: one line.
        body: type of a JSON body.
        form: whether a multipart form with files is taken, too.
        files: media types of a body that is a file.
        gives: media type of the answer, if it is not JSON.
    """
    content: dict[str, Any] = {}
    if body is not None:
        content[_JSON] = {"schema": {"$ref": _REF.format(model=body.__name__)}}
    if form:
        content[_FORM] = {"schema": {"$ref": _REF.format(model="FindingsForm")}}
    for kind in files:
        content[kind] = {"schema": {"type": "string", "format": "binary", "minLength": 1}}
    described: dict[str, Any] = {"summary": summary, "responses": dict(_PROBLEM)}
    if content:
        described["openapi_extra"] = {"requestBody": {"required": True, "content": content}}
    if gives is not None:
        schema = {"type": "string"} if gives.startswith("text/") else {"type": "string", "format": "binary"}
        described["responses"][200] = {"description": summary, "content": {gives: {"schema": schema}}}
        described["response_class"] = Response
    return described


def _describe(app: FastAPI, options: WebOptions) -> None:
    """Add what FastAPI does not see to the OpenAPI document: bodies, problem details and the token."""
    made: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            kinds = [(kind, "validation") for kind in (*_REQUESTS, types.FindingsForm, types.Problem)]
            _, definitions = models_json_schema(kinds, ref_template=_REF)  # type: ignore[arg-type]
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions["$defs"])
            if options.token is not None:
                components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
                document["security"] = [{"token": []}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_page(app: FastAPI) -> None:
    """The page, its files, the samples, and what people read."""

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_STATIC / "index.html")

    @app.get("/api", include_in_schema=False)
    async def api() -> FileResponse:
        return FileResponse(_STATIC / "api.html")

    @app.get("/samples/{name}", include_in_schema=False)
    async def sample(name: str) -> FileResponse:
        found = {path.name: path for one in SAMPLES for path in (one.path("png"), one.path("dicom"))}
        if name not in found:
            raise HttpProblem(404, "there is no such sample")
        return FileResponse(found[name])

    @app.get("/errors", include_in_schema=False)
    async def errors() -> HTMLResponse:
        rows = "".join(
            f'<tr id="{kind.__name__}"><td><code>{kind.__name__}</code><td>{status}'
            f"<td>{html.escape((kind.__doc__ or '').partition(chr(10))[0])}</tr>"
            for kind, status in STATUS.items()
        )
        return HTMLResponse(
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Errors of lrclr</title>'
            '<link rel="stylesheet" href="/static/style.css"><main class="text"><h1>Errors</h1>'
            "<p>The type of a problem (RFC 9457) is <code>/errors#</code> and one of these classes.</p>"
            f"<table><tr><th>Class<th>Status<th>Meaning</tr>{rows}</table></main></html>"
        )

    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
