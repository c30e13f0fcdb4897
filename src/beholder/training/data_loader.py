"""From samples to batches: threads decode and augment images while the network computes.

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
from beholder.training.examples import Example, key_of, text_key
from beholder.training.samplers import BatchSampler, Sample, SamplerState
from beholder.training.shards import OnSkip

PREFETCH = 512  # decoded images


@dataclass(frozen=True)
class ImageTextBatch:
    """Images and texts; row i of each belongs together.

    Attributes:
        pixels: uint8 (B, H, W, 3).
        ids, mask: of the texts, (B, T).
        image_keys, text_keys: (B,), equal for the same image and for texts that say the same.
        valid: (B,), false where the image could not be read; its pixels are black and do not count.
    """

    pixels: Tensor
    ids: Tensor
    mask: Tensor
    image_keys: Tensor
    text_keys: Tensor
    valid: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def to(self, device: torch.device) -> "ImageTextBatch":
        """Return the batch on a device."""
        return ImageTextBatch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def split(self, size: int) -> list["ImageTextBatch"]:
        """Split the batch into micro-batches of at most ``size`` pairs."""
        parts = [getattr(self, field.name).split(size) for field in fields(self)]
        return [ImageTextBatch(*part) for part in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _Pair:
    pixels: np.ndarray | None  # (H, W, 3)
    text: str
    image_key: int
    text_key: int


def load_batches(
    sampler: BatchSampler,
    state: SamplerState | None,
    preprocessing: Preprocessing,
    augmentation: Augmentation,
    tokenizer: Tokenizer,
    on_skip: OnSkip,
) -> Generator[tuple[ImageTextBatch, SamplerState], None, None]:
    """Yield batches without end, each with the sampler's state after it.

    Args:
        sampler: chooses the examples.
        state: from which to resume; None at the beginning.
        preprocessing: of the network. Random crops are resized to its size, whatever its ``fit``.
        augmentation: comes before it.
        tokenizer: of the network.
        on_skip: called with each image that can't be read, every time that it is sampled.

    Raises:
        InvalidSetting: no image of a batch can be read.
    """
    if augmentation.smallest_crop < 1:
        preprocessing = replace(preprocessing, fit="squash")

    def prepare(sample_and_state: tuple[Sample[Example], SamplerState | None]) -> tuple[_Pair, SamplerState | None]:
        sample, after = sample_and_state
        return _prepare(sample, preprocessing, augmentation, on_skip), after

    def samples() -> Iterator[tuple[Sample[Example], SamplerState | None]]:
        for batch, after in sampler.batches(state):
            for number, sample in enumerate(batch, start=1):
                yield sample, after if number == len(batch) else None

    pairs: list[_Pair] = []
    for pair, after in map_ahead(prepare, samples(), PREFETCH):
        pairs.append(pair)
        if after is not None:
            yield _collate(pairs, preprocessing, tokenizer), after
            pairs = []


def _prepare(
    sample: Sample[Example], preprocessing: Preprocessing, augmentation: Augmentation, on_skip: OnSkip
) -> _Pair:
    example = sample.example
    generator = np.random.default_rng(sample.seed)
    text = example.texts[int(generator.integers(len(example.texts)))]
    image_key = key_of(example.picture if isinstance(example.picture, bytes) else str(example.picture))
    pixels = None
    try:
        picture = read_picture(example.picture, name=example.name, reduce_to=preprocessing.shorter_side)
        pixels = np.asarray(resize_and_crop(augment(picture, augmentation, generator), preprocessing))
    except PictureError as error:
        on_skip(example.name, error.reason)
    return _Pair(pixels, text, image_key, text_key(text, example.label))


def _collate(pairs: list[_Pair], preprocessing: Preprocessing, tokenizer: Tokenizer) -> ImageTextBatch:
    valid = [pair.pixels is not None for pair in pairs]
    if not any(valid):
        raise InvalidSetting(
            f"none of the {len(pairs)} pictures of a batch can be used; broken.jsonl lists the reasons"
        )
    pixels = torch.zeros(len(pairs), preprocessing.height, preprocessing.width, 3, dtype=torch.uint8)
    for row, pair in enumerate(pairs):
        if pair.pixels is not None:
            pixels[row] = torch.from_numpy(np.array(pair.pixels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TruncationWarning)  # thousands of warnings would hide the others
        tokens = tokenizer([pair.text for pair in pairs])
    return ImageTextBatch(
        pixels,
        torch.from_numpy(tokens.ids),
        torch.from_numpy(tokens.mask),
        torch.tensor([pair.image_key for pair in pairs]),
        torch.tensor([pair.text_key for pair in pairs]),
        torch.tensor(valid),
    )


def normalize(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (B, H, W, 3) → float32 (B, 3, H, W), as ``to_pixels`` normalizes the same images."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (preprocessing.mean, preprocessing.std))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
