"""A bridge's training in a JSON file: the data, what stands on its two sides, its shape, its two stages."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from beholder.errors import InvalidSetting
from beholder.models.bridge import BridgeSettings
from beholder.text.prompts import Prompts
from beholder.training.bridge_stages import StageConfig
from beholder.training.clip_config import resolve_address, resolve_model
from beholder.training.config_file import read_config


@dataclass(frozen=True)
class BridgeData:
    """Where pictures and texts come from; in the file, a path is relative to it.

    Attributes:
        train: JSON lines with ``image`` and ``captions``, or ``question`` and ``answer``; lines of the
            same picture are taken together.
        evaluate: the same, to see the loss on; none by default.
        views: of each picture: itself, its mirror image, and random crops. What the frozen tower says of them is
            computed once and kept.
        texts: of a picture in a step, at most.
        longest: tokens of a text that are read.
        evaluate_every: steps of stage 2 between two looks at ``evaluate``.
    """

    train: str
    evaluate: str | None = None
    views: int = 4
    texts: int = 8
    longest: int = 64
    evaluate_every: int = 100

    def __post_init__(self) -> None:
        for name in ("views", "texts", "evaluate_every"):
            if getattr(self, name) < 1:
                raise InvalidSetting(f"{name} {getattr(self, name)} must be at least 1")
        if self.longest < 4:
            raise InvalidSetting(f"longest {self.longest} must be at least 4")


@dataclass(frozen=True)
class BridgeConfig:
    """What a training needs; ``about`` is for people.

    Attributes:
        vision: the model whose frozen picture tower is looked through: ``mini``, a folder or a hub id, of a dual
            encoder, a vision transformer or a BLIP-2.
        language: the frozen language model: ``mini``, a folder of transformers, a GGUF file, or a hub id.
        bridge: what is trained.
        stage_1, stage_2: how.
        text: where the Q-Former's tokenizer and first weights come from: ``mini``, or a folder or hub id of a BERT.
        begun: whether the Q-Former begins with the weights of ``text``.
        prompts: how the language model is spoken to; by default ``mini``'s.
        precision: ``bfloat16`` computes products in half the digits.
        data: for ``beholder train bridge``.
        name, licence: what the result calls itself, and its weights' licence.
    """

    vision: str
    language: str
    bridge: BridgeSettings
    stage_1: StageConfig
    stage_2: StageConfig
    about: str = ""
    text: str = "mini"
    initialize_from_text: bool = True
    prompts: Prompts | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    data: BridgeData | None = None
    name: str = ""
    licence: str = ""


def read_bridge_config(path: Path, folder: Path | None = None) -> BridgeConfig:
    """Read a file such as those in ``recipes/bridge``.

    Args:
        path: the file.
        folder: what its paths are relative to; by default its own folder.

    Raises:
        InvalidSetting: the file is missing, no JSON, or holds an unknown, missing, mistyped or impossible setting.
    """
    config = read_config(path, BridgeConfig)
    folder = path.parent if folder is None else folder
    data = config.data
    if data is not None:
        evaluate = None if data.evaluate is None else resolve_address(folder, data.evaluate)
        data = replace(data, train=resolve_address(folder, data.train), evaluate=evaluate)
    return replace(
        config,
        vision=resolve_model(folder, config.vision),
        language=resolve_model(folder, config.language),
        text=resolve_model(folder, config.text),
        data=data,
    )
