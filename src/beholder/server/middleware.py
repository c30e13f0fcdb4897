"""Every request passes through here first: access, admission, the size of its body, its deadline, its log line.

This is plain ASGI around the whole application, so that no route can be left out.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from beholder.server.access import AccessPolicy, presented_key
from beholder.server.body_limits import check_json_structure
from beholder.server.clients import current_client
from beholder.server.http_errors import HTTPError, to_http_error, too_many_requests
from beholder.server.keys import WrongKeys
from beholder.server.logs import LOGGER, log_event
from beholder.server.metrics import Metrics
from beholder.server.settings import ServerSettings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_DISCARDED_BYTES = 64e6  # of a refused body, read so that a client that is still sending receives the response
DISCARD_SECONDS = 2.0
LARGE_BODY = 65_536  # bytes; larger bodies are checked in a thread before they are parsed
SECURITY_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        b"trusted-types 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


def client_address(scope: Scope) -> str:
    """Return the client's IP address; never another text, which a forwarding header may contain."""
    try:
        return str(ipaddress.ip_address(scope["client"][0]))
    except (KeyError, TypeError, ValueError):
        return "unknown"


class ClientDisconnected(Exception):
    """The client closed the connection."""


class RequestMiddleware:
    """Wraps an ASGI application.

    Args:
        app: The application.
        settings: The server's settings.
        metrics: Where requests are counted.
        routes: A pattern of the path of each route, and the route.
    """

    def __init__(
        self, app: App, settings: ServerSettings, metrics: Metrics, routes: Sequence[tuple[re.Pattern[str], str]] = ()
    ):
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.routes = routes
        self.access = AccessPolicy(settings)
        self.active_requests = 0
        self.reserved_bytes = 0  # of the bodies of active requests
        self.average_seconds = 1.0  # exponential moving average over requests
        self.wrong_keys = WrongKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection scope."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        request_id = uuid.uuid4().hex
        status = 0
        complete = False

        async def respond(message: Message) -> None:
            nonlocal status, complete
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"server"]
                message["headers"] = [*headers, *SECURITY_HEADERS, (b"x-request-id", request_id.encode())]
            elif not message.get("more_body"):
                complete = True
            await send(message)

        client = client_address(scope)
        current_client.set(client)
        scope["request_id"] = request_id
        requested_route = self._route(scope)
        under_way = self.metrics.requests_under_way.labels(requested_route)
        under_way.inc()
        code: str | None = None
        wrong_keys = 0
        counted = scope["path"].startswith("/v1/")  # health checks and metrics stay available under load
        self.active_requests += counted
        disconnected = False
        reserved: list[int] = []
        body: bytes | None = None
        try:
            async with asyncio.timeout(self.settings.seconds):
                self.wrong_keys.check(client)
                try:
                    headers = self.access.check(scope)
                except HTTPError as error:
                    if error.code == "invalid_api_key" and presented_key(dict(scope["headers"])):
                        self.metrics.wrong_keys.inc()
                        wrong_keys = await self.wrong_keys.count(client)
                    raise
                if counted and self.active_requests > self.settings.requests:
                    raise too_many_requests(self._retry_after())
                body = await self._read_body(headers, receive, reserved)
                if len(body) > LARGE_BODY and not headers.get(b"content-type", b"").startswith(b"multipart/"):
                    await asyncio.to_thread(check_json_structure, body)
                await self._run_app(scope, body, receive, respond)
        except ClientDisconnected:
            disconnected = True
            self.metrics.disconnects.inc()
        except Exception as error:
            http_error = to_http_error(error)
            code = http_error.code
            if http_error.status == 500:
                LOGGER.error("failed", exc_info=error, extra={"fields": {"id": request_id}})
            if status == 0:
                with suppress(OSError):
                    await self._refuse(http_error, receive if body is None else None, respond)
            elif not complete:
                raise  # the response has started: closing the connection shows that it is incomplete
        finally:
            self.active_requests -= counted
            self.reserved_bytes -= sum(reserved)
            seconds = time.perf_counter() - start
            if counted:
                self.average_seconds += 0.1 * (seconds - self.average_seconds)
            under_way.dec()
            route = getattr(scope.get("route"), "path", None) or requested_route
            code = scope.get("error_code", code)
            if code is not None:
                self.metrics.refusals.labels(route, code).inc()
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(method, route, "left" if disconnected else str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if route not in ("/healthz", "/readyz", "/metrics"):
                log_event(
                    "request",
                    id=request_id,
                    method=method,
                    route=route,
                    client=client,
                    **({"key": scope["key_name"]} if scope.get("key_name") else {}),
                    **({"wrong_keys": wrong_keys} if wrong_keys else {}),
                    **({"code": code or "none"} if status >= 400 else {}),
                    status=status,
                    left=disconnected,
                    seconds=round(seconds, 4),
                    bytes=sum(reserved),
                )

    async def _read_body(self, headers: dict[bytes, bytes], receive: Receive, reserved: list[int]) -> bytes:
        """Return the whole body. Its size is checked against the limits before it is read, and while it arrives."""
        max_bytes = int(self.settings.body_megabytes * 1e6)
        content_length = headers.get(b"content-length", b"0")
        if not content_length.isdigit():
            raise HTTPError(400, "the Content-Length header is invalid", code="bad_header")
        self._reserve(int(content_length), max_bytes, reserved)
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnected
                    body += message.get("body", b"")
                    self._reserve(len(body), max_bytes, reserved)
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise HTTPError(408, "the body took too long to arrive", code="slow_body") from None

    def _reserve(self, size: int, max_bytes: int, reserved: list[int]) -> None:
        if size > max_bytes:
            raise HTTPError(413, f"the body is larger than {self.settings.body_megabytes:g} MB", code="body_too_large")
        additional = size - sum(reserved)
        if additional <= 0:
            return
        if self.reserved_bytes + additional > self.settings.waiting_megabytes * 1e6:
            raise too_many_requests(self._retry_after())
        reserved.append(additional)
        self.reserved_bytes += additional

    async def _run_app(self, scope: Scope, body: bytes, receive: Receive, respond: Send) -> None:
        """Run the application, and cancel it when the client disconnects."""
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        disconnect = asyncio.Event()

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await disconnect.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        work = asyncio.ensure_future(self.app(scope, replay, respond))
        watching = asyncio.ensure_future(watch())
        try:
            await asyncio.wait({work, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise ClientDisconnected
            work.result()
        finally:
            disconnect.set()
            for task in (work, watching):
                task.cancel()
            await asyncio.gather(work, watching, return_exceptions=True)

    async def _refuse(self, error: HTTPError, receive: Receive | None, respond: Send) -> None:
        """Send an error response, and read on for a moment: a client cut off while sending never reads the response."""
        body = json.dumps(error.body).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            **error.headers,
        }
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await respond({"type": "http.response.start", "status": error.status, "headers": raw})
        await respond({"type": "http.response.body", "body": body, "more_body": True})
        discarded = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while receive is not None and discarded < MAX_DISCARDED_BYTES:
                    message = await receive()
                    discarded += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        break
        await respond({"type": "http.response.body", "body": b"", "more_body": False})

    def _route(self, scope: Scope) -> str:
        """Return the route of a request that was refused before routing; never the path itself."""
        return next((path for pattern, path in self.routes if pattern.match(scope["path"])), "unknown")

    def _retry_after(self) -> int:
        """Return the seconds after which a slot is likely to be free."""
        return max(1, min(60, round(self.average_seconds)))
