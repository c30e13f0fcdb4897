"""Colored pictures with captions, and the config of a training run that takes a second."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beholder.training.clip_config import ClipConfig, read_clip_config

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 200, 30),
    "blue": (30, 30, 220),
    "yellow": (220, 220, 30),
    "black": (10, 10, 10),
    "white": (240, 240, 240),
}
BLOCKS = {"width": 16, "layers": 2, "heads": 2, "mlp_width": 32}
NETWORK = {
    "image": {"kind": "vit", "image_height": 16, "image_width": 16, "patch_size": 8, **BLOCKS},
    "text": {"kind": "transformer", "context_length": 16, **BLOCKS},
    "embedding": 8,
}
TRAIN = {"steps": 12, "batch": 8, "learning_rate": 3e-3, "save_every": 5, "report_every": 1}


def paint(folder: Path, count: int = 24, broken: tuple[int, ...] = ()) -> Path:
    """Write ``count`` pictures and a JSON lines file with two captions each; the ``broken`` ones are unreadable."""
    random = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        colour = list(COLOURS)[number % len(COLOURS)]
        pixels = np.clip(np.array(COLOURS[colour]) + random.normal(0, 20, (20, 24, 3)), 0, 255).astype(np.uint8)
        pixels[:, :6] = random.integers(0, 256, 3)
        path = folder / "pictures" / f"{number}.png"
        Image.fromarray(pixels).save(path)
        if number in broken:
            path.write_bytes(b"no picture")
        rows.append(
            {"image": f"pictures/{number}.png", "captions": [f"a {colour} wall {number}", f"{colour} {number}"]}
        )
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return file


def write_shard(path: Path, files: dict[str, bytes]) -> None:
    """Write a webdataset shard."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def values(**changed: Any) -> dict[str, Any]:
    """Return the values of a config; sections passed by name are merged into it."""
    config: dict[str, Any] = {
        "about": "colours",
        "data": {"train": "pairs.jsonl"},
        "model": {"network": NETWORK, "vocabulary": 600},
        "train": TRAIN,
    }
    for section, content in changed.items():
        config[section] = {**config.get(section, {}), **content} if isinstance(content, dict) else content
    return config


def write_config(folder: Path, **changed: Any) -> Path:
    """Write ``values`` to a file beside the pictures."""
    path = folder / "config.json"
    path.write_text(json.dumps(values(**changed)), "utf-8")
    return path


def config(folder: Path, **changed: Any) -> ClipConfig:
    """Return ``values`` as a config."""
    return read_clip_config(write_config(folder, **changed))
