"""Runs the server until it is told to stop."""

from __future__ import annotations

import signal
import sys
import warnings
from contextlib import suppress

import uvicorn

from beholder.errors import InvalidSetting
from beholder.runtime.allocator import keep_freed_memory
from beholder.server.app import create_app
from beholder.server.logs import configure_logging, log_event
from beholder.server.service import Service


class Server(uvicorn.Server):
    """A uvicorn server that logs the address it listens on."""

    async def startup(self, sockets: list | None = None) -> None:
        """Start listening."""
        await super().startup(sockets)
        if self.started and self.servers:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            log_event("listening", address=f"http://{host}:{port}/")


def create_server(service: Service) -> Server:
    """Return a server that is not running yet. It exits if the models can't be loaded."""
    settings = service.settings

    def on_failure() -> None:
        server.should_exit = True

    config = uvicorn.Config(
        create_app(service, on_failure),
        host=settings.host,
        port=settings.port,
        http="h11",
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(settings.stop_seconds),
        h11_max_incomplete_event_size=32_768,
        backlog=256,
    )
    server = Server(config)
    return server


def serve(service: Service) -> None:
    """Run until SIGTERM or Ctrl-C; running requests have ``stop_seconds`` to finish.

    Raises:
        InvalidSetting: The address can't be bound.
        BeholderError: A model can't be loaded.
    """
    keep_freed_memory()
    configure_logging()
    # Warnings may quote request contents; where one matters, it is an error here.
    warnings.simplefilter("ignore", UserWarning)
    server = create_server(service)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn re-raises them after shutting down
        signal.signal(number, lambda *_: None)
    with suppress(SystemExit):  # raised by uvicorn if it can't start
        server.run()
    if service.failure is not None:
        raise service.failure
    if not server.started:
        host, port = service.settings.host, service.settings.port
        raise InvalidSetting(f"can't listen on {host}, port {port}: is it in use? --port selects another port")
    log_event("stopped")
    sys.stderr.flush()
