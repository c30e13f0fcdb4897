"""Loaded models: networks with everything that they need to take pictures and texts."""

from dataclasses import dataclass, field

import tokenizers
from torch import nn

from beholder.models.bridge import Bridge
from beholder.models.dual_encoder import TwoTowers
from beholder.models.language_model import LanguageModel
from beholder.models.text_encoder import TextEncoder
from beholder.models.vit import VisionTransformer
from beholder.pictures.preprocess import AnyPreprocessing
from beholder.pictures.transform import Preprocessing
from beholder.text.prompts import Prompts
from beholder.text.tokenizer import Tokenizer
from beholder.weights.calibration import Calibration


@dataclass(frozen=True)
class LoadedTextEncoder:
    """A text tower with a head into the space of a dual encoder, its tokenizer, and the calibration of its texts."""

    network: TextEncoder
    tokenizer: Tokenizer
    calibration: Calibration | None = None


@dataclass(frozen=True)
class LoadedDualEncoder:
    """A dual encoder with its preprocessing and tokenizer.

    Attributes:
        licence: that of the weights, as the model card states it; empty if unknown.
        multilingual: a second text tower, which embeds texts in other scripts than Latin (`beholder.text.script`).
    """

    network: TwoTowers
    preprocessing: AnyPreprocessing
    tokenizer: Tokenizer
    calibration: Calibration | None = None
    name: str = ""
    licence: str = ""
    multilingual: LoadedTextEncoder | None = None


@dataclass(frozen=True)
class LoadedImageEncoder:
    """An image tower by itself; ``labels`` name the classes of its head, in the order of its logits."""

    network: VisionTransformer
    preprocessing: Preprocessing
    labels: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class LoadedVisionLanguage:
    """An image tower, a bridge and, unless the bridge was trained in stage 1 only, a language model.

    Attributes:
        image: computes the tokens or the feature grid that the bridge attends to.
        language_tokenizer: the language model's tokenizer.
        tokenizer: of the Q-Former's text, if it takes any.
        reranker: the dual encoder that scores how well a text fits, in place of the bridge's matching head; it takes
            the same pixels.
        num_candidates: default number of captions to generate, of which the best is kept.
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

    def float(self) -> "LoadedVisionLanguage":
        """Convert the networks to single precision in place, one tensor after another, and return the model."""
        for network in (self.image, self.bridge, self.language):
            if network is not None:
                network.float()
        return self

    @property
    def soft_prompts(self) -> int:
        """The number of soft prompts for each image."""
        return self.bridge.settings.soft_prompts

    @property
    def bridge_matches(self) -> bool:
        """Whether the bridge's own matching head scores how well a text fits an image."""
        return not self.reranker and self.bridge.matching_head is not None and self.tokenizer is not None

    @property
    def matching(self) -> bool:
        """Whether the model can score how well a text fits an image."""
        return bool(self.reranker) or self.bridge_matches
