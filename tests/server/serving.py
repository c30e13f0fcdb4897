"""A server in a thread of this process, with small random models, and a client for it."""

import base64
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import tiny_blip2
import tiny_generator
import tiny_model
from beholder import DualEncoder, ImageGenerator, VisionLanguageModel
from beholder.server.run import Server, create_server
from beholder.server.service import LoadedModels, Service
from beholder.server.settings import ServerSettings
from beholder.tasks.unclip_backend import UnclipBackend


def encoder() -> DualEncoder:
    return DualEncoder(tiny_model.build(), "cpu")


def vision_language_model(folder: Path) -> VisionLanguageModel:
    tiny_blip2.make("opt", folder)
    return VisionLanguageModel.from_pretrained(folder, device="cpu")


def generator() -> ImageGenerator:
    return ImageGenerator(UnclipBackend(tiny_generator.build(), "cpu"))


def picture(seed: int = 0, size: tuple[int, int] = (50, 40)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def file_of(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def data_address(data: bytes | Image.Image, kind: str = "image/png") -> str:
    data = file_of(data) if isinstance(data, Image.Image) else data
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def code(self) -> str | None:
        return self.json["error"]["code"]


@dataclass
class Running:
    port: int
    service: Service
    server: Server

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 30
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            sent = dict(headers or {})
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            if body is not None:
                sent.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, sent)
            got = connection.getresponse()
            return Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.ask("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})


@contextmanager
def running(
    encoders: dict[str, DualEncoder] | None = None,
    vision_language_models: dict[str, VisionLanguageModel] | None = None,
    albums: Sequence[Path] = (),
    generators: dict[str, ImageGenerator] | None = None,
    vectors: Sequence[str] = (),
    **settings: Any,
) -> Iterator[Running]:
    models = LoadedModels(encoders or {}, vision_language_models or {}, generators or {})
    service = Service(ServerSettings(port=0, **settings), lambda: models, albums, vectors)
    server = create_server(service)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not (server.started and service.ready):
        if time.monotonic() > deadline or not thread.is_alive():
            raise RuntimeError("the server did not start") from service.failure
        time.sleep(0.01)
    try:
        yield Running(server.servers[0].sockets[0].getsockname()[1], service, server)
    finally:
        server.should_exit = True
        thread.join(60)
    if thread.is_alive():
        raise RuntimeError("the server did not stop")
