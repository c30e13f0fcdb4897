"""What every request meets first: Host, Origin, key, room, and the size of its body, before any of it is read.

It is plain ASGI around the whole application, so that no route can be forgotten.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
import re
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from beholder.server.faults import Fault, busy, fault_of
from beholder.server.logs import LOGGER, log
from beholder.server.metrics import Metrics
from beholder.server.settings import ServerSettings

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", re.ASCII)
DRAINED = 64e6  # bytes of a refused body that are thrown away, so that a client which still sends hears the answer
DRAIN_SECONDS = 2.0
HEADERS = (
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


class Left(Exception):
    """The client closed the connection."""


class Guard:
    """Wraps an application.

    Args:
        app: what is guarded.
        settings: the server's.
        metrics: where requests are counted.
    """

    def __init__(self, app: App, settings: ServerSettings, metrics: Metrics):
        self.app = app
        self.settings = settings
        self.metrics = metrics
        self.under_way = 0
        self.held = 0  # bytes of the bodies that are being worked on
        self.lasted = 1.0  # seconds of a request, lately
        self.hosts = {"localhost", *(name.lower() for name in settings.allowed_hosts)}
        if not settings.loopback:
            self.hosts |= {socket.gethostname().lower(), settings.host.lower()}
        metrics.gauge("beholder_requests_under_way", "Requests that are worked on or wait.", lambda: self.under_way)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = time.perf_counter()
        number = uuid.uuid4().hex
        status = 0
        ended = False

        async def answer(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"server"]
                message["headers"] = [*headers, *HEADERS, (b"x-request-id", number.encode())]
            elif not message.get("more_body"):
                ended = True
            await send(message)

        works = scope["path"].startswith("/v1/")  # a busy server still says that it is well
        self.under_way += works
        left = False
        reserved: list[int] = []
        body: bytes | None = None
        try:
            async with asyncio.timeout(self.settings.seconds):
                headers = self._checked(scope)
                if works and self.under_way > self.settings.requests:
                    raise busy(self._later())
                body = await self._body(headers, receive, reserved)
                await self._unless_left(scope, body, receive, answer)
        except Left:
            left = True
            self.metrics.left.inc()
        except Exception as error:
            fault = fault_of(error)
            if fault.status == 500:
                LOGGER.error("failed", exc_info=error, extra={"fields": {"id": number}})
            if status == 0:
                with suppress(OSError):
                    await self._refuse(fault, receive if body is None else None, answer)
            elif not ended:
                raise  # the answer had begun: the connection is cut, so that nobody takes it for whole
        finally:
            self.under_way -= works
            self.held -= sum(reserved)
            seconds = time.perf_counter() - start
            if works:
                self.lasted += 0.1 * (seconds - self.lasted)
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(_known_method(scope["method"]), route, "left" if left else str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            if route not in ("/healthz", "/readyz", "/metrics"):
                log(
                    "request",
                    id=number,
                    method=_known_method(scope["method"]),
                    route=route,
                    status=status,
                    left=left,
                    seconds=round(seconds, 4),
                    bytes=sum(reserved),
                )

    def _checked(self, scope: Scope) -> dict[bytes, bytes]:
        """The headers, if the request may be read on.

        Raises:
            Fault: it may not.
        """
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"origin", b"authorization", b"content-type", b"content-length"):
                raise Fault(400, f"the header {name.decode('latin-1')} comes twice", code="bad_header")
            headers[name] = value
        self._check_host(headers)
        self._check_origin(scope, headers)
        self._check_key(headers)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Fault(415, "compressed bodies are not read", code="compressed")
        return headers

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        host = HOST.fullmatch(headers.get(b"host", b"").decode("latin-1"))
        if host is None:
            raise Fault(400, "the Host header is missing or makes no sense", code="bad_host")
        name = host[1].lower().rstrip(".")
        if name in self.hosts:
            return
        try:  # a bare address can't be made to lead elsewhere, as a name can
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            address = None
        if address is None or (self.settings.loopback and not address.is_loopback):
            raise Fault(421, "this server does not go by this name; --allow-host NAME lets it", code="wrong_host")

    def _check_origin(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """No page from elsewhere may make its visitor's browser talk to this server."""
        origin = headers.get(b"origin")
        own = (b"http://" + headers[b"host"], b"https://" + headers[b"host"])
        if origin is not None and origin.lower() not in (each.lower() for each in own):
            raise Fault(403, "requests from other pages are refused", code="foreign_origin")
        site = headers.get(b"sec-fetch-site", b"none")
        followed = headers.get(b"sec-fetch-mode") == b"navigate" and scope["method"] == "GET" and scope["path"] == "/"
        if site not in (b"none", b"same-origin") and not followed:
            raise Fault(403, "requests from other pages are refused", code="foreign_origin")

    def _check_key(self, headers: dict[bytes, bytes]) -> None:
        if self.settings.key is None:
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        key = given.strip()
        if kind.lower() == b"basic":  # how a browser asks a person for it
            try:
                key = base64.b64decode(given, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                key = b""
        elif kind.lower() != b"bearer":
            key = b""
        if not hmac.compare_digest(key, self.settings.key.encode()):
            raise Fault(
                401,
                "a key is needed: Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": 'Basic realm="Beholder", charset="UTF-8"'},
            )

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, reserved: list[int]) -> bytes:
        """The whole body. Its length is held against the limits before it is read, or as it comes."""
        most = int(self.settings.body_megabytes * 1e6)
        told = headers.get(b"content-length", b"0")
        if not told.isdigit():
            raise Fault(400, "the Content-Length header makes no sense", code="bad_header")
        self._reserve(int(told), most, reserved)
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Left
                    body += message.get("body", b"")
                    self._reserve(len(body), most, reserved)
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise Fault(408, "the body took too long to arrive", code="slow_body") from None

    def _reserve(self, size: int, most: int, reserved: list[int]) -> None:
        if size > most:
            raise Fault(413, f"the body is larger than {self.settings.body_megabytes:g} MB", code="body_too_large")
        more = size - sum(reserved)
        if more <= 0:
            return
        if self.held + more > self.settings.waiting_megabytes * 1e6:
            raise busy(self._later())
        reserved.append(more)
        self.held += more

    async def _unless_left(self, scope: Scope, body: bytes, receive: Receive, answer: Send) -> None:
        """Has the application answer, and stops it when the client leaves."""
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        gone = asyncio.Event()

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        work = asyncio.ensure_future(self.app(scope, replay, answer))
        watching = asyncio.ensure_future(watch())
        try:
            await asyncio.wait({work, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise Left
            work.result()
        finally:
            gone.set()
            for task in (work, watching):
                task.cancel()
            await asyncio.gather(work, watching, return_exceptions=True)

    async def _refuse(self, fault: Fault, receive: Receive | None, answer: Send) -> None:
        """Says why not. What the client still sends is thrown away for a moment: cut off at once, it hears nothing."""
        body = json.dumps(fault.body).encode()
        headers = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            **fault.headers,
        }
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await answer({"type": "http.response.start", "status": fault.status, "headers": raw})
        await answer({"type": "http.response.body", "body": body, "more_body": True})
        thrown = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while receive is not None and thrown < DRAINED:
                    message = await receive()
                    thrown += len(message.get("body", b""))
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        break
        await answer({"type": "http.response.body", "body": b"", "more_body": False})

    def _later(self) -> int:
        """Seconds after which there may be room."""
        return max(1, min(60, round(self.lasted)))


def _known_method(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
