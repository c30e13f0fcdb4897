"""Run every example of the README and the guide with the default model, as a reader would."""

import json
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import serving
from beholder import DualEncoder, VisionLanguageModel
from beholder.weights.cache import cache_folder
from command import beholder_in_its_own_process
from examples import GUIDE, READMES, ROOT, python, run_commands
from parity.small_clip import write_small_clip
from serving import Running
from tiny_pairs import paint

pytestmark = [pytest.mark.mini, pytest.mark.slow]

NOT_RUN = {
    "beholder serve": "runs until it is stopped; tests/server starts it",
    "beholder chat": "waits for a person; tests/cli talks to it",
    "beholder train clip recipes/clip/lora.json": "begins with a model of the hub",
    "beholder train vlm recipes/vlm/smolvlm.json": "begins with a model of the hub; tests/training trains such models",
    "beholder caption photos/ --out captions.jsonl --model http://127.0.0.1:11434": "needs such a server",
    "beholder caption photos/ --model smolvlm": "a model of the hub; tests/tasks makes such models",
    "beholder caption shop/ --model smolvlm": "a model of the hub; tests/tasks makes such models",
    "beholder caption training/ --model smolvlm": "a model of the hub; tests/tasks makes such models",
    "beholder train bridge recipes/bridge/own.json": "takes an hour; tests/training runs such a config small",
}
GARMENTS = {"cat": "animals", "duck": "animals", "horses": "animals", "bridge": "buildings", "windmill": "buildings"}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with all files that the examples refer to."""
    monkeypatch.setenv("BEHOLDER_CACHE", str(cache_folder()))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BEHOLDER_ALBUM", str(tmp_path / "home" / "album"))
    photographs = ROOT / "demo" / "photographs"
    shutil.copytree(photographs, tmp_path / "demo" / "photographs")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    heads = tmp_path / "recipes" / "clip" / "heads.json"
    settings = json.loads(heads.read_text())
    settings["train"]["epochs"] = 1  # more epochs would take minutes and test nothing else
    heads.write_text(json.dumps(settings))
    for folder in ("photos", "goods", "home/Pictures"):
        (tmp_path / folder).mkdir(parents=True)
        for name in ("cat", "bridge", "coffee", "duck", "horses", "raccoon"):
            shutil.copy(photographs / f"{name}.jpg", tmp_path / folder)
    shutil.copy(photographs / "coffee.jpg", tmp_path / "photo.jpg")
    for folder in ("garments", "garments-test"):
        for name, label in GARMENTS.items():
            (tmp_path / folder / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(photographs / f"{name}.jpg", tmp_path / folder / label)
    (tmp_path / "garments.txt").write_text("a coat\na shirt\n")
    (tmp_path / "categories.txt").write_text("food\nanimal\nbuilding\n")
    (tmp_path / "key.txt").write_text("a-long-key-of-one's-own\n")
    paint(tmp_path / "my-pictures", count=130).rename(tmp_path / "my-pictures" / "pairs.jsonl")
    rows = [{"image": f"photos/{name}.jpg", "captions": [f"a {name}", "a picture"]} for name in ("cat", "duck")]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions = [{"image": "photos/cat.jpg", "question": "is it a cat?", "answers": ["yes"] * 10}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (tmp_path / "shards").mkdir()
    for shard, names in (("000", ("cat", "duck")), ("001", ("bridge", "horses"))):
        with tarfile.open(tmp_path / "shards" / f"{shard}.tar", "w") as archive:
            for name in names:
                (tmp_path / f"{name}.txt").write_text(f"a {name}\n")
                archive.add(photographs / f"{name}.jpg", f"{name}.jpg")
                archive.add(tmp_path / f"{name}.txt", f"{name}.txt")
    write_small_clip(tmp_path / "my-clip")
    write_small_clip(tmp_path / "my-checkpoint")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """The server for the examples that use the OpenAI client."""
    with serving.running(
        {"mini": DualEncoder.from_pretrained("mini")},
        {"mini": VisionLanguageModel.from_pretrained("mini")},
        generators={"mini": serving.generator()},
    ) as running:
        yield running


TOUR = ROOT / "docs" / "tour.md"  # its figures are what its code shows, so that building the guide runs it


@pytest.mark.parametrize("page", [page for page in (READMES[0], *GUIDE) if page != TOUR], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run(page: Path, workspace: Path, server: Running) -> None:
    program = "\n".join(python(page))
    for port in ("8000", "9000"):
        program = program.replace(f"http://127.0.0.1:{port}", server.base)
    if program:  # in a separate process, as a reader would run it
        (workspace / "example.py").write_text(program)
        ran = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True)
        assert ran.returncode == 0, f"{ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    for line in run_commands(page):
        if line.startswith("beholder ") and not line.startswith(tuple(NOT_RUN)):
            ran = beholder_in_its_own_process(*shlex.split(line)[1:])
            assert ran.returncode == 0, f"{line}\n{ran.stdout}\n{ran.stderr}"


def test_every_excluded_command_is_in_the_documentation() -> None:
    documented = [line for page in (READMES[0], *GUIDE) for line in run_commands(page)]
    assert all(any(line.startswith(command) for line in documented) for command in NOT_RUN)
