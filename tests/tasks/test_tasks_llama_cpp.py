"""A vision-language model behind an address, against llama.cpp's server with a tiny random model.

The server runs in the environment that ``make clients`` makes; without its package the tests are skipped.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import tiny_gguf
from beholder import VisionLanguageModel
from beholder.errors import InvalidSetting, ModelError, ModelUnreachable, PictureRefused
from beholder.tasks.remote_endpoint import RemoteEndpoint
from command import beholder
from examples import ROOT

pytestmark = [pytest.mark.clients, pytest.mark.slow]

PROGRAM = ROOT / "tests" / "server" / "clients" / "llama_cpp_server.py"
OWN_PYTHON = ROOT / ".clients" / "bin" / "python"
PYTHON = OWN_PYTHON if OWN_PYTHON.exists() else Path(sys.executable)
PATIENCE = 120.0  # seconds for the server to start
COLORS = ("red", "green", "blue", "white", "black")


@contextmanager
def running(log: Path, *files: Path) -> Iterator[str]:
    """Run llama.cpp's server with a model and perhaps a projector; yield its address."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('xllamacpp') is None)"
    if subprocess.run([PYTHON, "-c", look], check=False).returncode:
        pytest.skip(f"xllamacpp: not installed for {PYTHON}")
    out, errors = log.with_suffix(".out"), log.with_suffix(".err")
    with out.open("wb") as printed, errors.open("wb") as logged:
        process = subprocess.Popen([PYTHON, PROGRAM, *files], stdin=subprocess.PIPE, stdout=printed, stderr=logged)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            address = [line for line in out.read_text().splitlines(keepends=True) if line.startswith("http://")]
            if address and address[0].endswith("\n"):
                break
            if process.poll() == -signal.SIGILL:
                pytest.skip("this processor lacks instructions that llama.cpp's wheel needs")
            assert process.poll() is None, errors.read_text()[-2000:]
            assert time.monotonic() < deadline, errors.read_text()[-2000:]
            time.sleep(0.05)
        yield address[0].strip()
    finally:
        process.kill()
        process.wait(60)
        if process.stdin is not None:
            process.stdin.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The language model and the projector."""
    folder = tmp_path_factory.mktemp("gguf")
    return (
        tiny_gguf.write_language_model(folder / "tiny.gguf"),
        tiny_gguf.write_projector(folder / "mmproj-tiny.gguf"),
    )


@pytest.fixture(scope="module")
def address(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server's address, without a path."""
    with running(tmp_path_factory.mktemp("llama_cpp") / "server", *files) as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a picture of each of `COLORS`."""
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number, color in enumerate(COLORS):
        Image.new("RGB", (40, 40), color).save(photographs / f"{number}.png")
    return photographs


def model(address: str, name: str = "tiny") -> VisionLanguageModel:
    return VisionLanguageModel(replace(RemoteEndpoint.parse(f"{address}/v1#{name}"), delay=0.01, max_delay=0.05))


def test_captions_come_in_order_and_again_the_same(address: str, folder: Path) -> None:
    paths = sorted(folder.iterdir())
    vlm = model(address)
    captions = vlm.caption(paths, batch_size=2)
    assert [len(caption.split()) for caption in captions] == [20] * len(COLORS)  # a token each
    assert {word for caption in captions for word in caption.split()} <= set(tiny_gguf.WORDS)
    assert len(set(captions)) > 1  # the pictures are seen
    assert vlm.caption(paths, batch_size=1) == captions
    assert vlm.caption(paths[::-1], batch_size=2) == captions[::-1]


def test_the_model_need_not_be_named(address: str, folder: Path) -> None:
    """The server lists the path of the file, and answers to any name."""
    expected = model(address).caption(folder / "0.png")
    assert VisionLanguageModel.from_pretrained(f"{address}/v1").caption(folder / "0.png") == expected
    assert model(address, "another").caption(folder / "0.png") == expected


def test_questions_and_a_conversation(address: str, folder: Path) -> None:
    vlm = model(address)
    answer = vlm.ask(folder / "0.png", "what is this ?").text
    assert answer and vlm.answers([(folder / "0.png", "what is this ?")] * 3, batch_size=3) == [answer] * 3
    with pytest.raises(ModelError, match="none of the choices"):
        vlm.ask(folder / "0.png", "what is this ?", choices=["a bicycle", "an umbrella"])
    chat = vlm.chat(folder / "0.png", max_new_tokens=8)
    pieces = list(chat.stream("what is this ?"))
    first = "".join(pieces)
    assert len(pieces) == 8 and first == chat.turns[0].answer
    assert model(address).chat(folder / "0.png", max_new_tokens=8).ask("what is this ?") == first
    assert not chat.turns[0].finished
    more = "".join(chat.continue_answer())
    assert more and chat.turns[0].answer == f"{first} {more}"
    assert chat.ask("where ?") == chat.turns[1].answer
    assert [len(turn.answer.split()) for turn in chat.turns] == [16, 8]


def test_a_stream_that_is_closed_leaves_the_server_free(address: str, folder: Path) -> None:
    for _ in range(6):  # more than the server answers at once
        stream = model(address).chat(folder / "0.png", max_new_tokens=200).stream("what is this ?")
        assert next(stream)
        stream.close()  # type: ignore[attr-defined]
    assert model(address).caption(folder / "0.png")


def test_captioning_a_folder_resumes(address: str, folder: Path, tmp_path: Path) -> None:
    expected = model(address).caption(sorted(folder.iterdir()))
    (folder / "4.png").rename(tmp_path / "4.png")
    arguments = ["caption", folder, "--model", f"{address}/v1#tiny", "--out", tmp_path / "captions.jsonl"]
    assert beholder(*arguments).returncode == 0
    (tmp_path / "4.png").rename(folder / "4.png")
    second = beholder(*arguments)
    assert second.returncode == 0 and "4 of 5 pictures have a caption already" in second.stderr
    rows = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [row["caption"] for row in rows] == expected


def test_what_the_server_refuses(address: str, folder: Path) -> None:
    with pytest.raises(PictureRefused, match=r"status 400: .*context"):
        model(address).ask(folder / "0.png", "what is this ? " * 100)
    with pytest.raises(ModelUnreachable, match="has no model 'tiny', or is no OpenAI API"):
        VisionLanguageModel.from_pretrained(f"{address}/nothing#tiny").caption(folder / "0.png")
    with pytest.raises(ModelUnreachable, match="no OpenAI API"):
        VisionLanguageModel.from_pretrained(f"{address}/nothing").caption(folder / "0.png")
    with pytest.raises(InvalidSetting, match="its own choice"):
        model(address).caption(folder / "0.png", num_beams=2)


def test_a_model_without_a_projector_takes_no_pictures(
    files: tuple[Path, Path], folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(tmp_path / "server", files[0]) as address:
        for ask in (
            lambda: model(address).caption(sorted(folder.iterdir())),
            lambda: list(model(address).chat(folder / "0.png").stream("what is this ?")),
        ):
            with pytest.raises(ModelError, match=r"takes no pictures: .*\(--mmproj\); the server says: image input"):
                ask()
        assert "attempt" not in caplog.text  # it was not tried again
    with pytest.raises(ModelUnreachable, match="nothing answers there"):
        model(address).caption(folder / "0.png")
