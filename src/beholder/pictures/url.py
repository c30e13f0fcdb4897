"""Fetch pictures from untrusted URLs; the only module of the package that does.

Protects against server-side request forgery: host names that resolve to the local network, directly, after a redirect
or by DNS rebinding (the connection goes to the very address that was checked). Also against oversized or endless
bodies and servers that trickle bytes. Proxies are ignored: behind one, the final address could not be checked.
"""

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urljoin

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import Url, parse_url

from beholder.errors import PictureNotFound, PictureRefused, PictureUnreadable
from beholder.pictures.limits import Limits

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAX_REDIRECTS = 5
_CONNECT_TIMEOUT = 10.0  # for each address of a host, so that a dead one leaves time for the next
_CHUNK_SIZE = 65_536
_GLOBAL_UNICAST_IPV6 = ipaddress.IPv6Network("2000::/3")  # all that is allocated so far; excludes mapped IPv4
_TUNNELS = ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16")  # Teredo, 6to4: IPv4 inside


def is_url(source: object) -> bool:
    """Return whether a source is a URL such as ``https://…``. One-letter schemes are drive letters (``C://``)."""
    return isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def redact_url(address: str) -> str:
    """Return a URL with any user name and password replaced by ``***``, safe to log or print."""
    return re.sub(r"^([^:/]+://)[^/?#]*@", r"\1***@", address)


def is_public(address: IPAddress) -> bool:
    """Return whether an IP address is on the public internet and embeds no other address (as tunnels do)."""
    if address.version == 6 and (address not in _GLOBAL_UNICAST_IPV6 or any(address in tunnel for tunnel in _TUNNELS)):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def fetch(address: str, name: str, limits: Limits, is_permitted: Callable[[IPAddress], bool] = is_public) -> bytes:
    """Download the body of an http(s) URL.

    Args:
        address: The URL, without user name or password.
        name: The name of the picture in error messages.
        limits: Limits on bytes and time, all redirects included.
        is_permitted: Predicate on IP addresses; every address of a host must satisfy it.

    Raises:
        PictureRefused: The scheme is not http or https, the URL holds credentials, or it leads to a forbidden address.
        PictureNotFound: The server returned 404 or 410.
        PictureTooLarge: The body exceeds the limit.
        PictureUnreadable: Any other network or server failure.
    """
    deadline = time.monotonic() + limits.timeout
    referrer: Url | None = None
    for _ in range(_MAX_REDIRECTS + 1):
        url = _checked_url(address, referrer, name)
        connection = _connect(url, name, deadline, is_permitted)
        # A socket timeout restarts with every byte received; this timer does not.
        watch = threading.Timer(max(0.0, deadline - time.monotonic()), _shut_down, [connection.sock])
        watch.daemon = True
        watch.start()
        try:
            answer = _request(connection, url, name, limits)
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            _check_deadline(deadline, name)
            raise PictureUnreadable(name, "the server's response is incomplete or malformed") from error
        finally:
            watch.cancel()
            connection.close()
        _check_deadline(deadline, name)  # a truncated body without Content-Length looks complete
        if isinstance(answer, bytes):
            return answer
        address, referrer = answer, url
    raise PictureUnreadable(name, f"redirects more than {_MAX_REDIRECTS} times")


def _checked_url(address: str, referrer: Url | None, name: str) -> Url:
    try:
        url = parse_url(address if referrer is None else urljoin(referrer.url, address))
    except ValueError as error:  # LocationParseError is one, too
        raise PictureRefused(name, "the URL can't be parsed") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise PictureRefused(name, "only http and https URLs are fetched")
    if referrer is not None and referrer.scheme == "https" != url.scheme:
        raise PictureRefused(name, "redirects from https to http")
    if url.auth is not None:
        raise PictureRefused(name, "URLs with a user name or password are not fetched")
    return url


def _connect(url: Url, name: str, deadline: float, is_permitted: Callable[[IPAddress], bool]) -> HTTPConnection:
    """Resolve the host once, check every address, and connect to the first that accepts."""
    host = (url.host or "").strip("[]")
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PictureUnreadable(name, "its host can't be resolved") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not all(is_permitted(ipaddress.ip_address(address)) for address in addresses):
        raise PictureRefused(name, "leads to an address that is not on the public internet")
    failure: Exception | None = None
    for address in addresses:
        _check_deadline(deadline, name)
        timeout = min(_CONNECT_TIMEOUT, deadline - time.monotonic())
        connection = HTTPConnection(address, port, timeout=timeout)
        if url.scheme == "https":
            trust = ssl.create_default_context()
            connection = HTTPSConnection(address, port, timeout=timeout, ssl_context=trust, server_hostname=host)
        try:
            connection.connect()
            return connection
        except (HTTPError, OSError) as error:
            connection.close()
            failure = error
    _check_deadline(deadline, name)
    if isinstance(failure, ssl.SSLCertVerificationError):
        raise PictureUnreadable(name, "the server's certificate can't be verified") from failure
    raise PictureUnreadable(name, "its host can't be connected to") from failure


def _request(connection: HTTPConnection, url: Url, name: str, limits: Limits) -> bytes | str:
    """Send the request. Returns the body, or the redirect target as a str."""
    connection.timeout = limits.timeout
    headers = {"Host": url.netloc or "", "Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "beholder"}
    connection.request("GET", url.request_uri, headers=headers, preload_content=False, decode_content=False)
    with connection.getresponse() as response:
        if response.status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
            return response.headers["Location"]
        if response.status in (404, 410):
            raise PictureNotFound(name, f"the server returned {response.status}")
        if response.status != 200:
            raise PictureUnreadable(name, f"the server returned {response.status} instead of a picture")
        limits.check_bytes(int(response.headers.get("Content-Length", 0)), name)
        body = bytearray()
        while chunk := response.read1(_CHUNK_SIZE):
            body += chunk
            limits.check_bytes(len(body), name)
        return bytes(body)


def _shut_down(connected: socket.socket) -> None:
    """Shut a socket down, which wakes any thread blocked on it."""
    with suppress(OSError):  # already closed
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _check_deadline(deadline: float, name: str) -> None:
    if time.monotonic() >= deadline:
        raise PictureUnreadable(name, "took longer than the time limit (timeout)")
