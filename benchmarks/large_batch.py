"""A batch of 4,096 pairs in little memory: a complete training run of two steps on the CPU, and its peak memory.

    python benchmarks/large_batch.py
    python benchmarks/large_batch.py --batch 256 --chunk 256     # a batch without chunks

Everything is as in ``beholder train clip``: pictures decoded from JPEG, both towers (ViT-S/32 at 224 pixels and a text
transformer of width 384), AdamW, a checkpoint. The peak is the process's own, as reported by the system.
"""

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from beholder.training.clip_config import read_clip_config
from beholder.training.train_clip import train_clip
from resident import most_resident

BLOCKS = {"width": 384, "heads": 6, "mlp_width": 1536}


def paint(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    with (folder / "pairs.jsonl").open("w") as lines:
        for number in range(count):
            coarse = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
            words = " ".join(f"word{each}" for each in random.integers(0, 500, 12))
            lines.write(json.dumps({"image": f"{number}.jpg", "captions": [f"{words} {number}"]}) + "\n")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batch", type=int, default=4096)
    options.add_argument("--chunk", type=int, default=32)
    options.add_argument("--steps", type=int, default=2)
    options.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    options.add_argument("--recompute", action="store_true")
    given = options.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        paint(folder, given.batch)
        config = {
            "data": {"train": "pairs.jsonl"},
            "model": {
                "vocabulary": 2000,
                "network": {
                    "image": {"kind": "vit", "patch_size": 32, "layers": 12, **BLOCKS},
                    "text": {"kind": "transformer", "layers": 6, **BLOCKS},
                },
            },
            "train": {
                "steps": given.steps,
                "batch": given.batch,
                "chunk": given.chunk,
                "precision": given.precision,
                "recompute": given.recompute,
                "report_every": 1,
            },
        }
        (folder / "config.json").write_text(json.dumps(config))
        began = time.monotonic()
        rows: list[dict[str, float]] = []
        train_clip(read_clip_config(folder / "config.json"), folder / "out", rows.append, device="cpu")
    peak = most_resident() / 2**30
    row = {**vars(given), "losses": [round(row["loss"], 4) for row in rows], "peak, GiB": round(peak, 2)}
    print(json.dumps({**row, "seconds": round(time.monotonic() - began)}))


if __name__ == "__main__":
    main()
