"""Drawn examples become batches for a network, pictures decoded by threads while the network computes.

Shapes: B pairs, H rows and W columns of pixels, T text tokens.
"""

import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from beholder.errors import InvalidSetting, PictureError
from beholder.pictures.read import read_picture
from beholder.pictures.transform import Preprocessing, resize_and_crop
from beholder.runtime.pipeline import map_ahead
from beholder.text.tokenizer import Tokenizer, TruncationWarning
from beholder.training.augmentation import Augmentation, augment
from beholder.training.examples import key_of, text_key
from beholder.training.samplers import BatchSampler, Sample, SamplerState
from beholder.training.shards import OnSkip

MOST_AHEAD = 512  # pictures decoded before they are asked for


@dataclass(frozen=True)
class ImageTextBatch:
    """Pictures and texts; row i of each belongs together.

    Attributes:
        pixels: uint8 (B, H, W, 3).
        ids, mask: of the texts, (B, T).
        pictures, texts: (B,), a number for each; equal ones are the same picture, or say the same.
        there: (B,), false where the picture could not be used; its pixels are black and count for nothing.
    """

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    pictures: Tensor
    texts: Tensor
    there: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device) -> "ImageTextBatch":
        """The same batch on a device."""
        return ImageTextBatch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


@dataclass(frozen=True)
class _Pair:
    pixels: np.ndarray | None  # (H, W, 3)
    text: str
    picture: int
    text_key: int


def load_batches(
    order: BatchSampler,
    state: SamplerState | None,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    tokenizer: Tokenizer,
    on_skip: OnSkip,
) -> Generator[tuple[ImageTextBatch, SamplerState], None, None]:
    """Batches without end, each with the state from which to go on behind it.

    Args:
        order: what is drawn.
        state: where to begin; None at the beginning.
        preprocessing: of the network. Random crops are resized to its size, whatever its ``fit``.
        augmentation: how pictures are changed first.
        tokenizer: of the network.
        refuse: told of each picture that can't be used, every time it is drawn.

    Raises:
        InvalidSetting: not one picture of a batch can be used.
    """
    if augmentation.smallest_crop < 1:
        preprocessing = replace(preprocessing, fit="squash")

    def prepare(draw_and_state: tuple[Sample, SamplerState | None]) -> tuple[_Pair, SamplerState | None]:
        draw, after = draw_and_state
        return _prepare(draw, preprocessing, augmentation, on_skip), after

    def drawn() -> Iterator[tuple[Sample, SamplerState | None]]:
        for draws, after in order.batches(state):
            for number, draw in enumerate(draws, start=1):
                yield draw, after if number == len(draws) else None

    pairs: list[_Pair] = []
    for pair, after in map_ahead(prepare, drawn(), MOST_AHEAD):
        pairs.append(pair)
        if after is not None:
            yield _collate(pairs, preprocessing, tokenizer), after
            pairs = []


def _prepare(draw: Sample, preprocessing: Preprocessing, augmentation: Augmentation, on_skip: OnSkip) -> _Pair:
    example = draw.example
    generator = np.random.default_rng(draw.seed)
    text = example.texts[int(generator.integers(len(example.texts)))]
    picture_key = key_of(example.picture if isinstance(example.picture, bytes) else str(example.picture))
    pixels = None
    try:
        picture = read_picture(example.picture, name=example.name, reduce_to=preprocessing.shorter_side)
        pixels = np.asarray(resize_and_crop(augment(picture, augmentation, generator), preprocessing))
    except PictureError as error:
        on_skip(example.name, error.reason)
    return _Pair(pixels, text, picture_key, text_key(text, example.label))


def _collate(pairs: list[_Pair], preprocessing: Preprocessing, tokenizer: Tokenizer) -> ImageTextBatch:
    there = [pair.pixels is not None for pair in pairs]
    if not any(there):
        raise InvalidSetting(f"not one of {len(pairs)} pictures can be used; broken.jsonl says what is wrong with each")
    pixels = torch.zeros(len(pairs), preprocessing.height, preprocessing.width, 3, dtype=torch.uint8)
    for row, pair in enumerate(pairs):
        if pair.pixels is not None:
            pixels[row] = torch.from_numpy(np.array(pair.pixels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # one for each of thousands of captions helps nobody
        tokens = tokenizer([pair.text for pair in pairs])
    return ImageTextBatch(
        pixels,
        torch.from_numpy(tokens.ids),
        torch.from_numpy(tokens.mask),
        torch.tensor([pair.picture for pair in pairs]),
        torch.tensor([pair.text_key for pair in pairs]),
        torch.tensor(there),
    )


def normalised(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (B, H, W, 3) → what ``to_pixels`` makes of the same picture, float32 (B, 3, H, W)."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (preprocessing.mean, preprocessing.std))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
