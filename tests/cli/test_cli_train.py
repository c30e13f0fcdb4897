"""``beholder train vlm``: it checks, trains, and reports on one line each."""

import json
from pathlib import Path

import pytest

import tiny_vlm
from command import beholder
from tiny_image_text_to_text import FAMILIES


@pytest.mark.slow
def test_train_vlm_checks_and_trains(tmp_path: Path) -> None:
    tiny_vlm.paint(tmp_path)
    (tmp_path / "model").mkdir()
    FAMILIES["smolvlm"](tmp_path / "model")
    config = tiny_vlm.write_config(tmp_path, tmp_path / "model", train={"steps": 2, "recompute": True})
    run = beholder("train", "vlm", config, "--check", "--json")
    assert run.returncode == 0 and json.loads(run.stdout)["captions"] == 6, run.stderr
    run = beholder("train", "vlm", config, "--out", tmp_path / "out", "--device", "cpu", "--json")
    assert run.returncode == 0 and [json.loads(line)["step"] for line in run.stdout.splitlines()] == [1, 2], run.stderr
    assert run.stderr == ""
    run = beholder("train", "vlm", config, "--out", tmp_path / "out", "--device", "cpu")
    assert run.returncode == 0 and "VisionLanguageModel.from_pretrained opens it" in run.stdout, run.stderr
    run = beholder("caption", tmp_path / "pictures" / "0.png", "--model", tmp_path / "out" / "model", "--json")
    assert run.returncode == 0 and isinstance(json.loads(run.stdout)["caption"], str), run.stderr
