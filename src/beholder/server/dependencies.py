"""What routes need from the application."""

from __future__ import annotations

from fastapi import Request

from beholder.server.service import Service


def get_service(request: Request) -> Service:
    """Return the service that the application was created with."""
    service: Service = request.app.state.service
    return service
