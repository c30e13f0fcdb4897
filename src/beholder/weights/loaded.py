"""What loading a model gives."""

from dataclasses import dataclass

from beholder.models.dual_encoder import TwoTowers
from beholder.models.vit import VisionTransformer
from beholder.pictures.transform import Preprocessing
from beholder.text.tokenizer import Tokenizer
from beholder.weights.calibration import Calibration


@dataclass(frozen=True)
class LoadedDualEncoder:
    """A dual encoder with everything that it needs to take pictures and sentences.

    ``licence`` is what the model card says of the weights; empty where it is not known.
    """

    network: TwoTowers
    preprocessing: Preprocessing
    tokenizer: Tokenizer
    calibration: Calibration | None = None
    name: str = ""
    licence: str = ""


@dataclass(frozen=True)
class LoadedImageEncoder:
    """An image tower by itself; ``labels`` name the classes of its head, in the order of the logits."""

    network: VisionTransformer
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    name: str = ""
