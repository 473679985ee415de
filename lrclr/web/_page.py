"""The page, its files, the samples, and what people read."""

from __future__ import annotations

import html
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastapi.responses import FileResponse, HTMLResponse
from fastapi.staticfiles import StaticFiles

from lrclr.samples import SAMPLES
from lrclr.web._problems import STATUS, HttpProblem

if TYPE_CHECKING:
    from fastapi import FastAPI

_STATIC: Final = Path(str(files("lrclr") / "web" / "static"))


def add_page(app: FastAPI) -> None:
    """Add the page, its files, the samples, and the page of errors."""

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
