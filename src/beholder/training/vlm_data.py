"""The texts of a vision-language model's fine-tuning, each with its picture, and how often they are seen."""

import math
from dataclasses import dataclass
from pathlib import Path

from beholder.errors import InvalidSetting
from beholder.training.bridge_data import BridgeExample, check_texts_differ, read_bridge_examples
from beholder.training.vlm_config import VlmConfig


@dataclass(frozen=True)
class VlmExample:
    """A picture with one text: a caption, or the answer to a question.

    Attributes:
        path: of the picture.
        question: None for a caption.
        text: what the model learns to write.
    """

    path: Path
    question: str | None
    text: str


@dataclass(frozen=True)
class VlmData:
    """Training and validation examples, and the number of steps."""

    training: list[VlmExample]
    validation: list[VlmExample]
    steps: int


def read_vlm_data(config: VlmConfig) -> VlmData:
    """Read the data that a config names.

    Raises:
        InvalidSetting: there is too little, or nothing in it to tell apart.
    """
    pictures = read_bridge_examples(Path(config.data.train))
    check_texts_differ(pictures, config.data.train)
    training = _examples(pictures)
    validation = _examples(read_bridge_examples(Path(config.data.evaluate))) if config.data.evaluate else []
    train = config.train
    if train.batch > len(training):
        raise InvalidSetting(f"train.batch {train.batch} is more than the {len(training)} texts of {config.data.train}")
    steps = train.steps or math.ceil((train.epochs or 0) * len(training) / train.batch)
    return VlmData(training, validation, steps)


def _examples(pictures: list[BridgeExample]) -> list[VlmExample]:
    found: list[VlmExample] = []
    for each in pictures:
        found += [VlmExample(each.path, None, caption) for caption in each.captions]
        found += [VlmExample(each.path, question, answer) for question, answer in each.questions]
    return found
