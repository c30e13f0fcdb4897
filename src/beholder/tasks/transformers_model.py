"""Captions, answers and conversations of a vision-language model that transformers runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import InvalidAnswer, InvalidSetting, ModelError, PictureError, PictureRefused
from beholder.pictures.read import display_name
from beholder.runtime.decoding import DecodingSettings
from beholder.runtime.pipeline import batches
from beholder.runtime.precision import Precision
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.instructions import answer_briefly, describe, file_context, to_caption
from beholder.tasks.pictures import FailedPicture, Picture, checked_images, decode_picture, read_batches
from beholder.tasks.thinking import starts_thinking
from beholder.tasks.transformers_conversation import TransformersConversation
from beholder.tasks.transformers_generation import TransformersGenerator, user_message
from beholder.tasks.vision_language_results import Answer, CaptionedPicture, rank
from beholder.weights.image_text_to_text import LoadedImageTextToText

if TYPE_CHECKING:
    from PIL.Image import Image

    from beholder.tasks.dual_encoder import DualEncoder


class TransformersModel:
    """A vision-language model of transformers with its processor and chat template, behind `VisionLanguageModel`.

    Args:
        loaded: the network and its processor.
        device: where to run; by default the fastest available.
        precision: computes in bfloat16 unless ``"exact"``, where that is faster.
        reranker: the dual encoder that scores how well a text matches; empty for none.
    """

    preprocessing: None = None  # the processor takes pictures as they are

    def __init__(
        self, loaded: LoadedImageTextToText, device: str | None, precision: Precision = "exact", reranker: str = ""
    ):
        self.loaded = loaded
        self.precision = precision
        self.generator = TransformersGenerator(loaded, device, precision)
        self._reranker = reranker

    @property
    def name(self) -> str:
        """The model's name."""
        return self.loaded.name

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
        prompts = self.loaded.plain_prompts
        if prompts is None:
            instruction = self.generator.plain(describe(options, context))
            return self.generator.render([user_message(instruction, picture=True)], start)
        if options.instructs:
            raise InvalidSetting(
                f"{self.name}: a {self.loaded.model_type} follows no instructions, so it can't be given "
                f"{' or '.join(options.instructs)}"
            )
        if start and not prompts.continues:
            raise InvalidSetting(f"{self.name}: a {self.loaded.model_type} can't continue the start of a caption")
        return f"{prompts.caption} {start}".strip()

    def question_prompt(self, question: str) -> str:
        """Return the prompt of a question that is answered briefly.

        Raises:
            InvalidSetting: the question is empty or not a str.
            ModelError: this family answers no questions.
        """
        question = self.generator.checked_question(question)
        prompts = self.loaded.plain_prompts
        if prompts is None:
            return self.generator.render([user_message(answer_briefly(question), picture=True)])
        if not prompts.question:
            raise ModelError(f"{self.name}: a {self.loaded.model_type} captions pictures and answers no questions")
        return prompts.question.replace("{}", question)

    def stream_captions(
        self, images: Iterable[Picture], options: CaptionOptions
    ) -> Iterator[CaptionedPicture | FailedPicture]:
        """Caption pictures in batches; see `VisionLanguageModel.stream_captions`."""
        count = options.candidates(1)
        if count > 1:
            self._check_matching()
        options = options.with_room()
        self.caption_prompt(options)  # what is wrong with the options is raised before any picture is read
        return self._stream_captions(images, options, count)

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
            inputs = self.generator.encode([image for _, _, image, _ in pictures], prompts)
        except Exception as error:  # processors raise errors of any type for pictures that do not suit them
            if len(pictures) > 1:
                for one in pictures:
                    yield from self._caption_batch([one], options, count)
                return
            yield pictures[0][0], self._refused(pictures[0][1], error)
            return
        self.generator.check_length(inputs["input_ids"].shape[1], settings.max_new_tokens)
        rows, _ = self.generator.generate(
            inputs, settings, count=count, thinking=any(map(starts_thinking, prompts)), on_token=options.on_token
        )
        for (index, name, image, _), found in zip(pictures, rows, strict=True):
            try:
                captions = dict(to_caption(each.text, options, name) for each in found)
            except InvalidAnswer as error:
                yield index, error
                continue
            texts = list(captions)
            if count == 1:
                yield index, CaptionedPicture(index, name, texts[0], fields=captions[texts[0]])
                continue
            sentences = [f"{options.prompt or ''} {text}".strip() for text in texts]
            ranked = rank(texts, self.match(image, sentences).tolist())
            best, score = ranked[0]
            yield index, CaptionedPicture(index, name, best, score, tuple(ranked), captions[best])

    def ask(
        self,
        image: Picture,
        question: str,
        choices: Sequence[str],
        settings: DecodingSettings,
        *,
        exact: bool = False,
        allow_urls: bool = False,
    ) -> Answer:
        """Return a short answer, or the ranked choices; see `VisionLanguageModel.ask`."""
        prompt = self.question_prompt(question)
        name = display_name(image, 0)
        inputs = self._encode(decode_picture(image, name, allow_urls), name, prompt)
        self.generator.check_length(inputs["input_ids"].shape[1], settings.max_new_tokens)
        if choices:
            scores = np.array([self.generator.answer_log_prob(inputs, prompt, choice.strip()) for choice in choices])
            shares = np.exp(scores - scores.max())
            ranked = rank(choices, (shares / shares.sum()).tolist())
            return Answer(ranked[0][0], ranked[0][1], tuple(ranked))
        ((found,),), _ = self.generator.generate(inputs, settings, thinking=starts_thinking(prompt))
        return Answer(found.text.strip(" ."), float(np.exp(found.log_prob)))

    def answers(
        self, questions: Iterable[tuple[Picture, str]], settings: DecodingSettings, batch_size: int
    ) -> list[str]:
        """Return short answers in batches; see `VisionLanguageModel.answers`."""
        answers: list[str] = []
        for batch in batches(questions, batch_size):
            images = [decode_picture(image, display_name(image, 0), False) for image, _ in batch]
            prompts = [self.question_prompt(question) for _, question in batch]
            try:
                inputs = self.generator.encode(images, prompts)
            except Exception as error:
                raise self._refused(display_name(batch[0][0], 0), error) from error
            self.generator.check_length(inputs["input_ids"].shape[1], settings.max_new_tokens)
            rows, _ = self.generator.generate(inputs, settings, thinking=any(map(starts_thinking, prompts)))
            answers += [found.text.strip(" .") for (found,) in rows]
        return answers

    def chat(self, image: Picture, settings: DecodingSettings, *, allow_urls: bool = False) -> TransformersConversation:
        """Start a conversation about one picture; its tokens and those of past turns stay in the KV cache.

        Raises:
            ModelError: the family has no chat template.
        """
        if self.loaded.plain_prompts is not None:
            raise ModelError(
                f"{self.name}: a {self.loaded.model_type} has no chat template, so it holds no conversation; ask it "
                "single questions, where it answers any"
            )
        name = display_name(image, 0)
        picture = decode_picture(image, name, allow_urls)
        return TransformersConversation(self.generator, partial(self._encode, picture, name), settings)

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
                f"{self.name}: a {self.loaded.model_type} generates text and does not score how well a text matches a "
                'picture; a dual encoder does that in its place: from_pretrained(…, reranker="siglip2")'
            )

    def _encode(self, image: Image, name: str, prompt: str) -> Any:
        try:
            return self.generator.encode([image], [prompt])
        except Exception as error:  # processors raise errors of any type for pictures that do not suit them
            raise self._refused(name, error) from error

    def _refused(self, name: str, error: Exception) -> PictureRefused:
        return PictureRefused(name, f"the processor of {self.loaded.model_type} refuses it ({error})")
