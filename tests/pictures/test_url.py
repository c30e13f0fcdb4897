"""fetch against a real server on this machine, and is_public against the ranges that it must reject.

The certificate beside this file is a self-signed test certificate for pictures.example.
"""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from awkward import encoded, quadrants, shows

from beholder.errors import PictureError, PictureNotFound, PictureRefused, PictureTooLarge, PictureUnreadable
from beholder.pictures import url
from beholder.pictures.limits import Limits
from beholder.pictures.read import read_picture
from beholder.pictures.url import fetch, is_public, is_url, redact_url

PICTURE = encoded(quadrants(), "PNG")
CERTIFICATE = Path(__file__).parent / "certificate_for_pictures.example.pem"
LIMITS = Limits(megabytes=0.1, timeout=60)


def _is_loopback(ip: url.IPAddress) -> bool:
    return ip.is_loopback


class _Pictures(BaseHTTPRequestHandler):
    """Each path misbehaves in its own way."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        name = self.path.split("?")[0].strip("/")
        if name.startswith("status-"):
            self._head(int(name[7:]), {"Content-Length": "0"})
        elif name.startswith("to-"):
            self._head(302, {"Content-Length": "0", "Location": self.server.targets[name]})
        else:
            getattr(self, "_" + name.replace("-", "_"))()

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()

    def _good(self) -> None:
        self._head(200, {"Content-Length": str(len(PICTURE))})
        self.wfile.write(PICTURE)

    def _chunked(self) -> None:
        self._head(200, {"Transfer-Encoding": "chunked"})
        for start in range(0, len(PICTURE), 50):
            part = PICTURE[start : start + 50]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def _without_length(self) -> None:
        self.close_connection = True
        self._head(200, {"Connection": "close"})
        self.wfile.write(PICTURE)

    def _says_large(self) -> None:
        self._head(200, {"Content-Length": "99000000"})
        self.close_connection = True

    def _endless(self) -> None:
        self.close_connection = True
        self._head(200, {"Connection": "close"})
        while True:
            self.wfile.write(bytes(10_000))

    def _ends_early(self) -> None:
        self.close_connection = True
        self._head(200, {"Content-Length": str(len(PICTURE))})
        self.wfile.write(PICTURE[:50])

    def _drip(self) -> None:
        self._head(200, {"Content-Length": "90000"})
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)

    def _drip_without_length(self) -> None:
        self._head(200, {"Connection": "close"})
        while True:
            self.wfile.write(b"x")
            time.sleep(0.05)

    def _drip_chunk_sizes(self) -> None:
        self._head(200, {"Transfer-Encoding": "chunked"})
        while True:
            self.wfile.write(b"0")
            time.sleep(0.05)

    def _drip_headers(self) -> None:
        while True:
            self.wfile.write(b"H")
            time.sleep(0.05)

    def _silent(self) -> None:
        time.sleep(5)

    def _nonsense(self) -> None:
        self.close_connection = True
        self.wfile.write(b"what?\r\n\r\n")

    def _packed(self) -> None:
        self._head(200, {"Content-Encoding": "gzip", "Content-Length": "4"})
        self.wfile.write(b"\x1f\x8b\x08\x00")

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    requests: list[tuple[str, dict[str, str]]]
    targets: dict[str, str]

    def handle_error(self, *_: object) -> None:
        pass  # disconnecting clients are expected here


def _serve(tls: bool = False) -> tuple[_Server, str]:
    server = _Server(("127.0.0.1", 0), _Pictures)
    server.requests, server.targets = [], {}
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server, f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"


@pytest.fixture(name="server")
def _server() -> Iterator[tuple[_Server, str]]:
    server, base = _serve()
    yield server, base
    server.shutdown()
    server.server_close()


@pytest.fixture(name="secure_server")
def _secure_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    server, _ = _serve(tls=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    yield server
    server.shutdown()
    server.server_close()


def _answer_lookups(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Resolve host names to the first answer, then to the next, and so on; return the list of resolved names."""
    resolved: list[str] = []
    look_up = socket.getaddrinfo

    def answer(host: str, port: int, *arguments: object, **options: object) -> list:
        if host.replace(".", "").isdigit() or ":" in host:
            return look_up(host, port, *arguments, **options)
        resolved.append(host)
        addresses = answers[min(len(resolved), len(answers)) - 1]
        return [entry for found in addresses for entry in look_up(found, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return resolved


@pytest.mark.parametrize("path", ["good", "chunked", "without-length", "good?size=large&x=%20", "good#part"])
def test_a_picture_is_fetched(server: tuple[_Server, str], path: str):
    assert fetch(f"{server[1]}/{path}", "p", LIMITS, _is_loopback) == PICTURE


def test_a_fetched_picture_is_read_like_any_other(server: tuple[_Server, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetch, "__defaults__", (_is_loopback,))
    shows()(read_picture(f"{server[1]}/good", allow_urls=True))


def test_the_local_host_is_unreachable_by_default(server: tuple[_Server, str]):
    with pytest.raises(PictureRefused, match="not on the public internet"):
        read_picture(f"{server[1]}/good", allow_urls=True)
    assert server[0].requests == []


def test_a_url_is_not_fetched_unless_allowed(server: tuple[_Server, str]):
    with pytest.raises(PictureRefused, match="allow_urls"):
        read_picture(f"{server[1]}/good")
    assert server[0].requests == []


def test_the_request_contains_the_host_name_and_nothing_about_the_user(server: tuple[_Server, str]):
    fetch(f"{server[1]}/good?a=1", "p", LIMITS, _is_loopback)
    path, headers = server[0].requests[0]
    assert path == "/good?a=1"
    assert headers == {
        "Host": server[1].removeprefix("http://"),
        "Accept": "image/*",
        "Accept-Encoding": "identity",
        "User-Agent": "beholder",
    }


@pytest.mark.parametrize(
    ("path", "error", "says"),
    [
        ("status-404", PictureNotFound, "404"),
        ("status-410", PictureNotFound, "410"),
        ("status-500", PictureUnreadable, "500"),
        ("status-403", PictureUnreadable, "403"),
        ("status-204", PictureUnreadable, "204"),
        ("status-302", PictureUnreadable, "302"),  # without a Location header
        ("says-large", PictureTooLarge, "0.1 MB"),
        ("endless", PictureTooLarge, "0.1 MB"),
        ("ends-early", PictureUnreadable, "incomplete or malformed"),
        ("nonsense", PictureUnreadable, "incomplete or malformed"),
    ],
)
def test_each_bad_response_raises_a_specific_error(
    server: tuple[_Server, str], path: str, error: type[PictureError], says: str
):
    with pytest.raises(error, match=f"^p: .*{says}"):
        fetch(f"{server[1]}/{path}", "p", LIMITS, _is_loopback)


def test_a_compressed_body_is_not_decompressed(server: tuple[_Server, str]):
    assert fetch(f"{server[1]}/packed", "p", LIMITS, _is_loopback) == b"\x1f\x8b\x08\x00"


@pytest.mark.parametrize("path", ["drip", "drip-without-length", "drip-chunk-sizes", "drip-headers", "silent"])
def test_a_slow_server_is_abandoned_at_the_time_limit(server: tuple[_Server, str], path: str):
    with pytest.raises(PictureUnreadable, match="took longer than the time limit"):
        fetch(f"{server[1]}/{path}", "p", Limits(timeout=0.4), _is_loopback)


def test_the_time_limit_covers_all_redirects(server: tuple[_Server, str]):
    server[0].targets["to-drip"] = "/drip"
    with pytest.raises(PictureUnreadable, match="took longer"):
        fetch(f"{server[1]}/to-drip", "p", Limits(timeout=0.4), _is_loopback)


def test_a_redirect_is_followed(server: tuple[_Server, str]):
    server[0].targets.update({"to-1": "/to-2?x=1", "to-2": f"{server[1]}/good"})
    assert fetch(f"{server[1]}/to-1", "p", LIMITS, _is_loopback) == PICTURE


def test_a_redirect_loop_ends(server: tuple[_Server, str]):
    server[0].targets["to-itself"] = "/to-itself"
    with pytest.raises(PictureUnreadable, match="more than 5 times"):
        fetch(f"{server[1]}/to-itself", "p", LIMITS, _is_loopback)
    assert len(server[0].requests) == 6


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("http://10.0.0.1/picture", "public internet"),
        ("http://169.254.169.254/latest/meta-data", "public internet"),
        ("http://[::ffff:10.0.0.1]/picture", "public internet"),
        ("//192.168.1.1/picture", "public internet"),
        ("file:///etc/hostname", "only http and https"),
        ("gopher://127.0.0.1/", "only http and https"),
        ("http://ann:secret@127.0.0.1/", "password"),
        ("http://[bad/", "can't be parsed"),
    ],
)
def test_a_redirect_is_checked_like_the_first_url(server: tuple[_Server, str], target: str, says: str):
    server[0].targets["to-there"] = target
    with pytest.raises(PictureRefused, match=f"^p: .*{says}"):
        fetch(f"{server[1]}/to-there", "p", LIMITS, _is_loopback)


@pytest.mark.parametrize(
    "source",
    [
        "ftp://example.org/p.jpg",
        "file:///etc/hostname",
        "data://text/plain",
        "http://",
        "http:///p.jpg",
        "http://ann@example.org/p.jpg",
        "http://ann:secret@example.org/p.jpg",
        "http://exa mple.org/p.jpg",
        "http://example.org:99999/p.jpg",
        "http://[::1/p.jpg",
    ],
)
def test_a_url_with_another_scheme_is_refused_before_name_resolution(source: str, monkeypatch: pytest.MonkeyPatch):
    resolved = _answer_lookups(monkeypatch, ["127.0.0.1"])
    with pytest.raises(PictureRefused) as caught:
        read_picture(source, allow_urls=True)
    assert resolved == []
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.1", "0x7f000001", "2130706433", "0", "[::1]", "127.0.0.1."])
def test_every_spelling_of_the_local_host_is_refused(host: str):
    with pytest.raises(PictureError) as caught:
        fetch(f"http://{host}/", "p", LIMITS)
    assert type(caught.value) in (PictureRefused, PictureUnreadable)  # unreadable where the name cannot be resolved
    if host in ("localhost", "127.1", "[::1]"):
        assert type(caught.value) is PictureRefused


def test_a_host_with_any_private_address_is_refused(monkeypatch: pytest.MonkeyPatch):
    _answer_lookups(monkeypatch, ["93.184.215.14", "10.0.0.1"])
    with pytest.raises(PictureRefused, match="public internet"):
        fetch("http://pictures.example/", "p", LIMITS)


def test_a_host_is_resolved_only_once(server: tuple[_Server, str], monkeypatch: pytest.MonkeyPatch):
    resolved = _answer_lookups(monkeypatch, ["127.0.0.1"], ["10.0.0.1"])
    port = server[0].server_port
    assert fetch(f"http://pictures.example:{port}/good", "p", LIMITS, _is_loopback) == PICTURE
    assert resolved == ["pictures.example"]
    assert server[0].requests[0][1]["Host"] == f"pictures.example:{port}"


def test_the_next_address_of_a_host_is_tried_if_one_is_unreachable(
    server: tuple[_Server, str], monkeypatch: pytest.MonkeyPatch
):
    _answer_lookups(monkeypatch, ["127.0.0.9", "127.0.0.1"])  # nobody listens at the first
    assert fetch(f"http://pictures.example:{server[0].server_port}/good", "p", LIMITS, _is_loopback) == PICTURE


def test_an_unknown_host_and_a_closed_port_are_unreadable(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> list:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(PictureUnreadable, match="can't be connected to"):
            fetch(f"http://127.0.0.1:{unused.getsockname()[1]}/", "p", LIMITS, _is_loopback)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(PictureUnreadable, match="can't be resolved"):
        fetch("http://pictures.example/", "p", LIMITS)


def test_a_certificate_is_checked_against_the_host_name_and_not_the_ip(
    secure_server: _Server, monkeypatch: pytest.MonkeyPatch
):
    _answer_lookups(monkeypatch, ["127.0.0.1"])
    port = secure_server.server_port
    assert fetch(f"https://pictures.example:{port}/good", "p", LIMITS, _is_loopback) == PICTURE
    for other in ("elsewhere.example", "127.0.0.1"):
        with pytest.raises(PictureUnreadable, match="certificate can't be verified"):
            fetch(f"https://{other}:{port}/good", "p", LIMITS, _is_loopback)


def test_an_untrusted_certificate_is_rejected(secure_server: _Server, monkeypatch: pytest.MonkeyPatch):
    _answer_lookups(monkeypatch, ["127.0.0.1"])
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(PictureUnreadable, match="certificate can't be verified"):
        fetch(f"https://pictures.example:{secure_server.server_port}/good", "p", LIMITS, _is_loopback)


def test_https_does_not_redirect_to_http(secure_server: _Server, monkeypatch: pytest.MonkeyPatch):
    _answer_lookups(monkeypatch, ["127.0.0.1"])
    base = f"https://pictures.example:{secure_server.server_port}"
    secure_server.targets.update({"to-plain": "http://pictures.example/good", "to-good": "/good"})
    with pytest.raises(PictureRefused, match="from https"):
        fetch(f"{base}/to-plain", "p", LIMITS, _is_loopback)
    assert fetch(f"{base}/to-good", "p", LIMITS, _is_loopback) == PICTURE


def test_slow_tls_is_abandoned_at_the_time_limit(secure_server: _Server, monkeypatch: pytest.MonkeyPatch):
    _answer_lookups(monkeypatch, ["127.0.0.1"])
    with pytest.raises(PictureUnreadable, match="took longer"):
        fetch(f"https://pictures.example:{secure_server.server_port}/drip", "p", Limits(timeout=0.6), _is_loopback)


def test_a_missing_tls_handshake_is_abandoned_at_the_time_limit():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(PictureUnreadable, match="took longer"):
            fetch(f"https://127.0.0.1:{mute.getsockname()[1]}/", "p", Limits(timeout=0.4), _is_loopback)


@pytest.mark.parametrize("ip", ["93.184.215.14", "8.8.8.8", "2606:4700:4700::1111"])
def test_an_address_of_the_public_internet_is_public(ip: str):
    assert is_public(ipaddress.ip_address(ip))


@pytest.mark.parametrize(
    "ip",
    [
        *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.255.0.1", "169.254.169.254", "172.16.0.1"),
        *("192.168.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "239.1.1.1"),
        *("240.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:8.8.8.8", "::ffff:127.0.0.1"),
        *("64:ff9b::7f00:1", "2001::1", "2002:7f00:1::", "fc00::1", "fd12::1", "fe80::1", "fe80::1%1"),
        *("fec0::1", "ff02::1", "2001:db8::1"),
    ],
)
def test_a_local_reserved_or_embedding_address_is_not_public(ip: str):
    assert not is_public(ipaddress.ip_address(ip))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://example.org/p.jpg", True),
        ("HTTP://example.org", True),
        ("file:///p.jpg", True),
        ("photos/p.jpg", False),
        ("C://photos/p.jpg", False),
        ("/a://b", False),
        (b"http://", False),
        (None, False),
    ],
)
def test_urls_are_distinguished_from_paths(source: object, expected: bool):
    assert is_url(source) is expected


def test_credentials_in_a_url_are_redacted():
    assert redact_url("https://ann:secret@example.org/a@b") == "https://***@example.org/a@b"
    assert redact_url("https://example.org/a@b?c=d@e") == "https://example.org/a@b?c=d@e"
