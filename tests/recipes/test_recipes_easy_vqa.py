"""The easy-VQA recipe from the wheel's files to answers, with few drawings and steps."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from beholder import VisionLanguageModel
from beholder.training.bridge_config import read_bridge_config
from beholder.training.clip_config import read_clip_config
from beholder.training.train_bridge import train_bridge
from beholder.training.train_clip import train_clip

RECIPES = Path(__file__).parent.parent.parent / "recipes"
COLOURS, SHAPES = ("red", "blue"), ("circle", "rectangle")


def draw(folder: Path, count: int) -> None:
    """Write a split in the wheel's format; the questions about the last drawing reveal only its shape."""
    (folder / "images").mkdir(parents=True)
    questions = []
    for number in range(count):
        colour, shape = COLOURS[number % 2], SHAPES[number // 2 % 2]
        picture = Image.new("RGB", (64, 64), "white")
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if shape == "circle" else pen.rectangle)((12, 20, 44, 52), fill=colour)
        picture.save(folder / "images" / f"{number}.png")
        questions.append(["what shape is in the image?", shape, number])
        questions.append(["is there a teal shape?", "no", number])
        if number < count - 1:
            questions.append([f"what color is the {shape}?", colour, number])
    (folder / "questions.json").write_text(json.dumps(questions))


def run(script: str, *arguments: str) -> str:
    order = [sys.executable, str(RECIPES / script), *arguments]
    done = subprocess.run(order, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_steps(config: Path, folder: Path, **changed: dict[str, Any]) -> Path:
    values = json.loads(config.read_text("utf-8"))
    for section, content in changed.items():
        values[section] |= content
    path = folder / config.name
    path.write_text(json.dumps(values))
    return path


@pytest.mark.slow
@pytest.mark.mini
def test_the_recipe_runs_with_few_drawings_and_steps(tmp_path: Path) -> None:
    wheel, folder = tmp_path / "wheel", tmp_path / "run"
    for split, count in (("train", 8), ("test", 2)):
        draw(wheel / "easy_vqa" / "data" / split, count)
    assert "8 drawings, 23 questions; to test, 2 drawings, 5 questions" in run(
        "easy_vqa/prepare_data.py", str(wheel), "--out", str(folder)
    )
    captions = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    assert [row["captions"][0] for row in captions[:4]] == [
        "a red circle",
        "a blue circle",
        "a red rectangle",
        "a blue rectangle",
    ]
    assert len(captions) == 7, "a drawing whose colour is not known has no caption"
    assert "weights" in run(
        "easy_vqa/train_language_model.py", str(folder), "--out", str(folder / "words"), "--steps", "2"
    )

    tower = with_steps(RECIPES / "easy_vqa" / "tower.json", folder, train={"steps": 2, "batch": 4})
    train_clip(read_clip_config(tower), folder / "tower", device="cpu")
    small = {"steps": 2, "batch": 4}
    bridge = with_steps(RECIPES / "easy_vqa" / "bridge.json", folder, stage_1=small, stage_2=small)
    trained = train_bridge(read_bridge_config(bridge), folder / "bridge", device="cpu")
    answer = VisionLanguageModel.from_pretrained(trained).answer(
        folder / "test" / "0.png", "what shape is in the image?"
    )
    assert isinstance(answer, str)
