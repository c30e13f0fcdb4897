"""The config of a fine-tuning of a tiny vision-language model, which takes a second."""

import json
from pathlib import Path
from typing import Any

import tiny_pairs
from beholder.training.vlm_config import VlmConfig, read_vlm_config

TRAIN = {"steps": 6, "batch": 6, "learning_rate": 1e-2, "save_every": 4, "report_every": 1}


def paint(folder: Path, count: int = 3, broken: tuple[int, ...] = ()) -> None:
    """Write pictures with two captions each, and a question about the first; the ``broken`` ones are unreadable."""
    file = tiny_pairs.paint(folder, count, broken)
    row = {"image": "pictures/0.png", "question": "what is it?", "answer": "a wall"}
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(row) + "\n")


def write_config(folder: Path, model: Path, **changed: Any) -> Path:
    """Write a config beside the pictures; sections passed by name are merged into it."""
    values: dict[str, Any] = {
        "about": "walls",
        "data": {"train": "pairs.jsonl"},
        "model": {"from_pretrained": str(model), "name": "walls"},
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        "train": TRAIN,
    }
    for section, content in changed.items():
        values[section] = {**values.get(section, {}), **content}
    path = folder / "config.json"
    path.write_text(json.dumps(values), "utf-8")
    return path


def config(folder: Path, model: Path, **changed: Any) -> VlmConfig:
    """Return such a config."""
    return read_vlm_config(write_config(folder, model, **changed))
