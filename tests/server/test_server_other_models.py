"""Models without a bridge behind the server, and the server as a model behind an address."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import serving
from beholder import VisionLanguageModel
from serving import data_address, picture
from tiny_image_text_to_text import smolvlm


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


def test_captions_and_answers_are_those_of_the_model(running: serving.Running, smol: VisionLanguageModel) -> None:
    found = running.ask("POST", "/v1/caption", {"image": data_address(picture()), "max_new_tokens": 5, "num_beams": 1})
    assert found.json["caption"] == smol.caption(picture(), max_new_tokens=5, num_beams=1)
    found = running.ask("POST", "/v1/chat/completions", body("what is this ?"))
    assert found.status == 200
    assert found.json["choices"][0]["message"]["content"] == smol.chat(picture(), max_new_tokens=5).ask(
        "what is this ?"
    )
    assert found.json["usage"]["prompt_tokens"] > 0


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
