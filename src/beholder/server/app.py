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
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from beholder.errors import BeholderError
from beholder.server import album_api, health, native_api, openai_api, static_files
from beholder.server.http_errors import HTTPError, to_http_error
from beholder.server.middleware import RequestMiddleware
from beholder.server.service import Service
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

    app = FastAPI(title="Beholder", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    for router in (openai_api.router, native_api.router, album_api.router, health.router):
        app.include_router(router, responses={"default": {"model": ErrorBody, "description": "An error."}})
    app.include_router(static_files.router(), include_in_schema=False)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    for kind in (HTTPError, BeholderError, Exception):
        app.add_exception_handler(kind, _handle_error)
    return RequestMiddleware(app, service.settings, service.metrics)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, without FastAPI's 422 responses: invalid requests get 400 here."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for operations in app.openapi_schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
    return app.openapi_schema


async def _handle_error(_: Request, error: Exception) -> JSONResponse:
    http_error = to_http_error(error)
    return JSONResponse(http_error.body, http_error.status, headers=http_error.headers)


async def _handle_validation_error(request: Request, error: Exception) -> JSONResponse:
    """Report pydantic's first error, without the rejected value."""
    first = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {}
    location = ".".join(str(part) for part in first.get("loc", ())[1:])
    message = f"{location or 'the body'}: {first.get('msg', 'invalid')}"[:500]
    code = str(first.get("type", "")) or None
    return await _handle_error(request, HTTPError(400, message, code=code, param=location or None))


async def _handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 400
    messages = {404: "there is nothing at this URL", 405: "this URL does not support this method"}
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    http_error = HTTPError(status, messages.get(status, "the body is not valid JSON"), headers=headers)
    return await _handle_error(request, http_error)
