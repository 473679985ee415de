"""The application: the REST API, the page, and what surrounds them."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import anyio
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from lrclr._version import __version__
from lrclr.errors import LrclrError
from lrclr.web._body import Bodies, InvalidRequest
from lrclr.web._gate import Gate
from lrclr.web._guard import Guard
from lrclr.web._kept import KeptImages
from lrclr.web._metrics import Metrics
from lrclr.web._openapi import describe
from lrclr.web._options import WebOptions
from lrclr.web._page import add_page
from lrclr.web._problems import problem, problem_of
from lrclr.web._routes import Context, add_kept_images, add_questions, add_state
from lrclr.web._service import Service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.responses import Response

    from lrclr.web._backend import Backend

_EXPIRE_EVERY: Final = 30.0


def create_app(backend: Backend, options: WebOptions | None = None) -> FastAPI:
    """Make the ASGI application of `lrclr web`.

    Args:
        backend: the model.
        options: limits, and the token. Where the server listens is the concern of `WebServer`.
    """
    options = options or WebOptions()
    kept = KeptImages(options)
    context = Context(
        Service(backend, options), Gate(options.workers, options.queued), Bodies(options), kept, Metrics()
    )

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
    app.add_middleware(Guard, options=options, metrics=context.metrics)
    app.add_exception_handler(LrclrError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_error)

    add_questions(app, context)
    add_kept_images(app, context)
    add_state(app, context)
    add_page(app)
    describe(app, options)
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
