"""What `VisionLanguageModel` needs of a model: the seam behind which every kind of vision-language model stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from beholder.runtime.decoding import DecodingSettings
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.conversation import Conversation, DecodedConversation
from beholder.tasks.pictures import FailedPicture, Picture, Pictures
from beholder.tasks.vision_language_results import Answer, CaptionedPicture

if TYPE_CHECKING:
    from beholder.pictures.transform import Preprocessing
    from beholder.runtime.continuous_batching import CacheDemand
    from beholder.runtime.decoding import Decoding, Language


class VisionLanguageBackend(Protocol):
    """A model that generates text about pictures. Arguments have been validated, and errors are BeholderErrors."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How pictures are made ready for the network; None for a model that takes them as they are."""
        ...

    def stream_captions(
        self, images: Iterable[Picture], options: CaptionOptions
    ) -> Iterator[CaptionedPicture | FailedPicture]:
        """Return a caption or an error for each picture, in order; what is wrong with the options is raised at once."""
        ...

    def ask(
        self,
        images: Pictures,
        question: str,
        choices: Sequence[str],
        settings: DecodingSettings,
        *,
        exact: bool = False,
        allow_urls: bool = False,
    ) -> Answer:
        """Answer a question about one picture or several, or rank the choices if there are any."""
        ...

    def answers(
        self, questions: Iterable[tuple[Pictures, str]], settings: DecodingSettings, batch_size: int
    ) -> list[str]:
        """Answer many questions."""
        ...

    def chat(self, images: Pictures, settings: DecodingSettings, *, allow_urls: bool = False) -> Conversation:
        """Start a conversation about one picture, or about several if the model reads more than one."""
        ...

    def match(
        self, image: Picture, texts: Sequence[str], *, exact: bool = False, allow_urls: bool = False
    ) -> np.ndarray:
        """Return the probability (n,) that each text matches the picture, or raise `ModelError`."""
        ...


class DecodingBackend(ABC):
    """A model whose texts are decoded here, token by token, so that those of several requests go together."""

    @property
    @abstractmethod
    def language(self) -> Language:
        """The language model, or `ModelError` if there is none."""

    @abstractmethod
    def prepare_captions(
        self, images: Sequence[Picture], options: CaptionOptions, on_part: Callable[[], None]
    ) -> tuple[CacheDemand, Callable[[], Decoding[list[CaptionedPicture]]]]:
        """Return the room that captions need in the KV cache, and what reads their prompts once there is room."""

    @abstractmethod
    def prepare_chat(self, image: Picture, settings: DecodingSettings) -> DecodedConversation:
        """Start a conversation about a picture that is encoded when it is first needed."""
