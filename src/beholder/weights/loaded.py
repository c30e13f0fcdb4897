"""What loading a model gives."""

from dataclasses import dataclass, field

import tokenizers
from torch import nn

from beholder.models.bridge import Bridge
from beholder.models.dual_encoder import TwoTowers
from beholder.models.language_model import LanguageModel
from beholder.models.vit import VisionTransformer
from beholder.pictures.transform import Preprocessing
from beholder.text.prompts import Prompts
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


@dataclass(frozen=True)
class LoadedVisionLanguage:
    """A picture tower, the bridge behind it and, unless the bridge has seen stage 1 alone, a language model.

    Attributes:
        image: gives the tokens or the grid that the bridge looks at.
        words: the language model's tokenizer.
        tokenizer: of the bridge's own text, where it reads any.
        judge: the dual encoder that says how well a text fits, in the place of the bridge's matching head; it looks at
            the same pixels.
        candidates: how many captions to choose from where nobody says.
    """

    image: nn.Module
    preprocessing: Preprocessing
    bridge: Bridge
    language: LanguageModel | None = None
    language_tokenizer: tokenizers.Tokenizer | None = None
    tokenizer: Tokenizer | None = None
    prompts: Prompts = field(default_factory=Prompts)
    name: str = ""
    licence: str = ""
    reranker: str = ""
    num_candidates: int = 1

    @property
    def soft_prompts(self) -> int:
        """How many a picture has."""
        return self.bridge.settings.soft_prompts

    @property
    def bridge_matches(self) -> bool:
        """Whether the bridge's own matching head says how well a text fits a picture."""
        return not self.reranker and self.bridge.matching_head is not None and self.tokenizer is not None

    @property
    def matching(self) -> bool:
        """Whether it can say how well a text fits a picture."""
        return bool(self.reranker) or self.bridge_matches
