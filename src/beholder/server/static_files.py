"""The page's files. They are listed when the server starts: no path is ever built from a request."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def router() -> APIRouter:
    """Return a router with one route per file; ``index.html`` is served at ``/``."""
    routes = APIRouter()
    for file in sorted(files("beholder.server").joinpath("page").iterdir(), key=lambda file: file.name):
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in MEDIA_TYPES:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            endpoint = _endpoint(file.read_bytes(), MEDIA_TYPES[suffix])
            routes.add_api_route(path, endpoint, methods=["GET"], name=file.name)
    return routes


def _endpoint(data: bytes, media_type: str):  # type: ignore[no-untyped-def]
    async def serve_file() -> Response:
        return Response(data, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return serve_file
