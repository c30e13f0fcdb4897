"""SmolVLM behind `VisionLanguageModel`: its texts are decoded here, so those of several requests go together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from beholder.runtime.continuous_batching import CacheDemand
from beholder.runtime.decoding import Decoding, DecodingSettings, Language
from beholder.runtime.precision import Precision
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.image_text_to_text_model import ImageTextToTextModel
from beholder.tasks.pictures import Picture
from beholder.tasks.smolvlm_conversation import SmolVLMConversation
from beholder.tasks.smolvlm_generation import SmolVLMGenerator
from beholder.tasks.thinking import starts_thinking
from beholder.tasks.vision_language_backend import DecodingBackend
from beholder.tasks.vision_language_results import CaptionedPicture


class SmolVLMModel(ImageTextToTextModel, DecodingBackend):
    """A SmolVLM.

    Args:
        generator: the networks.
        precision: of the reranker.
        reranker: the dual encoder that scores how well a text matches; empty for none.
    """

    generator: SmolVLMGenerator

    def __init__(self, generator: SmolVLMGenerator, precision: Precision = "exact", reranker: str = ""):
        super().__init__(generator, SmolVLMConversation, precision, reranker)

    @property
    def language(self) -> Language:
        """The language model."""
        return self.generator.language

    def prepare_captions(
        self, images: Sequence[Picture], options: CaptionOptions, on_part: Callable[[], None]
    ) -> tuple[CacheDemand, Callable[[], Decoding[list[CaptionedPicture]]]]:
        """Encode pictures; see `VisionLanguageModel.prepare_captions`."""
        options, count = self._checked_options(options)
        prompt, decoding = self.caption_prompt(options), options.decoding()
        thinking = starts_thinking(prompt)
        pictures = self._decode(images, options.allow_urls)
        inputs = self.generator.encode([[picture] for picture in pictures], [prompt] * len(pictures))
        self._check_length(inputs, decoding)
        soft_prompts = self.generator.read_pictures(inputs, on_part)
        rows = len(pictures) * (count if options.top_p is not None else max(decoding.num_beams, count))
        new_tokens = self.generator.settings(decoding, thinking).max_new_tokens

        def start() -> Decoding[list[CaptionedPicture]]:
            texts = self.generator.start(inputs.ids, soft_prompts, decoding, count=count, thinking=thinking)
            return texts.map(
                lambda found: [
                    self._captioned(index, f"picture {index + 1}", picture, row, options)
                    for index, (picture, row) in enumerate(zip(pictures, found, strict=True))
                ]
            )

        return CacheDemand(rows, self.generator.prompt_length(inputs) + new_tokens), start

    def prepare_chat(self, image: Picture, settings: DecodingSettings) -> SmolVLMConversation:
        """Start a conversation about a picture that is encoded when it is first needed."""
        conversation = self.chat(image, settings)
        if not isinstance(conversation, SmolVLMConversation):
            raise TypeError("a SmolVLM holds conversations of its own kind")
        return conversation
