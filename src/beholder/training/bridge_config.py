"""The JSON config of a bridge's training: data, frozen models, architecture, two stages."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from beholder.errors import InvalidSetting
from beholder.models.bridge import BridgeSettings
from beholder.text.prompts import Prompts
from beholder.training.bridge_stages import StageConfig
from beholder.training.clip_config import resolve_data, resolve_model
from beholder.training.config_file import AT_LEAST_1, check_numbers, read_config


@dataclass(frozen=True)
class BridgeData:
    """Training data; in the file, paths are relative to it.

    Attributes:
        train: JSON lines with ``image`` and ``captions``, or ``question`` and ``answer``; lines of the same image are
            merged.
        evaluate: the same, for the validation loss; none by default.
        views: per image: itself, its mirror image, and random crops. Their features are computed once.
        texts: maximum number per image in a step.
        longest: maximum number of tokens per text; the rest is truncated.
        evaluate_every: steps of stage 2 between evaluations.
    """

    train: str
    evaluate: str | None = None
    views: int = 4
    texts: int = 8
    longest: int = 64
    evaluate_every: int = 100

    def __post_init__(self) -> None:
        check_numbers(self, AT_LEAST_1, "views", "texts", "evaluate_every")
        if self.longest < 4:
            raise InvalidSetting(f"longest {self.longest} must be at least 4")


@dataclass(frozen=True)
class BridgeConfig:
    """The whole config; ``about`` is a comment for people.

    Attributes:
        vision: the model whose frozen image tower is used: ``mini``, a folder or a hub id, of a dual encoder, a vision
            transformer or a BLIP-2.
        language: the frozen language model: ``mini``, a folder of transformers, a GGUF file, or a hub id.
        bridge: the architecture of what is trained.
        stage_1, stage_2: hyperparameters.
        text: source of the Q-Former's tokenizer and initial weights: ``mini``, or a folder or hub id of a BERT.
        initialize_from_text: whether the Q-Former is initialized with the weights of ``text``.
        prompts: of the language model; by default ``mini``'s.
        precision: ``bfloat16`` computes in half the bits (autocast).
        data: for ``beholder train bridge``.
        name, licence: of the result, for the model card.
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
        folder: to which its paths are relative; by default its own folder.

    Raises:
        InvalidSetting: the file is missing, not valid JSON, or holds an unknown, missing, mistyped or invalid setting.
    """
    config = read_config(path, BridgeConfig)
    folder = path.parent if folder is None else folder
    return replace(
        config,
        vision=resolve_model(folder, config.vision),
        language=resolve_model(folder, config.language),
        text=resolve_model(folder, config.text),
        data=config.data and resolve_data(folder, config.data),
    )
