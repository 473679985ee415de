"""The operations of the REST API."""

# No postponed annotations here: FastAPI needs the types.
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import anyio.to_thread
from fastapi import FastAPI, Query, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from lrclr.images._dicom import looks_like_dicom
from lrclr.samples import SAMPLES
from lrclr.web import _metrics as prometheus
from lrclr.web import _types as types
from lrclr.web._body import Bodies, parsed
from lrclr.web._gate import Gate
from lrclr.web._kept import KeptImage, KeptImages
from lrclr.web._openapi import DICOM, FILE_TYPES, FORM, JSON, operation
from lrclr.web._problems import HttpProblem
from lrclr.web._service import Service


@dataclass(frozen=True)
class Context:
    """What the operations share."""

    service: Service
    gate: Gate
    bodies: Bodies
    kept: KeptImages
    metrics: prometheus.Metrics


def add_questions(app: FastAPI, context: Context) -> None:
    """Add the operations that take images or texts and keep nothing, and what they need to be asked."""
    service = context.service

    @app.post(
        "/v1/findings", **operation("Findings of images", types.FindingsReply, body=types.FindingsRequest, form=True)
    )
    async def findings(request: Request) -> Response:
        if _require_type(request, JSON, FORM) == JSON:
            return await _asked(context, request, types.FindingsRequest, service.findings, JSON)
        async with context.bodies.of(request) as body:
            form = await context.bodies.form(request, body)
            if not form.files:
                raise HttpProblem(422, "the form has no file in the field `images`")
            content = form.content
            del body

            def work() -> Response:
                question = parsed(types.FindingsForm, content)
                return _response(service.findings(question.request(), form.files), JSON)

            return await context.gate.run(work)

    @app.post(
        "/v1/embeddings",
        **operation("Embeddings of texts and images", types.EmbeddingsReply, body=types.EmbeddingsRequest),
    )
    async def embeddings(request: Request) -> Response:
        return await _asked(context, request, types.EmbeddingsRequest, service.embeddings, JSON)

    @app.post(
        "/v1/similarity",
        **operation("Cosines of images and texts", types.SimilarityReply, body=types.SimilarityRequest),
    )
    async def similarity(request: Request) -> Response:
        return await _asked(context, request, types.SimilarityRequest, service.similarity, JSON)

    @app.get("/v1/model", **operation("The model that answers"))
    async def model() -> types.ModelReply:
        return service.model()

    @app.get("/v1/samples", **operation("Synthetic radiographs for a first try"))
    async def samples() -> list[types.SampleReply]:
        return [
            types.SampleReply(
                name=one.name,
                finding=one.finding,
                files={"png": f"/samples/{one.name}.png", "dicom": f"/samples/{one.name}.dcm"},
            )
            for one in SAMPLES
        ]


def add_kept_images(app: FastAPI, context: Context) -> None:
    """Add the operations on images that are kept for several questions."""
    service = context.service

    @app.post(
        "/v1/images",
        status_code=201,
        **operation("Keep an image for several questions", types.KeptReply, files=FILE_TYPES),
    )
    async def keep(
        request: Request,
        frame: Annotated[int | None, Query(ge=0, le=2**31 - 1, description="Frame of files with several.")] = None,
        exact: Annotated[bool, Query(description="Decode every pixel.")] = False,
    ) -> Response:
        _require_type(request, *FILE_TYPES)
        async with context.bodies.of(request) as body:

            def work() -> types.KeptReply:
                (encoded,) = service.backend.encode([body], frame=frame, exact=exact)
                image = KeptImage(body, encoded, frame, exact)
                answer = service.answer(image, types.Question(findings=None, prompts=None))
                # After the answer: a file that cannot be read is not kept.
                return types.KeptReply(
                    **dict(answer),
                    id=context.kept.add(image),
                    dicom=looks_like_dicom(body),
                    expires=service.options.kept_seconds,
                )

            # uvicorn pauses within a large body. This makes it read on, so that it sees whether the client has gone.
            await request.is_disconnected()
            reply = await context.gate.run(work)
        if await request.is_disconnected():
            # The page was closed meanwhile, and cannot forget an image whose key it never got.
            context.kept.forget(reply.id)
        return _response(reply, JSON, 201)

    @app.post(
        "/v1/images/{key}/findings",
        **operation("Findings of a kept image", types.FindingsReply, body=types.Question),
    )
    async def ask(key: str, request: Request) -> Response:
        image = context.kept.get(key)
        return await _asked(context, request, types.Question, partial(service.answer, image), JSON)

    @app.get("/v1/images/{key}/picture", **operation("The picture that the model reads", gives="image/png"))
    async def picture(key: str) -> Response:
        image = context.kept.get(key)
        return await context.gate.run(lambda: _response(service.picture(image), "image/png"))

    @app.post(
        "/v1/images/{key}/heatmap",
        **operation("Heat map of a kept image", body=types.HeatmapRequest, gives="image/png"),
    )
    async def heatmap(key: str, request: Request) -> Response:
        image = context.kept.get(key)
        return await _asked(context, request, types.HeatmapRequest, partial(service.heatmap, image), "image/png")

    @app.post(
        "/v1/images/{key}/report",
        **operation("DICOM structured report of a kept DICOM image", body=types.Question, gives=DICOM),
    )
    async def report(key: str, request: Request) -> Response:
        image = context.kept.get(key)
        return await _asked(context, request, types.Question, partial(service.report, image), DICOM)

    @app.delete("/v1/images/{key}", status_code=204, **operation("Forget a kept image"))
    async def forget(key: str) -> Response:
        context.kept.forget(key)
        return Response(status_code=204)


def add_state(app: FastAPI, context: Context) -> None:
    """Add what probes and Prometheus ask."""

    @app.get("/healthz", **operation("Whether the process runs"))
    async def health() -> types.Health:
        return types.Health(status="ok")

    @app.get("/readyz", **operation("Whether the model answers"))
    async def ready() -> types.Health:
        # Not through the gate: a busy process is ready.
        if not await anyio.to_thread.run_sync(context.service.backend.ready):
            raise HttpProblem(503, "the Triton server does not answer", {"Retry-After": "1"})
        return types.Health(status="ok")

    @app.get("/metrics", **operation("Metrics for Prometheus", gives="text/plain"))
    async def metrics_page() -> Response:
        gauges = {
            "lrclr_web_pending_requests": ("Requests that compute or wait", context.gate.pending),
            "lrclr_web_refused_total": ("Requests that were refused because too many wait", context.gate.refused),
            "lrclr_web_body_bytes": ("Bytes of the bodies of all requests now", context.bodies.bytes),
            "lrclr_web_kept_images": ("Images that are kept for further questions", len(context.kept)),
            "lrclr_web_kept_bytes": ("Bytes of these images and their features", context.kept.bytes),
        }
        return PlainTextResponse(context.metrics.text(gauges), media_type=prometheus.MEDIA_TYPE)


async def _asked(
    context: Context, request: Request, kind: type[Any], work: Callable[[Any], BaseModel | bytes], media: str
) -> Response:
    """The response to a request with a JSON body."""
    _require_type(request, JSON)
    async with context.bodies.of(request) as body:
        return await context.gate.run(lambda: _response(work(parsed(kind, body)), media))


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
