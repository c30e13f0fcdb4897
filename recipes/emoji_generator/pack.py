"""Write a trained generator as `mini` comes with it: in eight bits, with the heads of its dual encoder.

    python recipes/emoji_generator/pack.py --model runs/emoji-generator/best --out src/beholder/weights/mini_generator

The last line printed says how many bytes there are in a wheel, and how far drawings are from those of the whole model.
"""

import argparse
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from beholder.tasks.generate import ImageGenerator
from beholder.tasks.unclip_backend import UnclipBackend
from beholder.weights.mini_generator import assemble, save
from beholder.weights.native_generator import load_image_generator

MOST_MEGABYTES = 25
PROMPTS = ("a red heart", "a smiling cat", "a castle at night", "a green apple")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the trained generator")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    save(replace(load_image_generator(options.model), name="mini"), options.out)
    size = sum(len(zlib.compress(file.read_bytes())) for file in options.out.iterdir()) / 1e6  # as in a wheel
    if size > MOST_MEGABYTES:
        raise SystemExit(f"{size:.1f} MB are more than {MOST_MEGABYTES}")
    whole = ImageGenerator.from_pretrained(options.model, device="cpu")
    packed = ImageGenerator(UnclipBackend(assemble(options.out), "cpu"))
    distances = []
    for prompt in PROMPTS:
        left, right = (np.asarray(each.generate(prompt, seed=1)[0]).astype(float) for each in (whole, packed))
        distances.append(np.abs(left - right).mean())
    print(f"{size:.1f} MB; a pixel differs by {np.mean(distances):.2f} of 255 in the mean")


if __name__ == "__main__":
    main()
