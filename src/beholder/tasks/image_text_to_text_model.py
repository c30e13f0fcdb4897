"""Captions, answers and conversations of a vision-language model without a bridge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import BeholderError, InvalidAnswer, InvalidSetting, ModelError, PictureError, PictureRefused
from beholder.pictures.read import display_name
from beholder.runtime.decoding import DecodingSettings
from beholder.runtime.pipeline import batches
from beholder.runtime.precision import Precision
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.conversation import Conversation
from beholder.tasks.image_text_to_text import (
    Encode,
    Generated,
    ImageTextToTextGenerator,
    check_length,
    check_pictures,
    user_message,
)
from beholder.tasks.instructions import answer_briefly, describe, file_context, to_caption
from beholder.tasks.pictures import (
    FailedPicture,
    Picture,
    Pictures,
    checked_images,
    decode_picture,
    picture_list,
    read_batches,
)
from beholder.tasks.thinking import starts_thinking
from beholder.tasks.vision_language_results import Answer, CaptionedPicture, rank

if TYPE_CHECKING:
    from PIL.Image import Image

    from beholder.tasks.dual_encoder import DualEncoder


StartConversation = Callable[[Any, Encode, int, DecodingSettings], Conversation]


class ImageTextToTextModel:
    """A vision-language model that is prompted by its chat template, behind `VisionLanguageModel`.

    Args:
        generator: the network with what makes pictures and prompts ready for it.
        start_conversation: from the generator, a function that encodes a prompt with the pictures, their number, and
            how answers are generated.
        precision: of the reranker.
        reranker: the dual encoder that scores how well a text matches; empty for none.
    """

    preprocessing: None = None  # pictures are taken as they are

    def __init__(
        self,
        generator: ImageTextToTextGenerator,
        start_conversation: StartConversation,
        precision: Precision = "exact",
        reranker: str = "",
    ):
        self.generator = generator
        self.start_conversation = start_conversation
        self.precision = precision
        self._reranker = reranker

    @property
    def name(self) -> str:
        """The model's name."""
        return self.generator.name

    def caption_prompt(self, options: CaptionOptions, context: str = "") -> str:
        """Return the prompt of a caption.

        Args:
            options: of captioning.
            context: what is known of the picture.

        Raises:
            InvalidSetting: this family can't continue the start of a caption, or follows no instructions.
        """
        start = options.prompt
        if start is not None and not isinstance(start, str):
            raise InvalidSetting(f"the prompt must be a str, not {type(start).__name__}")
        start = self.generator.plain(start or "").strip()
        prompts = self.generator.plain_prompts
        if prompts is None:
            instruction = self.generator.plain(describe(options, context))
            return self.generator.render([user_message(instruction, pictures=1)], start)
        if options.instructs:
            raise InvalidSetting(
                f"{self.name}: a {self.generator.model_type} follows no instructions, so it can't be given "
                f"{' or '.join(options.instructs)}"
            )
        if start and not prompts.continues:
            raise InvalidSetting(f"{self.name}: a {self.generator.model_type} can't continue the start of a caption")
        return f"{prompts.caption} {start}".strip()

    def question_prompt(self, question: str, pictures: int = 1) -> str:
        """Return the prompt of a question about pictures that is answered briefly.

        Raises:
            InvalidSetting: the question is empty or not a str.
            ModelError: this family answers no questions.
        """
        question = self.generator.checked_question(question)
        prompts = self.generator.plain_prompts
        if prompts is None:
            return self.generator.render([user_message(answer_briefly(question), pictures=pictures)])
        if not prompts.question:
            raise ModelError(f"{self.name}: a {self.generator.model_type} captions pictures and answers no questions")
        return prompts.question.replace("{}", question)

    def stream_captions(
        self, images: Iterable[Picture], options: CaptionOptions
    ) -> Iterator[CaptionedPicture | FailedPicture]:
        """Caption pictures in batches; see `VisionLanguageModel.stream_captions`."""
        options, count = self._checked_options(options)
        self.caption_prompt(options)  # what is wrong with the options is raised before any picture is read
        return self._stream_captions(images, options, count)

    def _checked_options(self, options: CaptionOptions) -> tuple[CaptionOptions, int]:
        """Return the options with room for the caption, and the number of candidates."""
        count = options.candidates(1)
        if count > 1:
            self._check_matching()
        return options.with_room(), count

    def _stream_captions(
        self, images: Iterable[Picture], options: CaptionOptions, count: int
    ) -> Iterator[CaptionedPicture | FailedPicture]:
        def read(source: Picture, name: str) -> tuple[Image, str]:
            picture = decode_picture(source, name, options.allow_urls, options.limits)
            return picture, self.caption_prompt(options, file_context(source, options))

        checked_images(images, options.batch_size, options.limits)
        for batch in read_batches(images, read, options.batch_size):
            usable = [(index, name, *found) for index, name, found in batch if not isinstance(found, PictureError)]
            results = dict(self._caption_batch(usable, options, count))
            for index, name, found in batch:
                result = found if isinstance(found, PictureError) else results[index]
                if isinstance(result, PictureError):
                    yield FailedPicture(index, name, result)
                    continue
                yield result

    def _caption_batch(
        self, pictures: Sequence[tuple[int, str, Image, str]], options: CaptionOptions, count: int
    ) -> Iterator[tuple[int, CaptionedPicture | PictureError]]:
        """Yield the caption of each picture with its prompt; if the processor refuses a batch, of each by itself."""
        if not pictures:
            return
        settings = options.decoding()
        try:
            prompts = [prompt for *_, prompt in pictures]
            inputs = self.generator.encode([[image] for _, _, image, _ in pictures], prompts)
        except BeholderError:
            raise
        except Exception as error:  # processors raise errors of any type for pictures that do not suit them
            if len(pictures) > 1:
                for one in pictures:
                    yield from self._caption_batch([one], options, count)
                return
            yield pictures[0][0], self._refused(pictures[0][1], error)
            return
        self._check_length(inputs, settings)
        rows = self.generator.generate(
            inputs, settings, count=count, thinking=any(map(starts_thinking, prompts)), on_token=options.on_token
        )
        for (index, name, image, _), found in zip(pictures, rows, strict=True):
            try:
                yield index, self._captioned(index, name, image, found, options)
            except InvalidAnswer as error:
                yield index, error

    def _captioned(
        self, index: int, name: str, image: Image, found: Sequence[Generated], options: CaptionOptions
    ) -> CaptionedPicture:
        """Return the only one of the generated captions, or the one that matches the picture best.

        Raises:
            InvalidAnswer: it lacks the fields that were asked for.
        """
        captions = dict(to_caption(each.text, options, name) for each in found)
        texts = list(captions)
        if options.candidates(1) == 1:
            return CaptionedPicture(index, name, texts[0], fields=captions[texts[0]])
        sentences = [f"{options.prompt or ''} {text}".strip() for text in texts]
        ranked = rank(texts, self.match(image, sentences).tolist())
        best, score = ranked[0]
        return CaptionedPicture(index, name, best, score, tuple(ranked), captions[best])

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
        """Return a short answer, or the ranked choices; see `VisionLanguageModel.ask`."""
        sources = self._sources(images)
        prompt = self.question_prompt(question, len(sources))
        inputs = self._encode(self._decode(sources, allow_urls), display_name(sources[0], 0), prompt)
        self._check_length(inputs, settings, len(sources))
        if choices:
            answers = [choice.strip() for choice in choices]
            scores = np.array(self.generator.answer_log_probs(inputs, prompt, answers))
            shares = np.exp(scores - scores.max())
            ranked = rank(choices, (shares / shares.sum()).tolist())
            return Answer(ranked[0][0], ranked[0][1], tuple(ranked))
        ((found,),) = self.generator.generate(inputs, settings, thinking=starts_thinking(prompt))
        return Answer(found.text.strip(" ."), float(np.exp(found.log_prob)))

    def answers(
        self, questions: Iterable[tuple[Pictures, str]], settings: DecodingSettings, batch_size: int
    ) -> list[str]:
        """Return short answers in batches; see `VisionLanguageModel.answers`."""
        answers: list[str] = []
        for batch in batches(questions, batch_size):
            sources = [self._sources(images) for images, _ in batch]
            prompts = [self.question_prompt(pair[1], len(each)) for pair, each in zip(batch, sources, strict=True)]
            try:
                inputs = self.generator.encode([self._decode(each, False) for each in sources], prompts)
            except BeholderError:
                raise
            except Exception as error:
                raise self._refused(display_name(sources[0][0], 0), error) from error
            self._check_length(inputs, settings, max(map(len, sources)))
            rows = self.generator.generate(inputs, settings, thinking=any(map(starts_thinking, prompts)))
            answers += [found.text.strip(" .") for (found,) in rows]
        return answers

    def chat(self, images: Pictures, settings: DecodingSettings, *, allow_urls: bool = False) -> Conversation:
        """Start a conversation about pictures; their tokens and those of past turns stay in the KV cache.

        Raises:
            ModelError: the family has no chat template.
        """
        if self.generator.plain_prompts is not None:
            raise ModelError(
                f"{self.name}: a {self.generator.model_type} has no chat template, so it holds no conversation; ask it "
                "single questions, where it answers any"
            )
        sources = self._sources(images)
        encode = partial(self._encode, self._decode(sources, allow_urls), display_name(sources[0], 0))
        return self.start_conversation(self.generator, encode, len(sources), settings)

    def match(
        self, image: Picture, texts: Sequence[str], *, exact: bool = False, allow_urls: bool = False
    ) -> np.ndarray:
        """Return the probability (n,) that each text matches, from the reranker.

        Raises:
            ModelError: there is none.
        """
        self._check_matching()
        vectors = self.reranker.embed_images([image], exact=exact, allow_urls=allow_urls)
        probabilities: np.ndarray = self.reranker.match(vectors, self.reranker.embed_texts(list(texts)))[0]
        return probabilities

    @cached_property
    def reranker(self) -> DualEncoder:
        """The dual encoder that scores how well a text matches."""
        from beholder.tasks.dual_encoder import DualEncoder

        return DualEncoder.from_pretrained(self._reranker, device=str(self.generator.device), precision=self.precision)

    def _check_matching(self) -> None:
        if not self._reranker:
            raise ModelError(
                f"{self.name}: a {self.generator.model_type} generates text and does not score how well a text matches "
                'a picture; a dual encoder does that in its place: from_pretrained(…, reranker="siglip2")'
            )

    def _sources(self, images: Pictures) -> list[Picture]:
        sources = picture_list(images)
        check_pictures(self.generator, len(sources))
        if len(sources) > 1 and self.generator.plain_prompts is not None:
            raise InvalidSetting(
                f"{self.name}: a {self.generator.model_type} reads one picture at a time, not {len(sources)}"
            )
        return sources

    def _decode(self, sources: Sequence[Picture], allow_urls: bool) -> list[Image]:
        return [decode_picture(each, display_name(each, index), allow_urls) for index, each in enumerate(sources)]

    def _encode(self, images: Sequence[Image], name: str, prompt: str) -> Any:
        try:
            return self.generator.encode([images], [prompt])
        except BeholderError:
            raise
        except Exception as error:  # processors raise errors of any type for pictures that do not suit them
            raise self._refused(name, error) from error

    def _check_length(self, inputs: Any, settings: DecodingSettings, pictures: int = 1) -> None:
        check_length(self.generator, self.generator.prompt_length(inputs), settings.max_new_tokens, pictures)

    def _refused(self, name: str, error: Exception) -> PictureRefused:
        return PictureRefused(name, f"the processor of {self.generator.model_type} refuses it ({error})")
