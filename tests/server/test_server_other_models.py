"""Models without a bridge behind the server, and the server as a model behind an address."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import serving
from beholder import VisionLanguageModel
from serving import data_address, picture
from tiny_image_text_to_text import smolvlm, smolvlm_generator


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    folder = tmp_path_factory.mktemp("smolvlm")
    smolvlm(folder)
    return VisionLanguageModel.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def running(smol: VisionLanguageModel) -> Iterator[serving.Running]:
    with serving.running(vision_language_models={"smol": smol}) as server:
        yield server


def body(question: str, **more: object) -> dict[str, object]:
    image = {"type": "image_url", "image_url": {"url": data_address(picture())}}
    content = [image, {"type": "text", "text": question}]
    return {"model": "smol", "messages": [{"role": "user", "content": content}], "max_tokens": 5, **more}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.005)


def metric_value(running: serving.Running, name: str) -> float:
    lines = running.ask("GET", "/metrics").data.decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_captions_and_answers_are_those_of_the_model(running: serving.Running, smol: VisionLanguageModel) -> None:
    found = running.ask("POST", "/v1/caption", {"image": data_address(picture()), "max_new_tokens": 5, "num_beams": 1})
    assert found.json["caption"] == smol.caption(picture(), max_new_tokens=5, num_beams=1)
    found = running.ask("POST", "/v1/chat/completions", body("what is this ?"))
    assert found.status == 200
    assert found.json["choices"][0]["message"]["content"] == smol.chat(picture(), max_new_tokens=5).ask(
        "what is this ?"
    )
    assert found.json["usage"]["prompt_tokens"] > 0


def test_texts_of_several_clients_are_those_of_lone_requests(
    running: serving.Running, smol: VisionLanguageModel
) -> None:
    questions = ["what is this ?", "how many ?", "where ?", "who ?"]
    pictures = [picture(seed, (40 + 20 * seed, 40)) for seed in range(4)]

    def ask(number: int) -> str:
        content = [
            {"type": "image_url", "image_url": {"url": data_address(pictures[number])}},
            {"type": "text", "text": questions[number]},
        ]
        sent = {"model": "smol", "messages": [{"role": "user", "content": content}], "max_tokens": 9}
        return str(running.post("/v1/chat/completions", sent).json["choices"][0]["message"]["content"])

    def caption(number: int) -> str:
        sent = {"image": data_address(pictures[number]), "max_new_tokens": 8}
        return str(running.post("/v1/caption", sent).json["caption"])

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, number) for number in range(4)]
        captions = [pool.submit(caption, number) for number in range(4)]
        for number, image in enumerate(pictures):
            assert answers[number].result() == smol.chat(image, max_new_tokens=9).ask(questions[number])
            assert captions[number].result() == smol.caption(image, max_new_tokens=8)


def test_a_running_text_goes_on_between_the_parts_of_another_picture(
    running: serving.Running, smol: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    asked = threading.Event()
    front_end = smolvlm_generator(smol).front_end
    tokens, decode = front_end.tokens, smol.language.decode

    def recorded_tokens(pixels: Any) -> Any:
        events.append("part")
        return tokens(pixels)

    def recorded_decode(*arguments: Any, **options: Any) -> Any:
        if events[-1] == "part" and len(events) == 2:  # the first token of the first answer
            assert asked.wait(60)
        events.append("token")
        return decode(*arguments, **options)

    monkeypatch.setattr(front_end, "tokens", recorded_tokens)
    monkeypatch.setattr(smol.language, "decode", recorded_decode)
    monkeypatch.setattr(type(smol.language), "eos_token_ids", (99_999,))  # so that the first answer is long
    served = running.service.vlms["smol"]
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.post, "/v1/chat/completions", body("what is this ?", max_tokens=20))
        wait_until(lambda: len(events) == 2)
        second = pool.submit(running.post, "/v1/chat/completions", body("how many ?"))
        wait_until(lambda: served.worker.pending() == 2)
        asked.set()
        assert first.result().status == second.result().status == 200
    parts = [number for number, event in enumerate(events) if event == "part"]
    assert len(parts) == 4  # two of each picture
    assert "token" in events[parts[2] : parts[3]]


def test_a_client_that_leaves_stops_the_encoding_of_its_picture(
    running: serving.Running, smol: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[int] = []
    left = threading.Event()
    front_end = smolvlm_generator(smol).front_end
    tokens = front_end.tokens

    def slow_tokens(pixels: Any) -> Any:
        parts.append(len(pixels))
        assert left.wait(60)
        return tokens(pixels)

    monkeypatch.setattr(front_end, "tokens", slow_tokens)
    served = running.service.vlms["smol"]
    connection = http.client.HTTPConnection("127.0.0.1", running.port)
    sent = json.dumps(body("what is this ?"))
    connection.request("POST", "/v1/chat/completions", sent, {"Content-Type": "application/json"})
    wait_until(lambda: len(parts) == 1)
    before = metric_value(running, "beholder_clients_left_total")
    connection.close()
    wait_until(lambda: metric_value(running, "beholder_clients_left_total") == before + 1)
    left.set()
    wait_until(lambda: served.worker.pending() == 0)
    assert len(parts) == 1


def test_what_it_cannot_do_is_refused(running: serving.Running) -> None:
    refused = running.ask("POST", "/v1/attention", {"image": data_address(picture())})
    assert refused.status == 400 and refused.code == "unsupported_by_model" and "no bridge" in refused.data.decode()
    refused = running.ask("POST", "/v1/caption", {"image": data_address(picture()), "candidates": 3})
    assert refused.status == 400 and "reranker" in refused.data.decode()
    refused = running.ask("POST", "/v1/chat/completions", body("why ? " * 400))
    assert refused.status == 400 and "context" in refused.data.decode()


def test_the_server_is_a_model_behind_an_address(running: serving.Running, smol: VisionLanguageModel) -> None:
    remote = VisionLanguageModel.from_pretrained(f"{running.base}/v1#smol")
    pictures = [picture(seed) for seed in range(4)]
    captions = remote.caption(pictures, max_new_tokens=6, batch_size=3)
    assert len(captions) == 4 and all(isinstance(caption, str) for caption in captions)
    chat = remote.chat(picture(), max_new_tokens=5)
    assert "".join(chat.stream("what is this ?")).strip() == chat.history[0][1]
    chat.ask("and this ?")
    assert len(chat.history) == 2


def test_a_server_passes_requests_on(running: serving.Running, tmp_path: Path) -> None:
    remote = VisionLanguageModel.from_pretrained(f"{running.base}/v1#smol")
    with serving.running(vision_language_models={"far": remote}) as front:
        found = front.ask("POST", "/v1/caption", {"image": data_address(picture()), "max_new_tokens": 5})
        assert found.status == 200 and isinstance(found.json["caption"], str)
        found = front.ask("POST", "/v1/chat/completions", body("what is this ?", model="far"))
        assert found.status == 200 and found.json["choices"][0]["message"]["role"] == "assistant"
    gone = VisionLanguageModel.from_pretrained("http://127.0.0.1:9/v1#smol")
    from dataclasses import replace

    gone = VisionLanguageModel(replace(gone.loaded, attempts=1))  # type: ignore[type-var]
    with serving.running(vision_language_models={"far": gone}) as front:
        found = front.ask("POST", "/v1/caption", {"image": data_address(picture()), "max_new_tokens": 5})
        assert found.status == 502 and found.code == "upstream_failed"
