"""Listening, until told to stop."""

from __future__ import annotations

import signal
import sys
import warnings
from contextlib import suppress

import uvicorn

from beholder.errors import InvalidSetting
from beholder.runtime.allocator import keep_freed_memory
from beholder.server.app import make_app
from beholder.server.logs import log, set_up
from beholder.server.service import Service


class Server(uvicorn.Server):
    """Says where it listens, and is told when the models can't be loaded."""

    async def startup(self, sockets: list | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        if self.started and self.servers:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            log("listening", address=f"http://{host}:{port}/")


def server_of(service: Service) -> Server:
    """A server that is not running yet."""
    settings = service.settings

    def failed() -> None:
        server.should_exit = True

    config = uvicorn.Config(
        make_app(service, failed),
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
    """Runs until SIGTERM or Ctrl-C; answers that are being written are finished first, for ``stop_seconds``.

    Raises:
        InvalidSetting: the address can't be listened on.
        BeholderError: a model can't be loaded.
    """
    keep_freed_memory()
    set_up()
    warnings.simplefilter("ignore", UserWarning)  # they may quote what was sent; what matters of them is an error here
    server = server_of(service)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them once more when it is done
        signal.signal(number, lambda *_: None)
    with suppress(SystemExit):  # uvicorn's way to say that it could not begin
        server.run()
    if service.failure is not None:
        raise service.failure
    if not server.started:
        host, port = service.settings.host, service.settings.port
        raise InvalidSetting(f"can't listen on {host}, port {port}: is another program there? --port takes another")
    log("stopped")
    sys.stderr.flush()
