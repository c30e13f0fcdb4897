"""Runs the server until a signal stops it."""

from __future__ import annotations

import asyncio
import errno
import signal
import threading
import time
import warnings
import webbrowser
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from beholder.errors import InvalidSetting
from beholder.runtime.allocator import keep_freed_memory, keep_returning_unused_memory
from beholder.server.access import AccessPolicy
from beholder.server.app import create_app
from beholder.server.logs import LOGGER, JsonLinesHandler, configure_logging, log_event, log_uncaught_exceptions
from beholder.server.service import Service

CANCEL_SECONDS = 10  # after the grace period, for the responses of cancelled requests
IDLE_SECONDS = 15  # for the first request of a connection
MOST_UNUSED_BYTES = 2**30  # that stay with the process for longer than UNUSED_MEMORY_SECONDS
UNUSED_MEMORY_SECONDS = 30
ACCEPT_LOG_SECONDS = 10  # between two log lines about exhausted file descriptors


class IdleTimeoutProtocol(H11Protocol):
    """Closes connections that do not send a complete request head in time; uvicorn's keep-alive starts after it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout."""
        super().connection_made(transport)
        self._idle_timer = self.loop.call_later(IDLE_SECONDS, self._close_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._idle_timer.cancel()
        super().connection_lost(exc)

    def _close_idle(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """A uvicorn server that logs its address, cancels work after the grace period, and survives a lack of file
    descriptors.

    Args:
        config: uvicorn's configuration.
        service: The models and albums.
        access: The checks of its requests.

    Attributes:
        log: Reopened by `reload`.
        open_page: Whether to open the page in a browser once the server listens.
    """

    def __init__(self, config: uvicorn.Config, service: Service, access: AccessPolicy):
        super().__init__(config)
        self.service = service
        self.access = access
        self.log: JsonLinesHandler | None = None
        self.open_page = False
        self._last_accept_log = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list | None = None) -> None:
        """Start listening."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._handle_loop_error)
        await super().startup(sockets)
        if self.started and self.servers:
            port = self.servers[0].sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            address = f"http://{host}:{port}/"
            log_event("listening", address=address)
            if self.open_page:
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    async def shutdown(self, sockets: list | None = None) -> None:
        """Let running requests finish for ``stop_seconds``, then cancel their work."""
        timer = asyncio.get_running_loop().call_later(self.service.settings.stop_seconds, self.service.cancel)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Report 503 on ``/readyz`` for ``drain_seconds``, then close the socket; a second signal closes it at once."""
        if self.service.draining or not self.service.settings.drain_seconds or not self.started:
            super().handle_exit(sig, frame)
            return
        self.service.draining = True
        timer = threading.Timer(self.service.settings.drain_seconds, super().handle_exit, (sig, frame))
        timer.daemon = True
        timer.start()

    def reload_soon(self) -> None:
        """Call `reload` in the event loop; for a signal handler."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.reload)

    def reload(self) -> None:
        """Reread the key file and reopen the log; what can't be read leaves the keys as they are."""
        if self.log is not None:
            self.log.reopen()
        try:
            keys = self.service.settings.read_keys()
        except InvalidSetting:
            LOGGER.exception("keys_not_reloaded")
            return
        self.access.keys.replace(keys)
        log_event("reloaded", keys=len(keys))

    def _handle_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log errors of the event loop as JSON; when file descriptors run out, once in a while."""
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            now = time.monotonic()
            if now - self._last_accept_log > ACCEPT_LOG_SECONDS:
                self._last_accept_log = now
                log_event("out_of_file_descriptors")
            return
        LOGGER.error("loop_error", exc_info=error)


def create_server(service: Service) -> Server:
    """Return a server that is not running yet. It exits if the models can't be loaded."""
    settings = service.settings

    def on_failure() -> None:
        server.should_exit = True

    app = create_app(service, on_failure)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=IdleTimeoutProtocol,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(settings.stop_seconds) + CANCEL_SECONDS,
        h11_max_incomplete_event_size=32_768,
        backlog=256,
    )
    server = Server(config, service, app.access)
    return server


def serve(service: Service, log_file: Path | None = None, open_page: bool = False) -> None:
    """Run until SIGTERM or Ctrl-C; running requests have ``stop_seconds`` to finish. SIGHUP reloads (`Server.reload`).

    Args:
        service: The models and albums.
        log_file: Where to log; by default, standard error.
        open_page: Whether to open the page in a browser.

    Raises:
        InvalidSetting: The address can't be bound, or the log can't be opened.
        BeholderError: A model can't be loaded.
    """
    keep_freed_memory()
    memory = keep_returning_unused_memory(MOST_UNUSED_BYTES, UNUSED_MEMORY_SECONDS)
    log = configure_logging(log_file)
    log_uncaught_exceptions()
    key_file = service.settings.key_file
    if key_file is not None and key_file.stat().st_mode & 0o077:
        LOGGER.warning("key_file_is_readable_by_other_users")
    # Warnings may quote request contents; where one matters, it is an error here.
    warnings.simplefilter("ignore", UserWarning)
    server = create_server(service)
    server.log = log
    server.open_page = open_page
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda *_: server.reload_soon())
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn re-raises them after shutting down
        signal.signal(number, lambda *_: None)
    with suppress(SystemExit):  # raised by uvicorn if it can't start
        server.run()
    memory.set()
    if service.failure is not None:
        raise service.failure
    if not server.started:
        host, port = service.settings.host, service.settings.port
        raise InvalidSetting(f"can't listen on {host}, port {port}: is it in use? --port selects another port")
    log_event("stopped")
