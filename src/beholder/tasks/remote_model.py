"""Captions, answers and conversations of a vision-language model behind an address."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from beholder.errors import InvalidSetting, ModelError, PictureError
from beholder.pictures.read import display_name
from beholder.runtime.decoding import DecodingSettings
from beholder.runtime.pipeline import map_ahead
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.conversation import Conversation, Turn
from beholder.tasks.instructions import answer_briefly, begin_with, choose, describe, file_context, to_caption
from beholder.tasks.pictures import FailedPicture, Picture, Pictures, checked_images, decode_picture, only_picture
from beholder.tasks.remote_endpoint import RemoteClient, RemoteEndpoint
from beholder.tasks.thinking import visible, without_thinking
from beholder.tasks.vision_language_results import Answer, CaptionedPicture
from beholder.text.prompts import checked_question

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST_SIDE = 2048  # pixels of a picture that is sent; none of the servers' models sees more of it
JPEG_QUALITY = 90
CONTINUE = "Continue exactly where you stopped."


class RemoteModel:
    """A vision-language model behind an address, behind `VisionLanguageModel`.

    A picture is sent as a JPEG of at most 2048 pixels a side, without its metadata, to that address and nowhere else.

    Args:
        endpoint: where it is.
    """

    preprocessing: None = None  # the server takes pictures as they are

    def __init__(self, endpoint: RemoteEndpoint):
        self.endpoint = endpoint
        self.client = RemoteClient(endpoint)

    @property
    def name(self) -> str:
        """The address with the model's name."""
        return self.endpoint.name

    def stream_captions(
        self, images: Iterable[Picture], options: CaptionOptions
    ) -> Iterator[CaptionedPicture | FailedPicture]:
        """Caption pictures, ``batch_size`` of them at once; see `VisionLanguageModel.stream_captions`."""
        if (options.num_candidates or 1) > 1:
            raise self._no_matching()
        if (options.num_beams or 1) > 1:
            raise InvalidSetting(f"{self.name}: how a server decodes is its own choice; leave num_beams out")
        checked_images(images, options.batch_size, options.limits)
        options = options.with_room()
        settings = request_settings(options.decoding())

        def caption(numbered: tuple[int, Picture]) -> CaptionedPicture | FailedPicture:
            index, source = numbered
            name = display_name(source, index)
            if options.on_token is not None:
                options.on_token()
            try:
                picture = decode_picture(source, name, options.allow_urls, options.limits)
                instruction = describe(options, file_context(source, options))
                if options.prompt:
                    instruction = f"{instruction} {begin_with(options.prompt)}"
                text, _ = self.client.complete([user_message(instruction, picture)], name, **settings)
                text, fields = to_caption(without_thinking(text), options, name)
                return CaptionedPicture(index, name, without_start(text, options.prompt), fields=fields)
            except PictureError as error:
                return FailedPicture(index, name, error)

        return map_ahead(caption, enumerate(images), ahead=2 * options.batch_size, threads=options.batch_size)

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
        """Return a short answer, or the choice that the model names; a server reports no probabilities."""
        question = checked_question(question)
        image = only_picture(images, self.name)
        name = display_name(image, 0)
        picture = decode_picture(image, name, allow_urls)
        instruction = choose(question, choices) if choices else answer_briefly(question)
        text, _ = self.client.complete([user_message(instruction, picture)], name, **request_settings(settings))
        text = " ".join(without_thinking(text).split()).strip(" .")
        if not choices:
            return Answer(text, None)
        plain = text.casefold().strip("\"'")
        exactly = [choice for choice in choices if choice.strip().casefold() == plain]
        within = [choice for choice in choices if choice.strip().casefold() in plain]
        for found in (exactly, within):
            if len(found) == 1:
                return Answer(found[0], None)
        raise ModelError(f"{self.name}: the answer is none of the choices: {text[:100]}")

    def answers(
        self, questions: Iterable[tuple[Pictures, str]], settings: DecodingSettings, batch_size: int
    ) -> list[str]:
        """Return short answers, ``batch_size`` of them at once; see `VisionLanguageModel.answers`."""

        def answer(pair: tuple[Pictures, str]) -> str:
            return self.ask(pair[0], pair[1], (), settings).text

        return list(map_ahead(answer, questions, ahead=2 * batch_size, threads=batch_size))

    def chat(self, images: Pictures, settings: DecodingSettings, *, allow_urls: bool = False) -> RemoteConversation:
        """Start a conversation about one picture; the server keeps what it keeps."""
        image = only_picture(images, self.name)
        name = display_name(image, 0)
        return RemoteConversation(self.client, decode_picture(image, name, allow_urls), name, settings)

    def match(
        self, image: Picture, texts: Sequence[str], *, exact: bool = False, allow_urls: bool = False
    ) -> np.ndarray:
        """Raise `ModelError`: a server generates text."""
        raise self._no_matching()

    def _no_matching(self) -> ModelError:
        return ModelError(
            f"{self.name}: a server generates text and does not score how well a text matches a picture; a dual "
            'encoder does: DualEncoder.from_pretrained("siglip2")'
        )


class RemoteConversation(Conversation):
    """A conversation about one picture with a model behind an address; all turns are sent each time."""

    def __init__(self, client: RemoteClient, picture: Image, name: str, settings: DecodingSettings):
        super().__init__()
        self.client = client
        self.name = name
        self.settings = settings
        self._picture = image_part(picture)

    @property
    def context_length(self) -> int:
        """0: the server knows."""
        return 0

    @property
    def num_tokens(self) -> int:
        """0: the server knows."""
        return 0

    def add_question(self, question: str) -> Turn:
        """Append a question; errors as for `stream`."""
        turn = Turn(checked_question(question))
        self.turns.append(turn)
        self.context_turns.append(turn)
        return turn

    def _add_answer(self, turn: Turn) -> None:
        """The answer is sent with the next question."""

    def _generate(self, turn: Turn) -> Iterator[str]:
        messages: list[dict[str, Any]] = []
        for number, each in enumerate(self.turns):
            parts = [self._picture] if number == 0 else []
            messages.append({"role": "user", "content": [*parts, {"type": "text", "text": each.question}]})
            if each.answer:
                messages.append({"role": "assistant", "content": each.answer})
        if turn.answer:  # it was stopped
            messages.append({"role": "user", "content": [{"type": "text", "text": CONTINUE}]})
        before = f"{turn.answer} " if turn.answer else ""
        text, shown = "", ""
        for piece, whole in self.client.stream(messages, self.name, **request_settings(self.settings)):
            text += piece
            turn.finished = turn.finished or whole
            longer = visible(text).lstrip()
            if longer.startswith(shown) and longer != shown:
                turn.answer = f"{before}{longer}".strip()
                yield longer[len(shown) :]
                shown = longer
        turn.answer = f"{before}{without_thinking(text).strip()}".strip()


def request_settings(settings: DecodingSettings) -> dict[str, Any]:
    """Return the settings of a request: temperature 0 unless ``top_p`` samples."""
    if settings.top_p is None:
        return {"max_tokens": settings.max_new_tokens, "temperature": 0}
    return {
        "max_tokens": settings.max_new_tokens,
        "temperature": min(2.0, settings.temperature),
        "top_p": settings.top_p,
        "seed": settings.seed,
    }


def user_message(text: str, picture: Image) -> dict[str, Any]:
    """Return a message with a picture and a text."""
    return {"role": "user", "content": [image_part(picture), {"type": "text", "text": text}]}


def image_part(picture: Image) -> dict[str, Any]:
    """Return a picture as a part of a message: a JPEG without metadata, as a data URL."""
    smaller = picture.copy()
    smaller.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    smaller.info.clear()
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=JPEG_QUALITY)
    url = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}


def without_start(text: str, start: str | None) -> str:
    """Return a caption without the start that was asked for: the caption is what follows it."""
    start = " ".join((start or "").split())
    if start and text.casefold().startswith(start.casefold()):
        return text[len(start) :].strip(" ,:")
    return text
