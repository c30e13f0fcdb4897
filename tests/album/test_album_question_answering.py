"""Question answering over a whole album, with small random models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_album import draw

from beholder.album.question_answering import strip_question
from tiny_blip2 import make

RUN = "from beholder.cli.main import run; run()"


@pytest.mark.parametrize(
    ("question", "about"),
    [
        ("on which photographs is the dog in water?", "the dog in water"),
        ("Which pictures show a red car?", "a red car"),
        ("in what photos are there two children", "there two children"),
        ("where is the red ball?", "the red ball"),
        ("are there any pictures of snow?", "snow"),
        ("show me sunsets", "sunsets"),
        ("a plain description", "a plain description"),
        ("what colour is the car?", "what colour is the car"),
        ("??", "??"),
        ("哪些照片里有狗？", "狗"),
        ("哪张图片上有红色的汽车", "红色的汽车"),
        ("找出海边的日落照片", "海边的日落"),
        ("有没有猫的照片吗？", "猫"),
        ("狗在哪里？", "狗在哪里"),
    ],
)
def test_the_subject_of_a_question_is_what_remains_without_question_words(question: str, about: str) -> None:
    assert strip_question(question) == about


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["opt"])
def test_questions_are_answered_from_the_nearest_pictures_and_cite_them(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    make(kind, tmp_path / "vlm")
    for number in range(4):
        draw(tmp_path / "p" / f"{number}.png", number)

    def beholder(*arguments: object) -> subprocess.CompletedProcess[str]:
        order = [sys.executable, "-c", RUN, *map(str, arguments)]
        return subprocess.run(order, capture_output=True, text=True, timeout=120, check=False)

    assert beholder("index", tmp_path / "p", "--album", tmp_path / "album", "--model", tiny_model).returncode == 0
    (tmp_path / "p" / "0.png").unlink()
    question = "which pictures show a dog?"
    call = ("ask", "--album", tmp_path / "album", question, "--model", tmp_path / "vlm", "--json")
    run = beholder(*call)
    assert run.returncode == 1 and "0.png" in run.stderr and "Traceback" not in run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert {Path(row["image"]).name for row in rows} == {"1.png", "2.png", "3.png"}
    assert all({"image", "question", "answer", "match", "relied_on"} <= set(row) for row in rows)
    wrong = beholder("ask", "--album", tmp_path / "album", "a.png", question)
    assert wrong.returncode == 2 and "one question" in wrong.stderr
