"""Memory over time of a process that embeds 100,000 pictures in one `stream_images`.

    python benchmarks/steady_memory.py [--pictures 100000] [--model mini]

The pictures are JPEGs of 120 × 90 pixels in memory, eight of them in turn; unless another model is named, it is a small
random vision transformer, so that decoding and batching dominate.
"""

import argparse
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models

from beholder import DualEncoder
from beholder.models.dual_encoder import TwoTowers, TwoTowersSettings
from beholder.models.text_tower import TextTransformerSettings
from beholder.models.vit import VisionSettings
from beholder.pictures.transform import Preprocessing
from beholder.text import tokenizer
from beholder.weights.loaded import LoadedDualEncoder
from beholder.weights.native import save_dual_encoder

BLOCKS = {"width": 64, "layers": 2, "heads": 2, "mlp_width": 128}


def small_model(folder: Path) -> Path:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "d": 3}, unk_token="a"))
    vision = VisionSettings(image_height=32, image_width=32, patch_size=16, **BLOCKS)
    text = TextTransformerSettings(vocabulary=4, context_length=8, end_id=3, pooling="end", **BLOCKS)
    network = TwoTowers(TwoTowersSettings(vision, text, 64)).eval()
    settings = tokenizer.TokenizerSettings(8, end_id=3, start_id=2)
    loaded = LoadedDualEncoder(network, Preprocessing(32, 32), tokenizer.Tokenizer(words, settings), name="small")
    save_dual_encoder(loaded, folder)
    return folder


def held() -> float:
    """Return the resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def pictures(count: int) -> Iterator[bytes]:
    random = np.random.default_rng(0)
    made = []
    for _ in range(8):
        file = BytesIO()
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((120, 90), Image.Resampling.BICUBIC).save(file, "JPEG")
        made.append(file.getvalue())
    for number in range(count):
        yield made[number % len(made)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pictures", type=int, default=100_000)
    options.add_argument("--model")
    given = options.parse_args()
    with TemporaryDirectory() as folder:
        name = given.model or small_model(Path(folder) / "small")
        encoder = DualEncoder.compile(name)
        for number, _ in enumerate(encoder.stream_images(pictures(given.pictures)), start=1):
            if number % (given.pictures // 10) == 0:
                print(json.dumps({"pictures": number, "MiB": round(held(), 1)}), flush=True)


if __name__ == "__main__":
    main()
