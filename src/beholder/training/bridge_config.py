"""A bridge's training in a JSON file: what stands on its two sides, its shape, its two stages."""

from dataclasses import dataclass
from pathlib import Path

from beholder.errors import InvalidSetting, ModelError
from beholder.models.bridge import BridgeSettings
from beholder.models.vit import VisionSettings
from beholder.training.bridge import StageSettings
from beholder.weights.huggingface import read_json


@dataclass(frozen=True)
class BridgeConfig:
    """What a training needs.

    Attributes:
        vision: the frozen vision transformer; None for the grid of ``mini``'s image tower.
        language: the frozen language model: ``mini``, a folder, or a hub id.
        bridge: what is trained.
        stage_1, stage_2: how.
    """

    vision: VisionSettings | None
    language: str
    bridge: BridgeSettings
    stage_1: StageSettings
    stage_2: StageSettings


def read_bridge_config(path: Path) -> BridgeConfig:
    """Read a file such as those in ``recipes/bridge``.

    Raises:
        InvalidSetting: the file is missing, no JSON, or holds an unknown or unsuitable setting.
    """
    try:
        values = read_json(path)
        vision = values.pop("vision")
        return BridgeConfig(
            vision=None if vision == "mini" else VisionSettings(**vision),
            language=values.pop("language"),
            bridge=BridgeSettings.from_dict(values.pop("bridge")),
            stage_1=StageSettings(**values.pop("stage_1")),
            stage_2=StageSettings(**values.pop("stage_2")),
            **{name: value for name, value in values.items() if name != "about"},
        )
    except (KeyError, TypeError, ModelError) as error:
        raise InvalidSetting(f"{path}: {error}") from error
