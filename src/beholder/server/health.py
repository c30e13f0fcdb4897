"""Liveness, readiness and metrics."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from beholder.server.dependencies import get_service

router = APIRouter()


@router.get("/healthz")
async def healthz(request: Request) -> dict[str, str | bool]:
    """The process is alive; ``ready`` tells whether `readyz` succeeds, too."""
    return {"status": "ok", "ready": get_service(request).ready}


@router.get("/readyz")
async def readyz(request: Request) -> dict[str, str]:
    """The models are loaded; 503 before that and while the server drains or stops."""
    get_service(request).check_ready(readiness=True)
    return {"status": "ready"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Metrics in the Prometheus text format."""
    return Response(get_service(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
