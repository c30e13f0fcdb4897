"""The data of an image generator's training: small pictures and the embeddings of pictures and captions, computed once.

Shapes: n pictures, m captions, S side of a picture, E the shared space.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from beholder import files
from beholder.errors import InvalidSetting, PictureError
from beholder.pictures.read import read_picture
from beholder.tasks.dual_encoder import DualEncoder
from beholder.training.examples import Example
from beholder.training.metrics_logger import Row

PIECE = 500  # pictures whose embeddings are in one file


@dataclass(frozen=True)
class GeneratorData:
    """What the training needs of its examples.

    Attributes:
        pixels: uint8 (n, S, S, 3).
        images: float32 (n, E), the pictures' embeddings.
        sentences: float32 (m, E), the captions' embeddings.
        captions: the rows of ``sentences`` that belong to each picture.
    """

    pixels: np.ndarray
    images: np.ndarray
    sentences: np.ndarray
    captions: Sequence[np.ndarray]

    def __len__(self) -> int:
        return len(self.pixels)


def fit_square(picture: Image.Image, size: int) -> Image.Image:
    """Scale a picture into a square of this side, on white."""
    width, height = picture.size
    scale = size / max(width, height)
    small = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (size, size), "white")
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return square


def prepare_data(
    examples: Sequence[Example],
    encoder: DualEncoder,
    size: int,
    folder: Path,
    on_skip: Callable[[str, str], None],
    report: Callable[[Row], None],
) -> GeneratorData:
    """Read and embed all pictures and captions; what a folder holds of them already is not computed again.

    Args:
        examples: pictures with captions.
        encoder: computes the embeddings.
        size: S.
        folder: for the embeddings.
        on_skip: called with the name of each picture that can't be used, and the reason.
        report: called with the progress.

    Raises:
        InvalidSetting: no picture can be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.remove_unfinished(folder)
    fingerprint = encoder.fingerprint
    kept: list[Example] = []
    pieces: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, len(examples), PIECE):
        piece = examples[start : start + PIECE]
        pixels, embeddings, used = _embed_piece(piece, encoder, fingerprint, size, folder, on_skip)
        pieces.append((pixels, embeddings))
        kept += [piece[row] for row in used]
        report({"pictures_looked_at": start + len(piece), "pictures": len(examples)})
    if not kept:
        raise InvalidSetting("data.train: none of its pictures can be used; broken.jsonl lists the reasons")
    texts = list(dict.fromkeys(text for example in kept for text in example.texts))
    rows = {text: row for row, text in enumerate(texts)}
    return GeneratorData(
        np.concatenate([pixels for pixels, _ in pieces]),
        np.concatenate([embeddings for _, embeddings in pieces]),
        _embed_texts(texts, encoder, fingerprint, folder),
        [np.array([rows[text] for text in example.texts]) for example in kept],
    )


def _embed_piece(
    examples: Sequence[Example],
    encoder: DualEncoder,
    fingerprint: str,
    size: int,
    folder: Path,
    on_skip: Callable[[str, str], None],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels, embeddings, and the rows of the examples that could be used."""
    stamps = [
        f"{example.picture!s} {Path(str(example.picture)).stat().st_mtime_ns}"
        for example in examples
        if _exists(example)
    ]
    key = _key(fingerprint, str(size), *stamps)
    file = folder / f"{key}.npz"
    if not file.exists():
        pictures: list[Image.Image] = []
        used: list[int] = []
        for row, example in enumerate(examples):
            try:
                pictures.append(read_picture(example.picture, name=example.name))
            except PictureError as error:
                on_skip(example.name, error.reason)
                continue
            used.append(row)
        pixels = np.zeros((len(used), size, size, 3), np.uint8)
        for place, picture in enumerate(pictures):
            pixels[place] = np.asarray(fit_square(picture, size))
        with files.atomic_file(file, durable=False) as scratch:
            np.savez(scratch, pixels=pixels, embeddings=encoder.embed_images(pictures), used=np.array(used, np.int64))
    with np.load(file) as saved:
        return saved["pixels"], saved["embeddings"], saved["used"]


def _embed_texts(texts: Sequence[str], encoder: DualEncoder, fingerprint: str, folder: Path) -> np.ndarray:
    """Return the texts' embeddings (m, E)."""
    key = _key(fingerprint, *texts)
    file = folder / f"{key}.npy"
    if not file.exists():
        with files.atomic_file(file, durable=False) as scratch:
            np.save(scratch, encoder.embed_texts(texts))
    return np.load(file)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _exists(example: Example) -> bool:
    return isinstance(example.picture, Path) and example.picture.exists()
