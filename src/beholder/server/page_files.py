"""The page's files. Only those that were found when the server began can be had: no path is made from a request."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Response

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def router() -> APIRouter:
    """A route for each file; ``index.html`` is ``/``."""
    routes = APIRouter()
    for file in sorted(files("beholder.server").joinpath("page").iterdir(), key=lambda file: file.name):
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in TYPES:
            path = "/" if file.name == "index.html" else f"/page/{file.name}"
            routes.add_api_route(path, _giving(file.read_bytes(), TYPES[suffix]), methods=["GET"], name=file.name)
    return routes


def _giving(data: bytes, kind: str):  # type: ignore[no-untyped-def]
    async def give() -> Response:
        return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})

    return give
