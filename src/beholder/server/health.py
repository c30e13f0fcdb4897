"""What keeps a server running asks for: is it alive, is it ready, what has it done."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from beholder.server.openai_api import service_of

router = APIRouter()


@router.get("/healthz")
async def healthz(request: Request) -> dict[str, str | bool]:
    """The process answers; ``ready`` is whether `readyz` says so, too."""
    return {"status": "ok", "ready": service_of(request).ready}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """The models are loaded; 503 before that and when the server is told to stop."""
    service_of(request).check_ready()
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """In the form of Prometheus."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
