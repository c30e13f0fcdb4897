"""Pictures drawn by the server: with the official OpenAI client, streamed, shared among clients, and refused."""

import base64
import io
import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

import serving
from beholder import ImageGenerator
from beholder.server.served_generator import preview_number
from serving import Running, data_address, file_of, picture

PATH = "/v1/images/generations"


@pytest.fixture(scope="module", name="generator")
def _generator() -> ImageGenerator:
    return serving.generator()


@pytest.fixture(scope="module", name="drawing")
def _drawing(generator: ImageGenerator) -> Iterator[Running]:
    with serving.running(generators={"tiny": generator}) as running:
        yield running


@pytest.fixture(scope="module", name="client")
def _client(drawing: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{drawing.base}/v1", api_key="none is needed", max_retries=0, timeout=60)


def opened(encoded: str | None) -> Image.Image:
    assert encoded is not None
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


def same(left: Image.Image, right: Image.Image) -> bool:
    return np.array_equal(np.asarray(left), np.asarray(right))


def events(answer: serving.Answer) -> list[dict[str, Any]]:
    found = []
    for event in answer.data.decode().strip().split("\n\n"):
        name, data = event.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1].get('type', 'error')}"
    return found


def test_a_prompt_is_drawn_as_the_library_draws_it(client: openai.OpenAI, generator: ImageGenerator) -> None:
    answer = client.images.generate(
        prompt="a cat",
        model="tiny",
        n=2,
        size="16x16",
        extra_body={"seed": 7, "steps": 3, "guidance": 2.0},  # type: ignore[arg-type]
    )
    expected = generator.generate("a cat", count=2, seed=7, steps=3, guidance=2.0)
    assert answer.data is not None and len(answer.data) == 2 and answer.output_format == "png"
    for row, theirs in zip(answer.data, expected, strict=True):
        assert same(opened(row.b64_json), theirs)
        facts = row.model_dump()
        assert facts["seed"] == theirs.info["seed"]
        assert facts["cosine"] == pytest.approx(theirs.info["cosine"], abs=1e-5) and 0 <= facts["match"] <= 1


def test_the_best_candidate_is_kept(client: openai.OpenAI, generator: ImageGenerator) -> None:
    answer = client.images.generate(prompt="a cat", n=2, extra_body={"seed": 20, "steps": 2, "candidates": 3})
    expected = generator.generate("a cat", count=2, candidates=3, seed=20, steps=2)
    assert answer.data is not None
    assert [row.model_dump()["seed"] for row in answer.data] == [each.info["seed"] for each in expected]
    assert all(same(opened(row.b64_json), each) for row, each in zip(answer.data, expected, strict=True))


def test_a_variation_is_drawn_as_the_library_draws_it(client: openai.OpenAI, generator: ImageGenerator) -> None:
    file = file_of(picture(3, (300, 200)))
    answer = client.images.create_variation(image=file, n=2, extra_body={"seed": 4, "steps": 3})
    expected = generator.generate(like=file, count=2, seed=4, steps=3)
    assert answer.data is not None
    assert [row.model_dump()["match"] for row in answer.data] == [None, None]
    assert all(same(opened(row.b64_json), each) for row, each in zip(answer.data, expected, strict=True))


def test_prompt_pictures_and_minus_are_added_up(drawing: Running, generator: ImageGenerator) -> None:
    body = {"prompt": "day", "like": [data_address(picture(1))], "minus": ["night"], "seed": 1, "steps": 2}
    answer = drawing.post(PATH, body).json
    expected = generator.generate("day", like=picture(1), minus="night", seed=1, steps=2)[0]
    assert same(opened(answer["data"][0]["b64_json"]), expected) and answer["size"] == "16x16"
    alone = drawing.post(PATH, {"like": body["like"], "seed": 1, "steps": 2}).json
    assert not same(opened(alone["data"][0]["b64_json"]), expected)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_files_have_the_format_that_was_asked_for(drawing: Running, output_format: str) -> None:
    answer = drawing.post(PATH, {"prompt": "a cat", "steps": 1, "output_format": output_format}).json
    assert opened(answer["data"][0]["b64_json"]).format == output_format.upper()


def test_without_a_seed_every_request_draws_another_picture(drawing: Running) -> None:
    seeds = {drawing.post(PATH, {"prompt": "a cat", "steps": 1}).json["data"][0]["seed"] for _ in range(3)}
    assert len(seeds) == 3


def test_a_stream_shows_the_drawing_as_it_grows(client: openai.OpenAI, generator: ImageGenerator) -> None:
    stream = client.images.generate(
        prompt="a cat", stream=True, partial_images=3, extra_body={"seed": 5, "steps": 8, "n": 2}
    )
    found = list(stream)
    partial = [event for event in found if event.type == "image_generation.partial_image"]
    completed = [event for event in found if event.type == "image_generation.completed"]
    expected = generator.generate("a cat", count=2, seed=5, steps=8)
    assert [same(opened(event.b64_json), each) for event, each in zip(completed, expected, strict=True)] == [True] * 2
    facts = [event.model_dump() for event in partial]
    assert all(each["steps"] == 8 and each["step"] in (2, 4, 6) for each in facts)
    assert facts == sorted(facts, key=lambda each: (each["index"], each["partial_image_index"]))
    assert found.index(completed[0]) < found.index(completed[1])
    assert partial and all(opened(event.b64_json).size == (16, 16) for event in partial)


def test_previews_are_spread_evenly_over_the_steps() -> None:
    def shown(steps: int, previews: int) -> list[int]:
        return [step for step in range(1, steps + 1) if preview_number(step, steps, previews) is not None]

    assert shown(8, 3) == [2, 4, 6] and shown(25, 4) == [5, 10, 15, 20]
    assert shown(8, 0) == [] and shown(3, 50) == [1, 2] and shown(1, 3) == []
    assert [preview_number(step, 8, 3) for step in (2, 4, 6)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "prompt", "a prompt, or pictures in like"),
        ({"prompt": ""}, "prompt", "at least 1 character"),
        ({"prompt": "  "}, None, "it is empty"),
        ({"prompt": "a cat", "n": 11}, "n", "less than or equal to 10"),
        ({"prompt": "a cat", "candidates": 99}, "candidates", "less than or equal to 16"),
        ({"prompt": "a cat", "n": 10, "candidates": 9}, "n", "n times candidates times steps is 2250"),
        ({"prompt": "a cat", "size": "big"}, "size", "should match pattern"),
        ({"prompt": "a cat", "size": "9000x16"}, "size", "up to 2048"),
        ({"prompt": "a cat", "size": "512x512"}, None, "draws 16x16 only"),
        ({"prompt": "a cat", "response_format": "url"}, "response_format", "should be 'b64_json'"),
        ({"prompt": "a cat", "style": "vivid"}, "style", "not permitted"),
        ({"prompt": "a cat", "quality": "hd"}, "quality", "should be 'auto'"),
        ({"prompt": "a cat", "background": "transparent"}, "background", "'auto' or 'opaque'"),
        ({"prompt": "a cat", "partial_images": 2}, "partial_images", "requires stream"),
        ({"prompt": "a cat", "output_compression": 2}, "output_compression", "requires the format"),
        ({"prompt": "cat " * 400}, "prompt", "too long for this model"),
        ({"prompt": "a cat", "minus": ["cat " * 400]}, "minus", "too long for this model"),
        ({"prompt": "a cat", "minus": [""]}, "minus.0", "at least 1 character"),
        ({"like": ["https://example.org/a.jpg"]}, None, "fetches no URLs"),
        ({"like": [data_address(b"no picture")]}, None, "picture 1"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_drawn_is_refused_and_named(
    drawing: Running, body: dict[str, Any], param: str | None, message: str, stream: bool
) -> None:
    if stream and param == "partial_images":
        pytest.skip("it is right in a stream")
    answer = drawing.post(PATH, {**body, "stream": stream})
    assert answer.status == 400 and message in answer.json["error"]["message"], answer.data
    assert answer.json["error"]["param"] == param


def test_a_form_is_checked_as_well(drawing: Running) -> None:
    kind = {"Content-Type": "multipart/form-data; boundary=x"}

    def form(**fields: str) -> bytes:
        parts = [
            f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields.items()
        ]
        head = '--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        return ("\r\n".join(parts) + "\r\n" + head).encode() + file_of(picture()) + b"\r\n--x--\r\n"

    def ask(body: bytes) -> serving.Answer:
        return drawing.ask("POST", "/v1/images/variations", body, kind)

    assert ask(form(steps="1", seed="3")).status == 200
    for fields, param in (
        ({"style": "vivid"}, "style"),
        ({"n": "0"}, "n"),
        ({"response_format": "url"}, "response_format"),
    ):
        answer = ask(form(**fields))
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
    missing = ask(b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n--x--\r\n')
    assert (missing.status, missing.json["error"]["param"]) == (400, "image")
    broken = ask(form().replace(b"PNG", b"GNP"))
    assert (broken.status, broken.code) == (400, "invalid_image")
    unreadable = ask(b"--y\r\n")
    assert unreadable.status == 400
    large = form(**{"prompt": "x" * 70_000})
    assert ask(large).status == 400


def test_a_form_of_too_many_fields_is_refused(drawing: Running) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = drawing.ask("POST", "/v1/images/variations", part * 5000 + b"--x--\r\n", kind)
    assert answer.status == 400 and answer.json["error"]["message"] == "the body is not valid multipart/form-data"
    as_json = drawing.ask("POST", PATH, b"[" * 70_000, kind)  # is not read as JSON
    assert as_json.status == 400


def test_a_large_upload_is_read(drawing: Running, client: openai.OpenAI) -> None:
    file = file_of(picture(3, (900, 700)))  # noise: its bytes hold more commas than a body of JSON may
    assert file.count(b",") > 1000 and len(file) > 1_000_000
    answer = client.images.create_variation(image=file, extra_body={"seed": 4, "steps": 1})
    assert answer.data is not None and len(answer.data) == 1


def test_a_server_without_a_generator_says_so(server: Running) -> None:
    answer = server.post(PATH, {"prompt": "a cat"})
    assert answer.status == 400 and "no model of this server draws pictures" in answer.json["error"]["message"]
    assert "images.generations" not in server.ask("GET", "/v1/models").json["data"][0]["capabilities"]


def test_models_metrics_and_limits_are_stated(drawing: Running) -> None:
    (model,) = drawing.ask("GET", "/v1/models").json["data"]
    assert model["id"] == "tiny" and model["capabilities"] == ["images.generations", "images.variations"]
    assert drawing.post(PATH, {"prompt": "a cat", "steps": 1, "model": "nobody"}).code == "model_not_found"
    before = drawings(drawing)
    assert drawing.post(PATH, {"prompt": "a cat", "steps": 1, "n": 2, "candidates": 2}).status == 200
    assert drawings(drawing) == before + 4
    schemas = drawing.ask("GET", "/openapi.json").json["components"]["schemas"]
    limits = schemas["ImageGenerationRequest"]["properties"]
    assert (limits["n"]["maximum"], limits["candidates"]["maximum"]) == (10, 16)
    assert schemas["ImageVariationForm"]["properties"]["n"]["maximum"] == 10


def drawings(running: Running) -> float:
    lines = running.ask("GET", "/metrics").data.decode().splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith("beholder_drawings_total{")), 0.0)


class SteppingGenerator:
    """Patches a generator's drawing, so that a test decides when each step is done."""

    def __init__(self, generator: ImageGenerator, monkeypatch: pytest.MonkeyPatch):
        self.started: list[int] = []
        self.may = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        network = generator.backend.networks  # type: ignore[attr-defined]
        draw = network.draw

        def slow(embedding: Any, noise: Any, steps: int, guidance: float, method: str, on_step: Any) -> Any:
            def step(number: int, predicted: Any) -> None:
                self.begun.release()
                assert self.may.acquire(timeout=60)
                self.started.append(number)
                on_step(number, predicted)

            return draw(embedding, noise, steps, guidance, method, step)

        monkeypatch.setattr(network, "draw", slow)


def test_a_client_that_leaves_stops_the_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = serving.generator()
    stepping = SteppingGenerator(generator, monkeypatch)
    with serving.running(generators={"tiny": generator}) as running:
        body = json.dumps({"prompt": "a cat", "steps": 50, "n": 3, "stream": True, "partial_images": 50}).encode()
        request = urllib.request.Request(running.base + PATH, body, {"Content-Type": "application/json"})
        answer = urllib.request.urlopen(request, timeout=60)
        assert stepping.begun.acquire(timeout=60)
        stepping.may.release()
        answer.readline()
        answer.close()
        leaving = running.ask  # the server notices while it waits for the next step
        while "beholder_clients_left_total 1.0" not in leaving("GET", "/metrics").data.decode():
            pass
        for _ in range(200):
            stepping.may.release()
        assert running.post(PATH, {"prompt": "a dog", "steps": 1}).status == 200
        assert len(stepping.started) < 10 and drawings(running) == 1


def test_clients_take_turns_after_each_picture(generator: ImageGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = serving.generator()
    stepping = SteppingGenerator(generator, monkeypatch)
    done: list[str] = []
    with serving.running(generators={"tiny": generator}, trusted_proxies=("127.0.0.1",)) as running:

        def ask(client: str, count: int) -> None:
            answer = running.post(PATH, {"prompt": "a cat", "steps": 1, "n": count}, X_Forwarded_For=client)
            assert answer.status == 200
            done.append(client)

        first = threading.Thread(target=ask, args=("10.0.0.1", 8))
        first.start()
        assert stepping.begun.acquire(timeout=60)  # the first of eight is being drawn
        second = threading.Thread(target=ask, args=("10.0.0.2", 1))
        second.start()
        worker = running.service.generators["tiny"].worker
        while worker.pending() < 2:
            assert second.is_alive()
        for _ in range(9):
            stepping.may.release()
        second.join(60)
        first.join(60)
        assert done == ["10.0.0.2", "10.0.0.1"]
