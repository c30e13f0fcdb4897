"""The application: routes and error handlers, wrapped in the middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException

from beholder.errors import BeholderError
from beholder.server import album_api, health, images_api, index_api, native_api, openai_api, static_files
from beholder.server.http_errors import HTTPError, to_http_error
from beholder.server.middleware import RequestMiddleware
from beholder.server.service import Service
from beholder.server.telemetry import instrument
from beholder.version import __version__


class Error(BaseModel):
    """An error in the format of the OpenAI API."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every error response."""

    error: Error


def create_app(service: Service, on_failure: Callable[[], None] = lambda: None) -> RequestMiddleware:
    """Return an ASGI application that starts and stops a service.

    Args:
        service: The models and albums.
        on_failure: Called if they can't be loaded.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start(on_failure)
        yield
        service.stop()
        if tracing is not None:
            tracing.shutdown()

    app = FastAPI(title="Beholder", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    routers = [each.router for each in (openai_api, images_api, native_api, album_api, index_api, health)]
    for router in routers:
        app.include_router(router, responses={"default": {"model": ErrorBody, "description": "An error."}})
    static_router = static_files.router()
    app.include_router(static_router, include_in_schema=False)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    for kind in (HTTPError, BeholderError, Exception):
        app.add_exception_handler(kind, _handle_error)
    routes = [
        (route.path_regex, route.path)
        for router in (*routers, static_router)
        for route in router.routes
        if isinstance(route, APIRoute)
    ]
    tracing = instrument(app, {path for _, path in routes}) if service.settings.telemetry else None
    return RequestMiddleware(app, service.settings, service.metrics, routes)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, without FastAPI's 422 responses: invalid requests get 400 here."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for operations in app.openapi_schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
    return app.openapi_schema


async def _handle_error(request: Request, error: Exception) -> JSONResponse:
    http_error = to_http_error(error)
    request.scope["error_code"] = http_error.code or "none"  # for the log
    return JSONResponse(http_error.body, http_error.status, headers=http_error.headers)


async def _handle_validation_error(request: Request, error: Exception) -> JSONResponse:
    """Report pydantic's first error, without the rejected value."""
    first: dict[str, Any] = {}
    location = ""
    if isinstance(error, RequestValidationError):
        # Of a union, each alternative has an error of its own: the deepest one names the wrong field.
        located = [(_field(each, error.body), each) for each in error.errors()]
        fields, first = max(located, key=lambda each: len(each[0]), default=([], {}))
        location = ".".join(fields)
    message = f"{location or 'the body'}: {first.get('msg', 'invalid')}"[:500]
    code = str(first.get("type", "")) or None
    return await _handle_error(request, HTTPError(400, message, code=code, param=location or None))


async def _handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 400
    messages = {404: "there is nothing at this URL", 405: "this URL does not support this method"}
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    is_form = request.headers.get("content-type", "").startswith("multipart/")
    invalid = f"the body is not valid {'multipart/form-data' if is_form else 'JSON'}"
    http_error = HTTPError(status, messages.get(status, invalid), headers=headers)
    return await _handle_error(request, http_error)


def _field(error: dict[str, Any], body: Any) -> list[str]:
    """Return the path of a field without pydantic's names of union alternatives, which are not keys of the body."""
    source, *location = error["loc"]
    if source != "body" or isinstance(body, FormData):
        return [str(part) for part in location]
    path: list[str] = []
    for part in location:
        if isinstance(body, dict) and (part in body or error["type"] == "missing"):
            body = body.get(part)
        elif isinstance(body, list) and isinstance(part, int) and part < len(body):
            body = body[part]
        else:
            continue
        path.append(str(part))
    return path
