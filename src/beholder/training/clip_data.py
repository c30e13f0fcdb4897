"""The data of a dual encoder's training, all but the images, read and checked before anything heavy starts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from beholder.errors import InvalidSetting
from beholder.training.clip_config import ClipConfig
from beholder.training.examples import Example, check_distinguishable, read_examples
from beholder.training.shards import is_shards, list_shards


@dataclass(frozen=True)
class TrainingData:
    """Training and validation data.

    Attributes:
        examples: in memory; empty where they come from shards.
        shards: addresses.
        validation: examples to evaluate on.
        steps: of the training.
    """

    examples: Sequence[Example]
    shards: Sequence[str]
    validation: Sequence[Example]
    steps: int


def read_data(config: ClipConfig) -> TrainingData:
    """Read the data that a config names.

    Raises:
        InvalidSetting: there is none, too little, or nothing in it to tell apart.
    """
    data, train = config.data, config.train
    examples: Sequence[Example] = ()
    shards: Sequence[str] = ()
    if is_shards(data.train):
        shards = list_shards(data.train)
        if train.steps is None:
            raise InvalidSetting("train.epochs: the number of pictures in shards is not known; give steps instead")
        steps = train.steps
    else:
        examples = read_examples(Path(data.train), data.columns, data.templates)
        check_distinguishable(examples, data.train)
        if train.batch > len(examples):
            raise InvalidSetting(f"train.batch {train.batch} is more than the {len(examples)} pictures of {data.train}")
        steps = train.steps or math.ceil((train.epochs or 0) * len(examples) / train.batch)
    validation: Sequence[Example] = ()
    if data.evaluate:
        validation = read_examples(Path(data.evaluate), data.columns, data.templates)
        check_distinguishable(validation, data.evaluate)
    return TrainingData(examples, shards, validation, steps)
