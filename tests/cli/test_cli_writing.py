"""caption, ask and chat on the command line, with a small random BLIP-2."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import command
from tiny_blip2 import make

RUN = "from beholder.cli.main import run; run()"


@pytest.fixture(scope="module")
def vision_language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip2")
    make("opt", folder)
    return folder


def beholder(*arguments: str | Path, model: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return command.beholder(*arguments, "--model", model, stdin=stdin)


def test_each_picture_in_a_folder_gets_a_caption(vision_language_model: Path, photographs: list[Path]) -> None:
    run = beholder("caption", photographs[0].parent, "--json", model=vision_language_model)
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["image"] for row in rows] == list(map(str, photographs))
    assert all(set(row) == {"image", "caption"} and row["caption"] for row in rows)
    plain = beholder("caption", photographs[0].parent, model=vision_language_model)
    assert plain.stdout.splitlines() == [f"{row['image']}: {row['caption']}" for row in rows]


def test_a_broken_picture_is_reported_and_the_rest_is_captioned(
    vision_language_model: Path, photographs: list[Path]
) -> None:
    photographs[1].write_bytes(b"no picture")
    run = beholder("caption", photographs[0].parent, "--json", model=vision_language_model)
    assert run.returncode == 1
    assert str(photographs[1]) in run.stderr and "Traceback" not in run.stderr
    assert len(run.stdout.splitlines()) == len(photographs) - 1


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_an_existing_caption_file_is_continued(
    vision_language_model: Path, photographs: list[Path], tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"captions{suffix}"
    first = beholder("caption", photographs[0], photographs[1], "--out", out, model=vision_language_model)
    assert first.returncode == 0, first.stderr
    before = out.read_text()
    run = beholder(
        "caption", photographs[0].parent, "--out", out, "--prompt", "a photo of", model=vision_language_model
    )
    assert run.returncode == 0, run.stderr
    assert "2 of 4 pictures have a caption already" in run.stderr
    text = out.read_text()
    assert text.startswith(before)
    rows = (
        [json.loads(line) for line in text.splitlines()]
        if suffix == ".jsonl"
        else list(csv.DictReader(text.splitlines()))
    )
    assert [row["image"] for row in rows] == list(map(str, photographs))


def test_captions_are_written_to_the_metadata_once(vision_language_model: Path, photographs: list[Path]) -> None:
    from beholder.pictures.caption_metadata import read_caption, write_caption

    write_caption(photographs[2], "by hand")
    run = beholder("caption", photographs[0].parent, "--xmp", "--json", model=vision_language_model)
    assert run.returncode == 0, run.stderr
    written = {row["image"]: row["caption"] for row in map(json.loads, run.stdout.splitlines())}
    assert str(photographs[2]) not in written and len(written) == 3
    for path in photographs:
        assert read_caption(path) == written.get(str(path), "by hand")
    again = beholder("caption", photographs[0].parent, "--xmp", "--overwrite", "--json", model=vision_language_model)
    assert len(again.stdout.splitlines()) == 4 and read_caption(photographs[2]) != "by hand"


def test_attention_maps_are_plotted(vision_language_model: Path, photographs: list[Path], tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "map.png"
    run = beholder("caption", photographs[0], "--attention", out, model=vision_language_model)
    assert run.returncode == 0, run.stderr
    assert Image.open(out).width > 300
    run = beholder("caption", photographs[0], photographs[1], "--attention", out, model=vision_language_model)
    assert run.returncode == 2 and "takes one picture, not 2" in run.stderr


def test_similarity_is_reranked_by_the_matching_head(
    tiny_model: Path, photographs: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    from beholder import VisionLanguageModel

    folder = tmp_path_factory.mktemp("retrieval")
    make("retrieval", folder)
    texts = ["a dog", "two cats", "the snow"]
    order = ["similarity", photographs[0], *(f"--text={text}" for text in texts), "--rerank", "--rerank-model", folder]
    run = beholder(*order, "--json", model=tiny_model)
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    expected = dict(zip(texts, VisionLanguageModel.from_pretrained(folder).match(photographs[0], texts), strict=True))
    assert [row["text"] for row in rows] == sorted(texts, key=lambda text: -expected[text])
    for row in rows:
        assert row["match"] == pytest.approx(float(expected[row["text"]]), abs=1e-4)


def test_ask_prints_an_answer_with_confidence(vision_language_model: Path, photographs: list[Path]) -> None:
    run = beholder("ask", photographs[0], "how many dogs are there?", "--json", model=vision_language_model)
    assert run.returncode == 0, run.stderr
    row = json.loads(run.stdout)
    assert set(row) == {"image", "question", "answer", "confidence"}
    run = beholder(
        "ask", photographs[0], "what is it?", "-c", "dog", "-c", "cat", "--json", model=vision_language_model
    )
    row = json.loads(run.stdout)
    assert row["answer"] == row["choices"][0]["answer"] and {c["answer"] for c in row["choices"]} == {"dog", "cat"}


def test_ask_answers_with_so_many_tokens(vision_language_model: Path, photographs: list[Path]) -> None:
    from beholder import VisionLanguageModel

    model = VisionLanguageModel.from_pretrained(vision_language_model)
    expected = {length: model.ask(photographs[0], "what is it?", max_new_tokens=length).text for length in (1, 10, 20)}
    assert len(set(expected.values())) == 3, "else the test would show nothing"
    for length, answer in expected.items():
        given = [] if length == 10 else ["--max-new-tokens", length]
        run = beholder("ask", photographs[0], "what is it?", "--json", *given, model=vision_language_model)
        assert json.loads(run.stdout)["answer"] == answer


def test_chat_answers_line_by_line(vision_language_model: Path, photographs: list[Path]) -> None:
    run = beholder(
        "chat", photographs[0], "--json", model=vision_language_model, stdin="what is this ?\n\nhow many ?\n"
    )
    assert run.returncode == 0, run.stderr
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["question"] for row in rows] == ["what is this ?", "how many ?"]
    run = beholder("chat", photographs[0], model=vision_language_model, stdin="more\nwhat ?\n")
    assert "no unfinished answer" in run.stderr and run.returncode == 0 and run.stdout


@pytest.mark.parametrize(
    ("order", "code", "message"),
    [
        (["caption", "nothing.jpg"], 1, "nothing.jpg"),
        (["caption", "EMPTY"], 2, "no pictures in this folder"),
        (["caption", "PICTURE", "--prompt", "dog " * 70], 2, "Shorten it"),
        (["caption", "PICTURE", "--out", "captions.txt"], 2, "captions.txt"),
        (["caption", "PICTURE", "--candidates", "3"], 2, "no matching head"),
        (["caption", "PICTURE", "--top-p", "2"], 2, "not between 0 and 1"),
        (["ask", "nothing.jpg", "what?"], 1, "nothing.jpg"),
        (["ask", "PICTURE", " "], 2, "the question is empty"),
        (["ask", "PICTURE", "what?", "-c", "dog", "--max-new-tokens", "3"], 2, "--max-new-tokens does not go with it"),
        (["chat", "nothing.jpg"], 1, "nothing.jpg"),
    ],
    ids=str,
)
def test_invalid_calls_exit_with_a_message(
    order: list[str], code: int, message: str, vision_language_model: Path, photographs: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"PICTURE": str(photographs[0]), "EMPTY": str(tmp_path / "empty")}
    run = beholder(*[places.get(word, word) for word in order], model=vision_language_model)
    assert run.returncode == code, run.stderr
    assert message in run.stderr and "Traceback" not in run.stderr


def test_an_unknown_model_exits_with_2(photographs: list[Path], tmp_path: Path) -> None:
    run = beholder("caption", photographs[0], model=tmp_path / "nowhere")
    assert run.returncode == 2 and "no such folder" in run.stderr


@pytest.mark.slow
def test_a_full_disk_keeps_the_captions_written_so_far(
    vision_language_model: Path, photographs: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "captions.jsonl"
    order = [sys.executable, "-c", RUN, "caption", str(photographs[0].parent), "--out", str(out), "--batch-size", "1"]
    order += ["--model", str(vision_language_model)]
    whole = subprocess.run(order, capture_output=True, text=True, timeout=120, check=True)
    assert "4 captions added" in whole.stdout
    lines = out.read_text().splitlines(keepends=True)
    out.unlink()
    most = len("".join(lines[:2]).encode()) + 10
    order[2] = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most})); {RUN}"
    run = subprocess.run(order, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 2 and "Traceback" not in run.stderr
    assert f"{out}: File too large; the 2 captions written before are there" in run.stderr
    assert out.read_text() == "".join(lines[:2])


@pytest.mark.slow
def test_captions_survive_ctrl_c_and_the_same_command_resumes(
    vision_language_model: Path, photographs: list[Path], tmp_path: Path
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(300):
        (many / f"{number:03}.png").write_bytes(photographs[0].read_bytes())
    out = tmp_path / "captions.jsonl"
    order = [sys.executable, "-c", RUN, "caption", str(many), "--out", str(out), "--model", str(vision_language_model)]
    running = subprocess.Popen(order, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (out.exists() and out.read_text().count("\n") >= 8):
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=300)
    assert running.returncode == 130 and "Traceback" not in stderr
    half = out.read_text().splitlines()
    assert 8 <= len(half) < 300
    again = subprocess.run(order, capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 0, again.stderr
    rows = [json.loads(line)["image"] for line in out.read_text().splitlines()]
    assert len(rows) == 300 == len(set(rows))


@pytest.mark.slow
def test_a_compiled_model_writes_the_same_captions(
    vision_language_model: Path, photographs: list[Path], tmp_path: Path
) -> None:
    cache = {**os.environ, "BEHOLDER_CACHE": str(tmp_path / "cache")}

    def run(*arguments: str | Path) -> list[dict[str, str]]:
        order = [sys.executable, "-c", RUN, *map(str, arguments), "--json"]
        done = subprocess.run(order, capture_output=True, text=True, timeout=120, check=False, env=cache)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    before = run("caption", photographs[0].parent, "--model", vision_language_model)
    pulled = run("pull", vision_language_model, "--compile", "--precision", "fast")
    assert [Path(row["path"]) == vision_language_model for row in pulled] == [True, False]
    assert (Path(pulled[1]["path"]) / "language.xml").is_file()
    assert run("caption", photographs[0].parent, "--model", vision_language_model) == before
    assert len(run("caption", photographs[0].parent, "--model", vision_language_model, "--precision", "fast")) == len(
        before
    )
    answer = run("ask", photographs[0], "what is it?", "--model", vision_language_model, "--precision", "fastest")
    assert answer[0]["answer"]


def test_an_unknown_precision_is_refused(vision_language_model: Path, photographs: list[Path]) -> None:
    run = beholder("caption", photographs[0], "--precision", "quick", model=vision_language_model)
    assert run.returncode == 2 and "fastest" in run.stderr and "Traceback" not in run.stderr
