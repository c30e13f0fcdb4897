"""Who may send requests: Host, Origin and API key, checked before the rest of a request is read."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
from collections.abc import Mapping, MutableMapping
from typing import Any

from beholder.server.http_errors import HTTPError
from beholder.server.keys import KeyRing
from beholder.server.settings import ServerSettings

Scope = MutableMapping[str, Any]
Headers = Mapping[bytes, bytes]

HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?", re.ASCII)
SINGLE_HEADERS = (b"host", b"origin", b"authorization", b"content-type", b"content-length")


class AccessPolicy:
    """The checks of one server.

    Args:
        settings: The server's settings.
    """

    def __init__(self, settings: ServerSettings):
        self.settings = settings
        self.keys = KeyRing(settings.read_keys())
        self.hosts = {"localhost", *(name.lower() for name in settings.allowed_hosts)}
        if not settings.loopback:
            self.hosts |= {socket.gethostname().lower(), settings.host.lower()}

    def check(self, scope: Scope) -> dict[bytes, bytes]:
        """Return the headers of an admissible request; ``scope["key_name"]`` is the name of its key.

        Raises:
            HTTPError: The request is refused.
        """
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in SINGLE_HEADERS:
                raise HTTPError(400, f"duplicate header {name.decode('latin-1')}", code="bad_header")
            headers[name] = value
        if b"content-length" in headers and b"transfer-encoding" in headers:  # request smuggling (RFC 9112, 6.1)
            raise HTTPError(
                400,
                "a request has either Content-Length or Transfer-Encoding",
                code="bad_header",
                headers={"Connection": "close"},
            )
        self._check_host(headers)
        self._check_origin(scope, headers)
        scope["key_name"] = self.keys.check(presented_key(headers), scope["path"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise HTTPError(415, "compressed request bodies are not supported", code="compressed")
        return headers

    def _check_host(self, headers: Headers) -> None:
        host = HOST.fullmatch(headers.get(b"host", b"").decode("latin-1"))
        if host is None:
            raise HTTPError(400, "the Host header is missing or invalid", code="bad_host")
        name = host[1].lower().rstrip(".")
        if name in self.hosts:
            return
        try:  # unlike a name, an IP address can't be made to resolve to this machine (DNS rebinding)
            address = ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            address = None
        if address is None or (self.settings.loopback and not address.is_loopback):
            raise HTTPError(
                421, "this server does not answer to this host name; --allow-host NAME adds it", code="wrong_host"
            )

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse requests that a page of another origin makes its visitor's browser send."""
        origin = headers.get(b"origin")
        own = (b"http://" + headers[b"host"], b"https://" + headers[b"host"])
        if origin is not None and origin.lower() not in (each.lower() for each in own):
            raise HTTPError(403, "cross-origin requests are refused", code="foreign_origin")
        site = headers.get(b"sec-fetch-site", b"none")
        is_link = headers.get(b"sec-fetch-mode") == b"navigate" and scope["method"] == "GET" and scope["path"] == "/"
        if site not in (b"none", b"same-origin") and not is_link:
            raise HTTPError(403, "cross-origin requests are refused", code="foreign_origin")


def presented_key(headers: Headers) -> bytes:
    """Return the key of a Bearer or Basic ``Authorization`` header; empty if there is none."""
    scheme, _, credentials = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return credentials.strip()
    if scheme.lower() == b"basic":  # sent by browsers, which ask for a password
        try:
            return base64.b64decode(credentials, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""
