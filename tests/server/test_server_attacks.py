"""A table of attacks: each is refused with the right status and an OpenAI-style error, and nothing breaks."""

import base64
import gzip
import json
import logging
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sized
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import albums_to_serve
import pytest

import serving
from beholder import Album, DualEncoder, VisionLanguageModel
from beholder.server.logs import JsonFormatter
from serving import Running, data_address, file_of, picture

KEY = "correct-horse-battery"
BODY = 2.0  # megabytes


@pytest.fixture(scope="module")
def album(encoder: DualEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return albums_to_serve.photographs(tmp_path_factory.mktemp("secret"), encoder, 8)


@pytest.fixture(scope="module")
def plain(encoder: DualEncoder, vision_language_model: VisionLanguageModel, album: Path) -> Iterator[Running]:
    with serving.running({"tiny": encoder}, {"tiny": vision_language_model}, [album], body_megabytes=BODY) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(encoder: DualEncoder, vision_language_model: VisionLanguageModel, album: Path) -> Iterator[Running]:
    with serving.running({"tiny": encoder}, {"tiny": vision_language_model}, [album], key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def fetching(encoder: DualEncoder, vision_language_model: VisionLanguageModel) -> Iterator[Running]:
    with serving.running({"tiny": encoder}, {"tiny": vision_language_model}, allow_urls=True) as running:
        yield running


def still_healthy(running: Running, **headers: str) -> bool:
    return running.ask("GET", "/readyz", headers=headers).status == 200


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header claims this size but which has no pixel data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rest = b"".join(chunk(*each) for each in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + rest + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


ALBUM = "/v1/albums/holiday"
# Host names that are not the server's, and foreign origins.
HEADERS: list[tuple[str, str, str, dict[str, str], int]] = [
    ("foreign host name", "GET", "/v1/models", {"Host": "evil.example"}, 421),
    ("host name with our name as prefix", "GET", "/v1/models", {"Host": "localhost.evil.example"}, 421),
    ("host name with our address as prefix", "GET", "/v1/models", {"Host": "127.0.0.1.evil.example"}, 421),
    ("public IP as host", "GET", "/v1/models", {"Host": "8.8.8.8"}, 421),
    ("mapped public IP as host", "GET", "/v1/models", {"Host": "[::ffff:8.8.8.8]"}, 421),
    ("hexadecimal IP as host", "GET", "/v1/models", {"Host": "0x7f.1"}, 421),
    ("empty host", "GET", "/v1/models", {"Host": ""}, 400),
    ("host with a path", "GET", "/v1/models", {"Host": "localhost/v1"}, 400),
    ("host with a user", "GET", "/v1/models", {"Host": "user@localhost"}, 400),
    ("host with a query", "GET", "/v1/models", {"Host": "localhost?x"}, 400),
    ("invalid port", "GET", "/v1/models", {"Host": "localhost:port"}, 400),
    ("cross-origin GET", "GET", "/v1/models", {"Origin": "http://evil.example"}, 403),
    ("cross-origin POST", "POST", "/v1/caption", {"Origin": "http://evil.example"}, 403),
    ("null origin", "POST", "/v1/caption", {"Origin": "null"}, 403),
    ("origin on another port", "POST", "/v1/caption", {"Origin": "http://127.0.0.1:1"}, 403),
    ("origin with ours as prefix", "POST", "/v1/caption", {"Origin": "http://127.0.0.1.evil.example"}, 403),
    ("origin with a user", "POST", "/v1/caption", {"Origin": "http://127.0.0.1@evil.example"}, 403),
    ("browser extension", "POST", "/v1/caption", {"Origin": "chrome-extension://abc"}, 403),
    ("empty origin", "POST", "/v1/caption", {"Origin": ""}, 403),
    ("cross-origin preflight", "OPTIONS", "/v1/caption", {"Origin": "http://evil.example"}, 403),
    ("cross-site image", "GET", "/metrics", {"Sec-Fetch-Site": "cross-site"}, 403),
    ("same-site subdomain", "GET", "/v1/models", {"Sec-Fetch-Site": "same-site"}, 403),
    (
        "cross-site link to a route",
        "GET",
        "/metrics",
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        403,
    ),
    ("cross-site script", "GET", "/page/main.js", {"Sec-Fetch-Site": "cross-site"}, 403),
    ("compressed body", "POST", "/v1/caption", {"Content-Encoding": "gzip"}, 415),
    ("Content-Length of a terabyte", "POST", "/v1/caption", {"Content-Length": "1000000000000"}, 413),
    ("path traversal", "GET", "/page/../../settings.py", {}, 404),
    ("percent-encoded path traversal", "GET", "/page/%2e%2e/%2e%2e/settings.py", {}, 404),
    ("path traversal with encoded slashes", "GET", "/page/..%2f..%2f..%2fetc%2fpasswd", {}, 404),
    ("path traversal with backslashes", "GET", "/page/..%5c..%5csettings.py", {}, 404),
    ("absolute path", "GET", "/page//etc/passwd", {}, 404),
    ("leading double slash", "GET", "//etc/passwd", {}, 404),
    ("null character", "GET", "/page/main.js%00.html", {}, 404),
    ("invalid UTF-8 in the path", "GET", "/page/%ff%fe", {}, 404),
    ("path as model name", "GET", "/v1/models/..%2f..%2fetc%2fpasswd", {}, 404),
    ("markup as model name", "GET", "/v1/models/%3Cscript%3Ealert(1)%3C%2Fscript%3E", {}, 404),
    ("cross-origin search", "POST", "/v1/search", {"Origin": "http://evil.example"}, 403),
    ("cross-site thumbnail", "GET", f"{ALBUM}/pictures/1/thumbnail", {"Sec-Fetch-Site": "cross-site"}, 403),
    (
        "cross-site link to a picture",
        "GET",
        f"{ALBUM}/pictures/1/view",
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        403,
    ),
    ("path as album name", "GET", "/v1/albums/..%2f..%2fetc/pictures/1", {}, 404),
    ("parent folders as album name", "GET", "/v1/albums/../../etc/passwd", {}, 404),
    ("path as picture number", "GET", f"{ALBUM}/pictures/..%2f..%2fetc%2fpasswd", {}, 404),
    ("path traversal after a picture", "GET", f"{ALBUM}/pictures/1/../../../../../etc/passwd", {}, 404),
    ("name as picture number", "GET", f"{ALBUM}/pictures/passwd/view", {}, 400),
    ("picture number with a sign", "GET", f"{ALBUM}/pictures/+1/view", {}, 400),
    ("picture number with an underscore", "GET", f"{ALBUM}/pictures/1_0/view", {}, 400),
    ("picture number in non-ASCII digits", "GET", f"{ALBUM}/pictures/%D9%A1/view", {}, 400),
    ("negative picture number", "GET", f"{ALBUM}/pictures/-1/view", {}, 400),
    ("picture number beyond 64 bits", "GET", f"{ALBUM}/pictures/{10**30}/view", {}, 400),
    ("unknown picture number", "GET", f"{ALBUM}/pictures/{2**63 - 1}/view", {}, 404),
    ("SQL injection in picture numbers", "GET", f"{ALBUM}/pictures?ids=1);DROP%20TABLE%20picture", {}, 400),
    ("too many picture numbers", "GET", f"{ALBUM}/pictures?ids={','.join(['1'] * 1000)}", {}, 400),
    ("SQL injection in a filter", "GET", f"{ALBUM}/ids?where=name:x'%20OR%201=1%20--", {}, 400),
    ("SQL injection in the order", "GET", f"{ALBUM}/ids?order=path;DROP%20TABLE%20picture", {}, 400),
    ("deeply nested brackets", "GET", f"{ALBUM}/ids?where={'(' * 2000}", {}, 400),
    ("NaN as distance", "GET", f"{ALBUM}/duplicates?distance=nan", {}, 400),
    ("DELETE of a picture", "DELETE", f"{ALBUM}/pictures/1", {}, 405),
    ("DELETE", "DELETE", "/v1/models", {}, 405),
    ("TRACE", "TRACE", "/v1/models", {}, 405),
    ("POST to the page", "POST", "/", {}, 405),
]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS]
)
def test_a_foreign_host_or_origin_is_refused(
    plain: Running, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = plain.ask(method, path, headers=headers)
    assert answer.status == status, answer.data
    assert answer.json["error"]["message"] and answer.headers["content-type"] == "application/json"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert b"root:" not in answer.data
    assert still_healthy(plain)


def test_the_servers_own_page_and_links_to_it_are_allowed(plain: Running) -> None:
    assert plain.ask("GET", "/v1/models", headers={"Origin": plain.base}).status == 200
    assert plain.ask("GET", "/v1/models", headers={"Sec-Fetch-Site": "same-origin"}).status == 200
    assert plain.ask("GET", "/v1/models", headers={"Host": f"localhost:{plain.port}"}).status == 200
    assert plain.ask("GET", "/v1/models", headers={"Host": f"[::1]:{plain.port}"}).status == 200
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert plain.ask("GET", "/", headers=followed).status == 200


SMALL = data_address(picture())
LARGE = data_address(png(6000, 6000))  # 36 million pixels
PICTURES: list[tuple[str, str, str | None]] = [
    ("absolute path", "/etc/passwd", "invalid_image"),
    ("relative path", "photo.jpg", "invalid_image"),
    ("file URL", "file:///etc/passwd", "invalid_image"),
    ("cloud metadata URL", "http://169.254.169.254/latest/meta-data/", "invalid_image"),
    ("loopback URL", "http://127.0.0.1/", "invalid_image"),
    ("gopher URL", "gopher://127.0.0.1:25/", "invalid_image"),
    ("javascript URL", "javascript:alert(1)", "invalid_image"),
    ("path traversal in an album URL", "album:holiday/../../etc/passwd", "invalid_image"),
    ("parent folder in an album URL", "album:../holiday/1", "invalid_image"),
    ("invalid number in an album URL", "album:holiday/1e1", "invalid_image"),
    ("number beyond 64 bits in an album URL", "album:holiday/" + "9" * 40, "invalid_image"),
    ("empty", "", "invalid_image"),
    ("empty data URL", "data:image/png;base64,", "invalid_image"),
    ("data URL without base64", "data:image/png,abc", "invalid_image"),
    ("invalid base64", "data:image/png;base64,@@@@", "invalid_image"),
    ("truncated base64", SMALL[:-3], "invalid_image"),
    ("HTML", data_address(b"<html><script>alert(1)</script>", "text/html"), "invalid_image"),
    ("SVG", data_address(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "invalid_image"),
    ("PDF declared as PNG", data_address(b"%PDF-1.7 "), "invalid_image"),
    ("PostScript", data_address(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "invalid_image"),
    ("truncated PNG", data_address(file_of(picture(0, (300, 300)))[:2000]), "invalid_image"),
    ("PNG signature only", data_address(b"\x89PNG\r\n\x1a\n"), "invalid_image"),
    ("decompression bomb", data_address(png(100_000, 100_000)), "image_too_large"),
    ("extreme aspect ratio", data_address(png(1, 100_000)), "image_too_large"),
    ("zero pixels", data_address(png(0, 0)), "invalid_image"),
    (
        "compressed PNG text chunk",
        data_address(png(32, 32, (b"zTXt", b"x\0\0" + zlib.compress(bytes(200_000_000), 9)))),
        None,
    ),
]


@pytest.mark.parametrize(("address", "code"), [row[1:] for row in PICTURES], ids=[row[0] for row in PICTURES])
@pytest.mark.parametrize("path", ["/v1/classify", "/v1/similarity", "/v1/caption", "/v1/attention"])
def test_a_hostile_picture_is_refused(plain: Running, path: str, address: str, code: str | None) -> None:
    body: dict[str, Any] = {"image": address}
    if path == "/v1/classify":
        body |= {"labels": ["a", "b"]}
    if path == "/v1/similarity":
        body = {"images": [address], "texts": ["a"]}
    answer = plain.post(path, body)
    assert answer.status == 400, answer.data
    assert code in (None, answer.code)
    assert b"/etc" not in answer.data and b"Traceback" not in answer.data
    assert still_healthy(plain)


def chat(url: str) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is this ?"}]
    return {"model": "tiny", "messages": [{"role": "user", "content": content}], "max_tokens": 8}


BODIES: list[tuple[str, str, Any, int]] = [
    ("invalid JSON", "/v1/caption", b"{", 400),
    ("invalid UTF-8", "/v1/caption", b'{"image": "\xff\xfe"}', 400),
    ("lone surrogate", "/v1/classify", {"image": SMALL, "labels": ["\ud800"]}, 400),
    ("unclosed brackets", "/v1/caption", b"[" * 500_000, 400),
    ("too many unknown keys", "/v1/caption", b"{" + b",".join(b'"%x":1' % n for n in range(150_000)) + b"}", 400),
    ("too many items", "/v1/embeddings", b'{"model": "tiny", "input": [' + b"1," * 900_000 + b"1]}", 400),
    ("unclosed braces", "/v1/caption", b'{"image":' * 100_000, 400),
    ("NaN", "/v1/chat/completions", b'{"model": "tiny", "messages": [], "temperature": NaN}', 400),
    ("number with ten thousand digits", "/v1/caption", b'{"image": "", "max_new_tokens": ' + b"9" * 10_000 + b"}", 400),
    ("list as body", "/v1/caption", b"[]", 400),
    ("empty", "/v1/caption", b"", 400),
    ("list as image", "/v1/caption", {"image": [SMALL]}, 400),
    ("unknown field", "/v1/caption", {"image": SMALL, "path": "/etc/passwd"}, 400),
    ("body over the size limit", "/v1/caption", b" " * int(BODY * 1e6 + 1), 413),
    ("too many labels", "/v1/classify", {"image": SMALL, "labels": ["a"] * 10_000}, 400),
    ("label of a megabyte", "/v1/classify", {"image": SMALL, "labels": ["a" * 1_000_000]}, 400),
    ("no labels", "/v1/classify", {"image": SMALL, "labels": []}, 400),
    ("template without a placeholder", "/v1/classify", {"image": SMALL, "labels": ["a"], "template": "a photo"}, 400),
    ("template with many placeholders", "/v1/classify", {"image": SMALL, "labels": ["a"], "template": "{}" * 900}, 400),
    ("excessive max_new_tokens", "/v1/caption", {"image": SMALL, "max_new_tokens": 1_000_000}, 400),
    ("excessive num_beams", "/v1/caption", {"image": SMALL, "num_beams": 1000}, 400),
    ("excessive candidates", "/v1/caption", {"image": SMALL, "candidates": 1000}, 400),
    ("prompt longer than the context", "/v1/caption", {"image": SMALL, "prompt": "dog " * 400}, 400),
    ("too many pictures", "/v1/embeddings", {"model": "tiny", "input": [SMALL] * 17}, 400),
    ("too many pixels in total", "/v1/embeddings", {"model": "tiny", "input": [LARGE] * 3}, 400),
    ("file URL in a chat", "/v1/chat/completions", chat("file:///etc/passwd"), 400),
    ("loopback URL in a chat", "/v1/chat/completions", chat("http://127.0.0.1/"), 400),
    ("decompression bomb in a chat", "/v1/chat/completions", chat(data_address(png(50_000, 50_000))), 400),
    ("path as model name", "/v1/caption", {"image": SMALL, "model": "/etc/passwd"}, 404),
    ("markup as model name", "/v1/caption", {"image": SMALL, "model": "<img src=x onerror=alert(1)>"}, 404),
    ("path as example image", "/v1/search", {"image": "/etc/passwd"}, 400),
    ("cloud metadata URL as example image", "/v1/search", {"image": "http://169.254.169.254/"}, 400),
    ("decompression bomb as example image", "/v1/search", {"image": data_address(png(50_000, 50_000))}, 400),
    ("path as album to search", "/v1/search", {"query": "a", "album": "../../etc"}, 404),
    ("excessive top", "/v1/search", {"query": "a", "top": 1_000_000}, 400),
    ("filter of a megabyte", "/v1/search", {"query": "a", "where": "name:a " * 150_000}, 400),
    ("SQL injection in the filter of a search", "/v1/search", {"query": "a", "where": "1=1; DROP TABLE picture"}, 400),
    ("lone surrogate in a filter", "/v1/search", {"query": "a", "where": "name:\ud800"}, 400),
    ("unknown field folder", "/v1/search", {"query": "a", "folder": "/etc"}, 400),
    ("excessive number of clusters", "/v1/albums/holiday/groups", {"clusters": 1_000_000}, 400),
    ("too many keywords", "/v1/albums/holiday/groups", {"keywords": ["a"] * 10_000}, 400),
    ("token ids", "/v1/embeddings", {"model": "tiny", "input": [[101, 102]]}, 400),
]


@pytest.mark.parametrize(("path", "body", "status"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
def test_a_hostile_body_is_refused(plain: Running, path: str, body: Any, status: int) -> None:
    answer = plain.post(path, body)
    assert answer.status == status, answer.data
    assert answer.json["error"]["message"] and b"Traceback" not in answer.data
    assert b"<img" not in answer.data
    assert still_healthy(plain)


PICTURE = f"{ALBUM}/pictures/1"
WRITES: list[tuple[str, str, Any, dict[str, str], int]] = [
    ("cross-origin", PICTURE, {"caption": "x", "into_file": True}, {"Origin": "http://evil.example"}, 403),
    ("null origin", PICTURE, {"caption": "x"}, {"Origin": "null"}, 403),
    ("same-site subdomain", PICTURE, {"caption": "x"}, {"Sec-Fetch-Site": "same-site"}, 403),
    ("foreign host name", PICTURE, {"caption": "x"}, {"Host": "evil.example"}, 421),
    ("form content type", PICTURE, {"caption": "x", "into_file": True}, {"Content-Type": "text/plain"}, 400),
    (
        "path as picture number",
        f"{ALBUM}/pictures/..%2f..%2fetc%2fpasswd",
        {"caption": "x", "into_file": True},
        {},
        404,
    ),
    ("path in the body", PICTURE, {"caption": "x", "into_file": True, "path": "/etc/passwd"}, {}, 400),
    ("path traversal to another album", "/v1/albums/..%2fother/pictures/1", {"caption": "x"}, {}, 404),
    ("unknown picture", f"{ALBUM}/pictures/999", {"caption": "x", "into_file": True}, {}, 404),
    ("caption of a megabyte", PICTURE, {"caption": "x" * 1_000_000, "into_file": True}, {}, 400),
    ("list as caption", PICTURE, {"caption": ["x"], "into_file": True}, {}, 400),
    ("empty caption into the file", PICTURE, {"caption": "", "into_file": True}, {}, 400),
    ("lone surrogate", PICTURE, {"caption": "\ud800", "into_file": True}, {}, 400),
    ("too many keywords", PICTURE, {"tags": ["x"] * 10_000}, {}, 400),
    ("string as boolean", PICTURE, {"caption": "x", "into_file": "yes"}, {}, 400),
]


def test_no_hostile_write_changes_anything(plain: Running, album: Path) -> None:
    def state() -> tuple[dict[str, bytes], dict[str, object]]:
        files = {file.name: file.read_bytes() for file in (album.parent / "photos").iterdir()}
        with Album.open(album) as opened:
            return files, {sql: opened.store.query(f"SELECT * FROM {sql} ORDER BY 1") for sql in ("caption", "tag")}

    before = state()
    for name, path, body, headers, status in WRITES:
        answer = plain.ask("PUT", path, body, headers)
        assert answer.status == status, (name, answer.data)
        assert answer.json["error"]["message"] and b"secret" not in answer.data
        assert state() == before, name
    assert still_healthy(plain)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_content_types_of_cross_site_forms_are_refused(plain: Running, kind: str) -> None:
    answer = plain.ask("POST", "/v1/caption", {"image": SMALL}, {"Content-Type": kind})
    assert answer.status == 400


def test_a_gzip_bomb_is_not_decompressed(plain: Running) -> None:
    answer = plain.ask("POST", "/v1/caption", gzip.compress(bytes(50_000_000)), {"Content-Encoding": "gzip"})
    assert answer.status == 415


RAW: list[tuple[str, bytes, bytes]] = [
    ("not HTTP", b"hello\r\n\r\n", b" 400 "),
    ("missing host", b"GET /healthz HTTP/1.1\r\n\r\n", b" 400 "),
    ("duplicate host", b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", b" 400 "),
    (
        "duplicate origin",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nOrigin: null\r\n\r\n",
        b" 400 ",
    ),
    ("negative length", b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", b" 400 "),
    (
        "conflicting lengths",
        b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 9\r\n\r\n",
        b" 400 ",
    ),
    (
        "length and chunked encoding",
        b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b" 400 ",
    ),
    (
        "invalid chunk",
        b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b" 400 ",
    ),
    ("header of a megabyte", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000, b" 400 "),
    (
        "unsupported transfer encoding",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b" 501 ",
    ),
    ("null characters", b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 400 "),
]


@pytest.mark.parametrize(("sent", "status"), [row[1:] for row in RAW], ids=[row[0] for row in RAW])
def test_malformed_http_is_refused(plain: Running, sent: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", plain.port), timeout=60) as connection:
        try:
            connection.sendall(sent)
            got = connection.recv(4096)
        except (BrokenPipeError, ConnectionResetError):
            # the connection was closed while the client was still sending
            got = b" 400 " if len(sent) > 100_000 else b""
    assert status in got.split(b"\r\n")[0] or (status == b" 501 " and b" 400 " in got), got
    assert still_healthy(plain)


def test_an_endless_chunked_body_is_cut_off_at_the_limit(plain: Running) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", plain.port), timeout=60) as connection:
        connection.sendall(
            b"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        connection.settimeout(0.02)
        got = b""
        while not got and sent < 40e6:
            try:
                connection.sendall(chunk)
                sent += len(chunk)
                got = connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
    assert b" 413 " in got.split(b"\r\n")[0]
    assert sent < 3 * BODY * 1e6
    assert still_healthy(plain)


KEYS: list[tuple[str, dict[str, str], int]] = [
    ("missing", {}, 401),
    ("wrong key", {"Authorization": "Bearer wrong-horse-battery"}, 401),
    ("prefix of the key", {"Authorization": f"Bearer {KEY[:-1]}"}, 401),
    ("key with a suffix", {"Authorization": f"Bearer {KEY}x"}, 401),
    ("empty", {"Authorization": "Bearer "}, 401),
    ("scheme without a key", {"Authorization": "Bearer"}, 401),
    ("key without a scheme", {"Authorization": KEY}, 401),
    ("unknown scheme", {"Authorization": f"Token {KEY}"}, 401),
    ("non-ASCII bytes", {"Authorization": "Bearer ÿþ"}, 401),
    ("Basic with a wrong password", {"Authorization": "Basic " + base64.b64encode(b"me:wrong").decode()}, 401),
    ("Basic with invalid base64", {"Authorization": "Basic @@@"}, 401),
    (
        "Basic with the key as user name",
        {"Authorization": "Basic " + base64.b64encode(f"{KEY}:".encode()).decode()},
        401,
    ),
    ("cookie", {"Cookie": f"key={KEY}"}, 401),
    ("custom header", {"X-Api-Key": KEY}, 401),
    ("correct key", {"Authorization": f"Bearer {KEY}"}, 200),
    ("lowercase scheme", {"Authorization": f"bearer {KEY}"}, 200),
    ("Basic, as browsers send it", {"Authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()}, 200),
]


@pytest.mark.parametrize(("headers", "status"), [row[1:] for row in KEYS], ids=[row[0] for row in KEYS])
def test_only_the_api_key_grants_access(keyed: Running, headers: dict[str, str], status: int) -> None:
    answer = keyed.ask("GET", "/v1/models?key=" + KEY, headers=headers)
    assert answer.status == status
    if status == 401:
        assert answer.code == "invalid_api_key" and answer.headers["www-authenticate"].startswith("Basic")
        assert KEY.encode() not in answer.data


def routes(running: Running) -> list[tuple[str, str]]:
    inner = running.server.config.app.app  # type: ignore[union-attr]
    found = []
    waiting = list(inner.routes)
    while waiting:
        route = waiting.pop()
        waiting += getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", [])
        found += [(method, route.path) for method in getattr(route, "methods", None) or ()]
    return sorted(set(found))


def test_every_route_requires_the_api_key(keyed: Running) -> None:
    every = routes(keyed)
    assert {"/", "/healthz", "/readyz", "/metrics", "/openapi.json"} < {path for _, path in every}
    assert {("PUT", f"{ALBUM}/pictures/{{id}}".replace("holiday", "{album}")), ("POST", "/v1/search")} < set(every)
    assert len(every) > 40
    for method, path in [*every, ("GET", "/nothing"), ("POST", "/v1/nothing")]:
        place = (
            path.replace("{name:path}", "tiny")
            .replace("{album}", "holiday")
            .replace("{id}", "1")
            .replace("{index}", "x")
        )
        assert keyed.ask(method, place).status == 401, (method, place)


ADDRESSES = [
    "http://127.0.0.1:{port}/",
    "http://localhost:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://127.1:{port}/",
    "http://2130706433:{port}/",
    "http://0x7f000001:{port}/",
    "http://0177.0.0.1:{port}/",
    "http://0.0.0.0:{port}/",
    "http://10.0.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00::1]/",
    "http://[fe80::1]/",
    "http://[2002:7f00:1::]/",
    "http://user:secret@127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\\@example.com/",
    "ftp://127.0.0.1:{port}/",
    "http:///nowhere",
]


class Recording(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requested.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.2:{self.server.server_port}/secret")
            self.end_headers()
            return
        data = file_of(picture())
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def elsewhere() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("0.0.0.0", 0), Recording)
    server.requested = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_url_to_an_internal_address_is_refused(
    fetching: Running, elsewhere: ThreadingHTTPServer, address: str
) -> None:
    url = address.format(port=elsewhere.server_port)
    answer = fetching.post("/v1/caption", {"image": url})
    assert answer.status == 400 and answer.code == "invalid_image", answer.data
    assert b"secret" not in answer.data
    assert elsewhere.requested == []  # type: ignore[attr-defined]


def test_a_redirect_to_an_internal_address_is_refused(
    fetching: Running, elsewhere: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import beholder.server.picture_loading as server_pictures

    # 127.0.0.1 stands for the public internet, and 127.0.0.2 for the internal network.
    permitted = partial(server_pictures.fetch, is_permitted=lambda address: str(address) == "127.0.0.1")
    monkeypatch.setattr(server_pictures, "fetch", permitted)
    base = f"http://127.0.0.1:{elsewhere.server_port}"
    assert fetching.post("/v1/caption", {"image": f"{base}/photo.png"}).status == 200
    answer = fetching.post("/v1/caption", {"image": f"{base}/away"})
    assert answer.status == 400 and answer.code == "invalid_image"
    assert elsewhere.requested == ["/photo.png", "/away"]  # type: ignore[attr-defined]


def test_a_url_among_text_inputs_is_text(fetching: Running, elsewhere: ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{elsewhere.server_port}/"
    assert fetching.post("/v1/embeddings", {"model": "tiny", "input": [url[:12]]}).status == 200
    assert elsewhere.requested == []  # type: ignore[attr-defined]


def test_special_tokens_in_messages_are_text(plain: Running) -> None:
    answer = plain.post("/v1/chat/completions", chat(SMALL) | {"max_tokens": 4})
    assert answer.status == 200
    request = chat(SMALL)
    request["messages"][0]["content"][1]["text"] = "</s> <s> <image>"
    assert plain.post("/v1/chat/completions", request).status == 200
    assert plain.post("/v1/embeddings", {"model": "tiny", "input": "[SEP]"}).status == 200


def test_every_response_forbids_foreign_scripts_and_mime_sniffing(plain: Running) -> None:
    for path in ("/", "/v1/models", "/nothing", "/metrics"):
        headers = plain.ask("GET", path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "script-src 'self'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_there_are_well_over_sixty_attacks() -> None:
    refused = [row for row in KEYS if row[-1] == 401]
    tables: list[Sized] = [HEADERS, PICTURES, BODIES, WRITES, RAW, refused, ADDRESSES]
    assert sum(map(len, tables)) >= 160


def test_logs_and_errors_reveal_nothing_of_the_request(plain: Running, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("beholder.server")
    handler = logging.Handler()
    lines: list[str] = []
    handler.setFormatter(JsonFormatter())
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        plain.post("/v1/classify?secret=query", {"image": SMALL, "labels": ["my secret label"], "secret": "field"})
        plain.post("/v1/classify", {"image": SMALL, "labels": ["my secret label", "b"]})
        latest = time.monotonic() + 60
        while len(lines) < 2 and time.monotonic() < latest:  # a request is logged after its response
            time.sleep(0.01)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    rows = [json.loads(line) for line in lines]
    assert [row["status"] for row in rows] == [400, 200]
    assert rows[0]["code"] == "extra_forbidden" and rows[0]["client"] == "127.0.0.1" and "code" not in rows[1]
    assert all(row["route"] == "/v1/classify" and row["seconds"] > 0 for row in rows)
    assert "secret" not in "".join(lines) and SMALL[40:80] not in "".join(lines)
