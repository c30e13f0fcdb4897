"""The application: routes and errors put together, behind the guard."""

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

from beholder import __version__
from beholder.errors import BeholderError
from beholder.server import album_api, health, openai_api, own_api, page_files
from beholder.server.faults import Fault, fault_of
from beholder.server.guard import Guard
from beholder.server.service import Service


class Error(BaseModel):
    """What is wrong, in the form of OpenAI's interface."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: Error


def make_app(service: Service, failed: Callable[[], None] = lambda: None) -> Guard:
    """An ASGI application over a service, which it starts and stops.

    Args:
        service: the models.
        failed: called where they can't be loaded.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start(failed)
        yield
        service.stop()

    app = FastAPI(title="Beholder", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    for router in (openai_api.router, own_api.router, album_api.router, health.router):
        app.include_router(router, responses={"default": {"model": ErrorBody, "description": "What is wrong."}})
    app.include_router(page_files.router(), include_in_schema=False)
    app.openapi = partial(_described, app)  # type: ignore[method-assign]
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    for kind in (Fault, BeholderError, Exception):
        app.add_exception_handler(kind, _failed)
    return Guard(app, service.settings, service.metrics)


def _described(app: FastAPI) -> dict[str, Any]:
    """The description of all routes; what FastAPI says of 422 is left out, since our answer to it is 400."""
    if app.openapi_schema is None:
        app.openapi_schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        for operations in app.openapi_schema["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
    return app.openapi_schema


async def _failed(_: Request, error: Exception) -> JSONResponse:
    fault = fault_of(error)
    return JSONResponse(fault.body, fault.status, headers=fault.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """What pydantic found, without what it was given."""
    found = error.errors()[0] if isinstance(error, RequestValidationError) and error.errors() else {}
    place = ".".join(str(part) for part in found.get("loc", ())[1:])
    message = f"{place or 'the body'}: {found.get('msg', 'invalid')}"[:500]
    return await _failed(request, Fault(400, message, code=str(found.get("type", "")) or None, param=place or None))


async def _refused(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 400
    words = {404: "there is nothing at this address", 405: "this address does not take this method"}
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return await _failed(request, Fault(status, words.get(status, "the body is no JSON"), headers=headers))
