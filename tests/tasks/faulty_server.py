"""A server with the OpenAI API on loopback that captions pictures by their brightness, and fails as it is told to."""

import base64
import io
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Fault = Callable[[int], str]  # number of the request → "", "fail", "hang" or "die"


class FaultyServer:
    """Answers chat completions.

    Attributes:
        fault: what goes wrong with each request.
        requests: all bodies that were answered, by the brightness of their picture.
        headers: of the last request.
        refusal: what a status that `fault` names is sent with, as the error of the body.
        finish_reason: of each answer.
        dead: set from when it died until it was started again.
    """

    def __init__(self, fault: Fault = lambda number: ""):
        self.fault = fault
        self.count = 0
        self.answered: Counter[int] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.refusal: Any = {"message": "no such thing"}
        self.finish_reason = "stop"
        self.reply: Callable[[dict[str, Any], int], str] = lambda body, brightness: f"brightness {brightness}"
        self.died = threading.Event()
        self.release = threading.Event()
        self.lock = threading.Lock()
        self.port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/v1/models":
                    server._send(self, {"error": {"message": "not found"}}, 404)
                    return
                server._send(self, {"object": "list", "data": [{"id": "faulty", "object": "model"}]})

            def do_POST(self) -> None:
                server._answer(self)

            def log_message(self, *arguments: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

            def handle_error(self, *arguments: Any) -> None:
                pass  # clients that gave up

        self._server = Quiet(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        with self.lock:
            self.count += 1
            fault = self.fault(self.count)
            self.headers = dict(handler.headers)
        if fault == "die":
            self.died.set()
        if fault == "hang":
            self.release.wait(60)
        if self.died.is_set() or fault in ("die", "hang"):
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "fail":
            self._send(handler, {"error": {"message": "out of luck"}}, 500)
            return
        if fault.isdigit():
            self._send(handler, {"error": self.refusal}, int(fault))
            return
        brightness = brightness_of(body)
        with self.lock:
            self.answered[brightness] += 1
            self.bodies.append(body)
        text = self.reply(body, brightness)
        if body.get("stream"):
            self._stream(handler, text)
            return
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": self.finish_reason}
        self._send(
            handler, {"id": "1", "object": "chat.completion", "created": 0, "model": "faulty", "choices": [choice]}
        )

    def _stream(self, handler: BaseHTTPRequestHandler, text: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        base = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "faulty"}
        pieces: list[tuple[dict[str, str], str | None]] = [({"content": piece}, None) for piece in text]
        for delta, reason in [*pieces, ({}, self.finish_reason)]:
            chunk = base | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            handler.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        handler.wfile.write(b"data: [DONE]\n\n")

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, body: Any, status: int = 200) -> None:
        data = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)


def image_of(body: dict[str, Any]) -> Image.Image:
    """Return the picture that was sent."""
    parts = [
        part for message in body["messages"] if isinstance(message["content"], list) for part in message["content"]
    ]
    (url,) = (part["image_url"]["url"] for part in parts if part["type"] == "image_url")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


def brightness_of(body: dict[str, Any]) -> int:
    """Return the brightness of the picture that was sent: which of the test's pictures it is."""
    image = image_of(body).convert("RGB")
    red, green, _ = image.getpixel((image.width // 2, image.height // 2))  # type: ignore[misc]
    return round(red / 8) * 32 + round(green / 8)


@contextmanager
def running(fault: Fault = lambda number: "") -> Iterator[FaultyServer]:
    server = FaultyServer(fault)
    server.start()
    try:
        yield server
    finally:
        server.release.set()
        server.stop()
