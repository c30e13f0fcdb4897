"""The sides that `bench.py` compares: one random CLIP ViT-B/32 in the format of every library, and the inputs.

All sides have the same weights, so their vectors can be compared.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from decoding import made_picture

START, END = "<|startoftext|>", "<|endoftext|>"
SIDE = 224
# Human captions of photographs have about ten words; these have the same distribution of lengths.
WORDS = (
    "a man in a red jacket rides his bicycle down the hill while two children and their small brown dog watch from the "
    "porch of an old wooden house near the lake at sunset with snow on the mountains behind it and birds in the sky"
)


def make_models(folder: Path) -> None:
    """Write a random CLIP ViT-B/32 with CLIP's vocabulary, in the formats of transformers and open_clip."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from beholder.weights.export import export
    from beholder.weights.load import load_dual_encoder

    torch.manual_seed(0)
    theirs = folder / "transformers"
    CLIPModel(CLIPConfig()).save_pretrained(theirs)
    CLIPImageProcessorPil().save_pretrained(theirs)
    package = Path(str(find_spec("open_clip").origin)).parent  # type: ignore[union-attr]
    with gzip.open(package / "bpe_simple_vocab_16e6.txt.gz", "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters += [256 + place for place in range(256 - len(letters))]
    pieces = [chr(letter) for letter in letters]
    pieces += [piece + "</w>" for piece in pieces] + ["".join(pair.split()) for pair in merges] + [START, END]
    (theirs / "vocab.json").write_text(json.dumps({piece: place for place, piece in enumerate(pieces)}), "utf-8")
    (theirs / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), "utf-8")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": END}
    (theirs / "tokenizer_config.json").write_text(json.dumps(config))
    export(load_dual_encoder(theirs), "open_clip", folder / "open_clip")


def sentences(count: int) -> list[str]:
    """Return sentences of 3 to 22 words, half of them with at most 11."""
    random = np.random.default_rng(0)
    lengths = np.clip(np.rint(random.lognormal(np.log(11), 0.4, count)), 3, 22).astype(int)
    return [" ".join(random.choice(WORDS.split(), length)) for length in lengths]


def pictures(folder: Path, count: int, width: int, height: int) -> list[str]:
    """Write JPEG files of the given size, with three different contents in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [made_picture(seed, width, height) for seed in range(min(3, count))]
    paths = [folder / f"{width}x{height}-{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(made[number % len(made)])
    return [str(path) for path in paths]


def pixels(count: int) -> np.ndarray:
    """Return synthetic preprocessed pixels (count, 3, 224, 224)."""
    from beholder.pictures.transform import Preprocessing, to_pixels

    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    preprocessing = Preprocessing(SIDE, SIDE, resize=SIDE, mean=mean, std=std)
    return np.stack(
        [to_pixels(Image.open(BytesIO(made_picture(seed, 300, 260))), preprocessing) for seed in range(count)]
    )


class Transformers:
    """transformers' CLIPModel with its processor, used as documented."""

    name = "transformers"

    def __init__(self, folder: str | Path, dtype: str = "float32"):
        import torch
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizerFast

        folder = Path(folder)
        self.torch, self.dtype = torch, getattr(torch, dtype)
        self.model = CLIPModel.from_pretrained(folder / "transformers", dtype=self.dtype).eval()
        self.processor = CLIPImageProcessorPil.from_pretrained(folder / "transformers")
        self.tokenizer = CLIPTokenizerFast.from_pretrained(folder / "transformers")

    def embed_pixels(self, batch: np.ndarray) -> np.ndarray:
        with self.torch.inference_mode():
            found = self.model.get_image_features(self.torch.from_numpy(batch).to(self.dtype))
        return unit(found)

    def embed_files(self, paths: list[str]) -> np.ndarray:
        opened = [Image.open(path) for path in paths]
        return self.embed_pixels(self.processor(images=opened, return_tensors="np")["pixel_values"])

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        """Pad to 77 tokens, as CLIP was trained and as the library's pipelines do for CLIP."""
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        with self.torch.inference_mode():
            return unit(self.model.get_text_features(**tokens))


class SentenceTransformers:
    """sentence-transformers on the same folder."""

    name = "sentence-transformers"

    def __init__(self, folder: Path):
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer

        self.model = SentenceTransformer(modules=[Transformer(str(folder / "transformers"))], device="cpu")

    def embed_files(self, paths: list[str]) -> np.ndarray:
        return unit(self.model.encode([Image.open(path) for path in paths], batch_size=len(paths)))

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return unit(self.model.encode(texts))


class OpenClip:
    """open_clip, in a process of its own: it imports torchvision, which `open_clip_side.py` replaces."""

    name = "open_clip"

    def __init__(self, folder: Path, one_core: bool = False):
        script, clock = Path(__file__).parent / "open_clip_side.py", "processor" if one_core else "wall"
        order = [sys.executable, str(script), str(folder / "open_clip"), clock]
        self.process = subprocess.Popen(order, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.folder, self.seconds = folder, 0.0

    def embed_pixels(self, batch: np.ndarray) -> np.ndarray:
        np.save(self.folder / "asked.npy", batch)
        return self._ask({"pixels": str(self.folder / "asked.npy")})

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return self._ask({"texts": texts})

    def _ask(self, question: dict[str, Any]) -> np.ndarray:
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("open_clip's process has no pipes")
        target = self.folder / "answered.npy"
        self.process.stdin.write(json.dumps({**question, "answer": str(target)}) + "\n")
        self.process.stdin.flush()
        self.seconds += float(self.process.stdout.readline())  # excluding the transfer through files
        return np.load(target)


class Beholder:
    """Beholder at one precision."""

    def __init__(self, name: str | Path, precision: str = "exact"):
        from beholder import DualEncoder

        self.encoder = DualEncoder.from_pretrained(name, device="cpu", precision=precision)  # type: ignore[arg-type]
        self.name = f"beholder {precision}"

    def embed_pixels(self, batch: np.ndarray) -> np.ndarray:
        return self.encoder.towers.embed_image(batch)

    def embed_files(self, paths: list[str]) -> np.ndarray:
        return self.encoder.embed_images(paths)

    def embed_texts(self, texts: list[str]) -> np.ndarray:
        return self.encoder.embed_texts(texts)


def unit(found: Any) -> np.ndarray:
    """Normalize a library's output to (n, E) float32 at unit length."""
    found = getattr(found, "pooler_output", found)
    vectors = np.asarray(found if isinstance(found, np.ndarray) else found.float().numpy())
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def in_batches(embed: Callable[[Any], np.ndarray], items: Any, size: int) -> Callable[[], np.ndarray]:
    """Return a call that embeds all items in batches."""
    return lambda: np.concatenate([embed(items[start : start + size]) for start in range(0, len(items), size)])
