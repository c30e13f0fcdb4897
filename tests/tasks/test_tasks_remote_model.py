"""A vision-language model behind an address, against servers on loopback."""

import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import faulty_server
import pytest
from PIL import Image

from beholder import Album, DualEncoder, VisionLanguageModel
from beholder.errors import (
    InvalidAnswer,
    InvalidSetting,
    ModelError,
    ModelUnreachable,
    PictureNotFound,
    PictureRefused,
    RequestFailed,
)
from beholder.pictures.caption_metadata import read_caption, write_caption
from beholder.tasks.remote_endpoint import KEY, RemoteEndpoint
from command import beholder


def picture(number: int = 0) -> Image.Image:
    """Return a picture that `faulty_server.brightness_of` recognizes."""
    return Image.new("RGB", (16, 16), (number // 32 * 8, number % 32 * 8, 128))


def model(server: faulty_server.FaultyServer, **settings: Any) -> VisionLanguageModel:
    endpoint = replace(RemoteEndpoint.parse(f"{server.address}#faulty"), delay=0.001, max_delay=0.05, **settings)
    return VisionLanguageModel(endpoint)


def test_captions_come_in_order_and_each_picture_is_sent_once() -> None:
    with faulty_server.running() as server:
        captions = model(server).caption([picture(number) for number in range(20)], batch_size=4)
        assert captions == [f"brightness {number}" for number in range(20)]
        assert server.answered == dict.fromkeys(range(20), 1)
        body = server.bodies[0]
        assert body["model"] == "faulty" and body["temperature"] == 0 and body["max_tokens"] == 20


@pytest.mark.slow
def test_a_thousand_pictures_through_a_server_that_fails_hangs_and_dies(caplog: pytest.LogCaptureFixture) -> None:
    """One request in ten fails, one in fifty hangs, and once the server dies and is started again."""

    def fault(number: int) -> str:
        return "die" if number == 400 else "hang" if number % 50 == 0 else "fail" if number % 10 == 5 else ""

    with faulty_server.running(fault) as server:

        def start_again() -> None:
            server.died.wait()
            server.stop()
            server.died.clear()
            server.start()

        nurse = threading.Thread(target=start_again, daemon=True)
        nurse.start()
        vlm = model(server, timeout=0.5, attempts=40)
        with caplog.at_level(logging.WARNING, "beholder"):
            found = list(vlm.stream_captions((picture(number) for number in range(1000)), batch_size=16))
        nurse.join(60)
        assert [item.caption for item in found] == [f"brightness {number}" for number in range(1000)]
        assert [item.index for item in found] == list(range(1000))
        assert set(server.answered) == set(range(1000))
    messages = [record.getMessage() for record in caplog.records]
    assert any("failed: status 500" in message for message in messages)
    assert any("no answer within 0.5 s" in message or "no connection" in message for message in messages)
    assert all(message.startswith("picture ") for message in messages)
    assert not any("base64" in message or "Describe" in message for message in messages)


def test_the_key_comes_from_the_environment_and_is_in_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY, "a-secret-key")
    monkeypatch.setenv("OPENAI_API_KEY", "another-secret")
    monkeypatch.setenv("OPENAI_ORG_ID", "an-organization")
    with faulty_server.running(lambda number: "fail" if number == 1 else "") as server:
        with caplog.at_level(logging.DEBUG):
            model(server).caption(picture())
        headers = {name.lower(): value for name, value in server.headers.items()}
        assert headers["authorization"] == "Bearer a-secret-key"
        assert "openai-organization" not in headers
    assert "a-secret-key" not in caplog.text and "base64," not in "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("beholder")
    )


def test_a_picture_is_sent_without_its_metadata_and_not_larger_than_needed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera of mine"
    Image.new("RGB", (4000, 1000)).save(tmp_path / "wide.jpg", exif=exif)
    with faulty_server.running() as server:
        model(server).caption(tmp_path / "wide.jpg")
        sent = faulty_server.image_of(server.bodies[0])
        assert sent.size == (2048, 512) and not sent.getexif() and sent.format == "JPEG"


def test_a_picture_that_fails_keeps_its_place() -> None:
    with faulty_server.running(lambda number: "fail" if number <= 3 else "") as server:
        found = list(model(server, attempts=3).stream_captions([picture(0), "nothing.jpg", picture(1)], batch_size=1))
        assert isinstance(found[0].error, RequestFailed) and "3 times: out of luck" in str(found[0].error)
        assert isinstance(found[1].error, PictureNotFound)
        assert found[2].caption == "brightness 1"


def test_a_refused_picture_is_not_sent_again() -> None:
    with faulty_server.running(lambda number: "413" if number == 1 else "") as server:
        found = list(model(server).stream_captions([picture(0), picture(1)], batch_size=1))
        assert isinstance(found[0].error, PictureRefused) and "status 413: no such thing" in str(found[0].error)
        assert found[1].caption == "brightness 1" and server.count == 2


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("500", {"message": "image input is not supported - hint: you may need to provide the mmproj", "code": 500}),
        ("500", {"message": "failed to process inputs: this model is missing data required for image input"}),
        ("400", "Model does not support images. Please use a model that does."),
        ("400", {"message": "qwen3 is not a multimodal model"}),
    ],
    ids=["llama.cpp", "Ollama", "LM Studio", "vLLM"],
)
def test_a_model_that_takes_no_pictures_ends_the_run(status: str, said: Any) -> None:
    with faulty_server.running(lambda number: status) as server:
        server.refusal = said
        with pytest.raises(ModelError, match=r"takes no pictures: choose a vision-language model.*says: ") as raised:
            model(server).caption([picture(0), picture(1)], batch_size=1)
        assert (said if isinstance(said, str) else said["message"]) in str(raised.value)
        with pytest.raises(ModelError, match="takes no pictures"):
            list(model(server).chat(picture()).stream("what ?"))
        assert server.count in (2, 3)  # nothing is tried again; the second picture may be under way


def test_an_answer_that_is_all_thoughts_is_an_error() -> None:
    with faulty_server.running() as server:
        server.finish_reason = "length"
        vlm = model(server)
        for thoughts in ("", "<think>It is round, and"):
            server.reply = lambda body, brightness, thoughts=thoughts: thoughts  # type: ignore[misc]
            (found,) = vlm.stream_captions([picture()])
            assert isinstance(found.error, InvalidAnswer) and "raise max_new_tokens" in str(found.error)
            with pytest.raises(InvalidAnswer, match="still thinking"):
                vlm.ask(picture(), "what ?")
            chat = vlm.chat(picture())
            with pytest.raises(InvalidAnswer, match="still thinking"):
                chat.ask("what ?")
        server.reply = lambda body, brightness: "<think>It is round.</think>A dog"
        assert vlm.caption(picture()) == "A dog"
        assert "".join(chat.continue_answer()) == "A dog" and not chat.turns[-1].finished


def test_a_wrong_path_without_a_model_is_no_missing_model() -> None:
    with faulty_server.running() as server:
        vlm = VisionLanguageModel.from_pretrained(f"{server.address}/nothing")
        with pytest.raises(ModelUnreachable, match=r"no OpenAI API \(is it …/v1\?\)"):
            vlm.caption(picture())


@pytest.mark.parametrize(("status", "message"), [("401", "asks for a key"), ("404", "has no model 'faulty'")])
def test_a_wrong_key_or_model_ends_the_run(status: str, message: str) -> None:
    with faulty_server.running(lambda number: status) as server:
        with pytest.raises(ModelUnreachable, match=message):
            model(server).caption(picture())
        assert server.count == 1


def test_nothing_at_the_address() -> None:
    with faulty_server.running() as server:
        vlm = model(server, attempts=2)
    with pytest.raises(ModelUnreachable, match="nothing answers there"):
        vlm.caption(picture())


def test_a_redirect_is_not_followed() -> None:
    with faulty_server.running() as elsewhere, faulty_server.running() as server:

        def redirect(handler: Any) -> None:
            handler.rfile.read(int(handler.headers["content-length"]))
            handler.send_response(307)
            handler.send_header("Location", f"{elsewhere.address}/chat/completions")
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        server._answer = redirect  # type: ignore[method-assign]
        with pytest.raises(ModelUnreachable, match="leads to another address"):
            model(server).caption(picture())
        assert elsewhere.count == 0


@pytest.mark.parametrize("reply", [b"<html>hello</html>", b'{"hello": 1}', b"[]", b'{"choices": []}'])
@pytest.mark.parametrize("kind", ["text/html", "application/json"])
def test_something_else_at_the_address(reply: bytes, kind: str) -> None:
    with faulty_server.running() as server:

        def answer(handler: Any) -> None:
            handler.rfile.read(int(handler.headers["content-length"]))
            handler.send_response(200)
            handler.send_header("Content-Type", kind)
            handler.send_header("Content-Length", str(len(reply)))
            handler.end_headers()
            handler.wfile.write(reply)

        server._answer = answer  # type: ignore[method-assign]
        with pytest.raises(ModelUnreachable, match="no OpenAI API"):
            model(server).caption(picture())


def test_answers_choices_and_what_cannot_be() -> None:
    with faulty_server.running() as server:
        vlm = model(server)
        server.reply = lambda body, brightness: "<think>It is round.</think>\n A dog."
        answer = vlm.ask(picture(), "what ?")
        assert answer.text == "A dog" and answer.confidence is None
        assert vlm.answers([(picture(), "what ?"), (picture(1), "who ?")]) == ["A dog", "A dog"]
        assert vlm.ask(picture(), "what ?", choices=["cat", "a dog"]).text == "a dog"
        with pytest.raises(ModelError, match="none of the choices"):
            vlm.ask(picture(), "what ?", choices=["cat", "cow"])
        with pytest.raises(ModelError, match="does not score"):
            vlm.match(picture(), ["a dog"])
        with pytest.raises(ModelError, match="does not score"):
            vlm.caption(picture(), num_candidates=3)
        with pytest.raises(ModelError, match="no bridge"):
            vlm.attention_maps(picture())
        with pytest.raises(InvalidSetting, match="its own choice"):
            vlm.caption(picture(), num_beams=5)
        with pytest.raises(InvalidSetting, match="empty"):
            vlm.answer(picture(), " ")
        server.reply = lambda body, brightness: "This garment is a red shirt"
        assert vlm.caption(picture(), "this garment is") == "a red shirt"


def test_a_conversation_is_streamed_and_sent_whole() -> None:
    with faulty_server.running() as server:
        server.reply = lambda body, brightness: "<think>hm</think>One " + str(len(body["messages"]))
        chat = model(server).chat(picture())
        assert "".join(chat.stream("what ?")) == "One 1"
        assert chat.ask("and ?") == "One 3"
        assert chat.history == [("what ?", "One 1"), ("and ?", "One 3")]
        roles = [message["role"] for message in server.bodies[-1]["messages"]]
        assert roles == ["user", "assistant", "user"]
        with pytest.raises(InvalidSetting, match="no unfinished answer"):
            chat.continue_answer()


def test_the_only_model_of_a_server_need_not_be_named() -> None:
    with faulty_server.running() as server:
        assert VisionLanguageModel.from_pretrained(server.address).caption(picture(3)) == "brightness 3"
        assert server.bodies[0]["model"] == "faulty"


@pytest.mark.parametrize(
    "address", ["http://", "http://:80/v1", "http://me:secret@127.0.0.1/v1#m", "https://127.0.0.1/v1?key=secret#m"]
)
def test_an_address_that_is_none_or_holds_a_key(address: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        VisionLanguageModel.from_pretrained(address)
    assert "secret" not in str(raised.value)


def test_captioning_a_folder_resumes(tmp_path: Path) -> None:
    for number in range(6):
        picture(number).save(tmp_path / f"{number}.png")
    out = tmp_path / "captions.jsonl"
    with faulty_server.running() as server:
        arguments = ["caption", tmp_path, "--model", f"{server.address}#faulty", "--out", out, "--json"]
        for name in ("4.png", "5.png"):
            (tmp_path / name).rename(tmp_path / f"{name}.later")
        first = beholder(*arguments)
        assert first.returncode == 0 and len(first.stdout.splitlines()) == 4
        for name in ("4.png", "5.png"):
            (tmp_path / f"{name}.later").rename(tmp_path / name)
        second = beholder(*arguments)
        assert second.returncode == 0 and "4 of 6 pictures have a caption already" in second.stderr
        assert server.answered == dict.fromkeys(range(6), 1)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["caption"] for row in rows] == [f"brightness {number}" for number in range(6)]


def test_captions_are_written_into_files_and_those_of_people_kept(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.jpg" for number in range(3)]
    for number, file in enumerate(files):
        picture(number).save(file)
    write_caption(files[1], "by a person")
    with faulty_server.running() as server:
        arguments = ["caption", tmp_path, "--xmp", "--model", f"{server.address}#faulty"]
        assert beholder(*arguments).returncode == 0
        assert beholder(*arguments).returncode == 0  # nothing is left to do
        assert server.answered == {0: 1, 2: 1}
    assert [read_caption(file) for file in files] == ["brightness 0", "by a person", "brightness 2"]


def test_an_album_is_asked(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        picture(number).save(tmp_path / "photos" / f"{number}.png")
    with Album.open(tmp_path / "album") as album:
        album.index(tmp_path / "photos", model=DualEncoder.from_pretrained(str(tiny_model)))
    with faulty_server.running() as server:
        asked = beholder(
            "ask", "--album", tmp_path / "album", "how bright?", "--model", f"{server.address}#faulty", "--json"
        )
        assert asked.returncode == 0, asked.stderr
        assert server.answered and all(times == 1 for times in server.answered.values())
    answers = [json.loads(line) for line in asked.stdout.splitlines()]
    assert answers and all(each["answer"].startswith("brightness") for each in answers)


def test_asking_and_chatting_on_the_command_line(tmp_path: Path) -> None:
    picture(7).save(tmp_path / "7.png")
    with faulty_server.running() as server:
        address = f"{server.address}#faulty"
        asked = beholder("ask", tmp_path / "7.png", "how bright?", "--model", address, "--json")
        assert json.loads(asked.stdout)["answer"] == "brightness 7" and json.loads(asked.stdout)["confidence"] is None
        assert beholder("ask", tmp_path / "7.png", "how bright?", "--model", address).stdout == "brightness 7\n"
        chatted = beholder("chat", tmp_path / "7.png", "--model", address, "--json", stdin="how bright?\nsure?\n")
        assert [json.loads(line)["answer"] for line in chatted.stdout.splitlines()] == ["brightness 7"] * 2
