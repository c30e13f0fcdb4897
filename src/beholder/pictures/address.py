"""The only door to the network for pictures: fetches an address that a stranger may have written.

What it holds out against: names that lead into the local network, also by a redirect or by answering differently when
asked twice (the connection goes to the very address that was checked), bodies that are too large or never end, and
servers that send a byte now and then. Proxies are not used: behind one, nobody could tell where the address leads.
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

_MOST_REDIRECTS = 5
_CONNECT_SECONDS = 10.0  # for each address of a host, so that a dead one leaves time for the next
_CHUNK = 65_536
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")  # all that is given out so far; mapped IPv4 addresses lie outside
_TUNNELS = ipaddress.IPv6Network("2001::/32"), ipaddress.IPv6Network("2002::/16")  # Teredo, 6to4: IPv4 inside


def is_address(source: object) -> bool:
    """Whether a source is an address such as ``https://…``; two letters or more, so that ``C://`` is a path."""
    return isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def without_password(address: str) -> str:
    """The address as it may be shown: a user and password in it are replaced by ``***``."""
    return re.sub(r"^([^:/]+://)[^/?#]*@", r"\1***@", address)


def is_public(address: IPAddress) -> bool:
    """Whether an IP address belongs to the public internet and nothing else can hide behind it."""
    if address.version == 6 and (address not in _GLOBAL_IPV6 or any(address in tunnel for tunnel in _TUNNELS)):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def fetch(address: str, name: str, limits: Limits, is_permitted: Callable[[IPAddress], bool] = is_public) -> bytes:
    """Fetch the bytes at an http(s) address.

    Args:
        address: where to look; no user name or password.
        name: what errors call the picture.
        limits: how many bytes and seconds it may take, all redirects together.
        is_permitted: tells whether an IP address may be connected to. All those of a host must be.

    Raises:
        PictureRefused: not http or https, a password in it, or it leads to an address that is not permitted.
        PictureNotFound: the server says that nothing is there.
        PictureTooLarge: more bytes than the limit.
        PictureUnreadable: anything else that the network or the server did.
    """
    deadline = time.monotonic() + limits.seconds
    came_from: Url | None = None
    for _ in range(_MOST_REDIRECTS + 1):
        url = _checked_url(address, came_from, name)
        connection = _connect(url, name, deadline, is_permitted)
        # Timeouts of a socket begin anew with each byte; this one does not.
        watch = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [connection.sock])
        watch.daemon = True
        watch.start()
        try:
            answer = _ask(connection, url, name, limits)
        except (HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            _check_time(deadline, name)
            raise PictureUnreadable(name, "the server's answer broke off or makes no sense") from error
        finally:
            watch.cancel()
            connection.close()
        _check_time(deadline, name)  # a body without a stated length seems complete when it is cut
        if isinstance(answer, bytes):
            return answer
        address, came_from = answer, url
    raise PictureUnreadable(name, f"redirects more than {_MOST_REDIRECTS} times")


def _checked_url(address: str, came_from: Url | None, name: str) -> Url:
    try:
        url = parse_url(address if came_from is None else urljoin(came_from.url, address))
    except ValueError as error:  # LocationParseError is one, too
        raise PictureRefused(name, "leads to an address that can't be understood") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise PictureRefused(name, "only http and https addresses are fetched")
    if came_from is not None and came_from.scheme == "https" != url.scheme:
        raise PictureRefused(name, "redirects from https to http")
    if url.auth is not None:
        raise PictureRefused(name, "addresses with a user name or password are not fetched")
    return url


def _connect(url: Url, name: str, deadline: float, is_permitted: Callable[[IPAddress], bool]) -> HTTPConnection:
    """Look the host up once, check every address found, and connect to the first that answers."""
    host = (url.host or "").strip("[]")
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise PictureUnreadable(name, "its host can't be found") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not all(is_permitted(ipaddress.ip_address(address)) for address in addresses):
        raise PictureRefused(name, "leads to an address that is not on the public internet")
    failure: Exception | None = None
    for address in addresses:
        _check_time(deadline, name)
        timeout = min(_CONNECT_SECONDS, deadline - time.monotonic())
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
    _check_time(deadline, name)
    if isinstance(failure, ssl.SSLCertVerificationError):
        raise PictureUnreadable(name, "the server's certificate can't be verified") from failure
    raise PictureUnreadable(name, "its host can't be connected to") from failure


def _ask(connection: HTTPConnection, url: Url, name: str, limits: Limits) -> bytes | str:
    """Send the request; the body, or where it has moved to."""
    connection.timeout = limits.seconds
    headers = {"Host": url.netloc or "", "Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "beholder"}
    connection.request("GET", url.request_uri, headers=headers, preload_content=False, decode_content=False)
    with connection.getresponse() as response:
        if response.status in (301, 302, 303, 307, 308) and response.headers.get("Location"):
            return response.headers["Location"]
        if response.status in (404, 410):
            raise PictureNotFound(name, f"the server says that nothing is there ({response.status})")
        if response.status != 200:
            raise PictureUnreadable(name, f"the server answers {response.status} instead of a picture")
        limits.check_bytes(int(response.headers.get("Content-Length", 0)), name)
        body = bytearray()
        while chunk := response.read1(_CHUNK):
            body += chunk
            limits.check_bytes(len(body), name)
        return bytes(body)


def _cut(connected: socket.socket) -> None:
    """End whatever another thread waits for at this socket."""
    with suppress(OSError):  # closed meanwhile
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def _check_time(deadline: float, name: str) -> None:
    if time.monotonic() >= deadline:
        raise PictureUnreadable(name, "took longer than the limit (seconds)")
