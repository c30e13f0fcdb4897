"""A small random CLIP with tokenizer and image processor, written by transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beholder.text.byte_characters import BYTE_TO_CHARACTER
from random_weights import enlarge

PAIRS = [("t", "h"), ("th", "e</w>"), ("d", "o"), ("do", "g</w>"), ("c", "a"), ("ca", "t</w>"), ("r", "u"), ("ru", "n")]
SENTENCES = ["the dog", "A cat runs, the dog runs!", "", "zebra? 42 the cat the dog the cat"]


def write_small_clip(folder: Path, end_id: int | None = None) -> Any:
    """Write the folder and return transformers' model; ``end_id`` overrides the end token of the config."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    letters = list(BYTE_TO_CHARACTER.values())
    pieces = [*letters, *(letter + "</w>" for letter in letters), *map("".join, PAIRS)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, PAIRS)))
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=40)
    pixels = transformers.CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    transformers.CLIPProcessor(image_processor=pixels, tokenizer=tokenizer).save_pretrained(folder)
    blocks = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "hidden_size": 32}
    text = {**blocks, "vocab_size": len(pieces), "max_position_embeddings": 40}
    text["eos_token_id"] = len(pieces) - 1 if end_id is None else end_id
    vision = {**blocks, "image_size": 48, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    model = transformers.CLIPModel(config)
    enlarge(model, seed=3).save_pretrained(folder)
    return model


def pictures() -> list[Image.Image]:
    """Return three pictures of different shapes, smooth enough to survive resizing."""
    noise = np.random.default_rng(4).integers(0, 256, (3, 9, 9, 3), np.uint8)
    sizes = ((60, 80), (200, 96), (48, 48))
    return [
        Image.fromarray(each).resize(size, Image.Resampling.BICUBIC) for each, size in zip(noise, sizes, strict=True)
    ]
