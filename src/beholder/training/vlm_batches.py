"""From examples to batches of a vision-language model: pictures and prompts by its processor, answers after them.

Shapes: B rows, T tokens of a row: prompt with the picture's tokens, answer, padding; V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from beholder.errors import InvalidSetting, ModelError, PictureError
from beholder.tasks.caption_options import CaptionOptions
from beholder.tasks.image_text_to_text import separator, user_message
from beholder.tasks.image_text_to_text_model import ImageTextToTextModel
from beholder.tasks.instructions import answer_briefly, describe
from beholder.tasks.pictures import decode_picture
from beholder.tasks.thinking import CLOSE, starts_thinking
from beholder.tasks.transformers_conversation import TransformersConversation
from beholder.tasks.transformers_generation import TransformersGenerator
from beholder.training.bridge_losses import IGNORED
from beholder.training.vlm_config import VlmDataConfig
from beholder.training.vlm_data import VlmExample

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class AnswerBatch:
    """The inputs of a network, and what it should answer.

    Attributes:
        inputs: of the network, ``input_ids`` (B, T) among them.
        labels: (B, T), the answers' tokens where they stand in ``input_ids``, `IGNORED` everywhere else.
    """

    inputs: Mapping[str, Any]
    labels: Tensor

    @property
    def targets(self) -> int:
        """The number of tokens that are learned."""
        return int((self.labels != IGNORED).sum())


class BatchEncoder:
    """Encodes examples as a model reads them when it captions and answers, with the answer after the prompt.

    Args:
        generator: the model with its processor and chat template.
        data: settings of prompts and lengths.
        on_skip: called with the name of each picture that can't be used, and the reason.

    Raises:
        InvalidSetting: the family follows no instructions, or holds no conversation.
    """

    def __init__(self, generator: TransformersGenerator, data: VlmDataConfig, on_skip: Callable[[str, str], None]):
        self.generator = generator
        self.model = ImageTextToTextModel(generator, TransformersConversation)  # whose prompts are learned
        self.data = data
        self.on_skip = on_skip
        self.lock = Lock()  # a tokenizer can't be used by two threads at once
        self.caption = CaptionOptions(instruction=data.instruction)
        self.model.caption_prompt(self.caption)
        if generator.plain_prompts is not None and not data.brief:
            raise InvalidSetting(
                f"data.brief: a {generator.model_type} has no chat template, so it holds no conversation; leave it out"
            )

    def __call__(self, examples: Sequence[VlmExample]) -> AnswerBatch | None:
        """Return a batch of those examples that can be used; None if none can."""
        read = [(each, self._read(each)) for each in examples]
        with self.lock:
            return self._encode([(each, picture) for each, picture in read if picture is not None])

    def texts(self, example: VlmExample) -> tuple[str, str, str]:
        """Return the prompt of an example, the answer, and what the chat template writes after the prompt.

        Raises:
            ModelError: the family answers no questions, or its chat template fails.
        """
        generator = self.generator
        plain = generator.plain_prompts is not None
        one_line = example.question is None or self.data.brief
        answer = generator.plain(" ".join(example.text.split()) if one_line else example.text.strip())
        if example.question is None:
            text = self.model.caption_prompt(self.caption) if plain else generator.plain(describe(self.caption))
        elif plain:
            text = self.model.question_prompt(example.question)
        else:
            question = generator.checked_question(example.question)
            text = answer_briefly(question) if self.data.brief else question
        if plain:
            return text, answer, ""
        messages = [user_message(text, pictures=1)]
        prompt = generator.render(messages)
        if starts_thinking(prompt):  # an empty thought is learned, too
            return prompt, f"\n{CLOSE}\n\n{answer}", ""
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        whole = generator.render(messages)
        return prompt, answer, whole.removeprefix(prompt) if whole.startswith(prompt) else ""

    def answer_ids(self, prompt: str, answer: str, rest: str) -> list[int]:
        """Return the tokens of an answer and of its end as they would be generated after a prompt, cut to the longest.

        Args:
            prompt: before the answer.
            answer: its text.
            rest: what the chat template writes after the prompt: the answer, its end, and more; empty if there is none.
        """
        ends = self.generator.eos_token_ids
        if answer in rest:
            ids = self._continuation(prompt, rest)
            if end := next((number for number, token in enumerate(ids, start=1) if token in ends), 0):
                return ids[: min(end, self.data.longest)]
        ids = [*self._continuation(prompt, f"{separator(prompt)}{answer}"), *ends[:1]]
        return ids[: self.data.longest]

    def _continuation(self, prompt: str, rest: str) -> list[int]:
        """Return the tokens of a text as they stand after a prompt."""
        tokenizer = self.generator.tokenizer
        before, whole = tokenizer([prompt, prompt + rest], padding=False)["input_ids"]
        if whole[: len(before)] == before:
            return list(whole[len(before) :])
        return list(tokenizer(rest, add_special_tokens=False)["input_ids"])

    def _read(self, example: VlmExample) -> "Image | None":
        name = str(example.path)
        try:
            return decode_picture(example.path, name)
        except PictureError as error:
            self.on_skip(name, error.reason)
            return None

    def _encode(self, examples: Sequence[tuple[VlmExample, "Image"]]) -> AnswerBatch | None:
        if not examples:
            return None
        texts = [self.texts(each) for each, _ in examples]
        try:
            inputs = self.generator.encode([[picture] for _, picture in examples], [prompt for prompt, *_ in texts])
        except Exception as error:  # processors raise errors of any type for pictures that do not suit them
            if len(examples) == 1:
                self.on_skip(str(examples[0][0].path), f"the processor refuses it ({error})")
                return None
            usable = [one for one in examples if self._encode([one]) is not None]
            if len(usable) == len(examples):
                raise ModelError(f"{self.generator.name}: its processor can't make a batch ({error})") from error
            return self._encode(usable)
        plain = self.generator.plain_prompts
        answers = []
        for (prompt, text, rest), row in zip(texts, inputs["input_ids"], strict=True):
            last = self.generator.tokenizer.decode(row[-1:])  # PaliGemma's processor ends a prompt with a line break
            answers.append(self.answer_ids(prompt + last if plain and last.isspace() else prompt, text, rest))
        lengths = inputs["attention_mask"].sum(1).tolist()
        context = self.generator.context_length
        fitting = []
        for one, length, answer in zip(examples, lengths, answers, strict=True):
            if context and length + len(answer) > context:
                needed = f"picture, prompt and answer have {length + len(answer)} tokens"
                self.on_skip(str(one[0].path), f"{needed}; the model's context is {context}")
            else:
                fitting.append(one)
        if len(fitting) < len(examples):
            return self._encode(fitting)
        kind = plain.answer_token_type if plain is not None else 0
        return append_answers(inputs, answers, int(self.generator.tokenizer.pad_token_id), kind)


def append_answers(
    inputs: Mapping[str, Any], answers: Sequence[Sequence[int]], pad_token_id: int, answer_token_type: int = 0
) -> AnswerBatch:
    """Append an answer to each prompt; all padding comes after it.

    Args:
        inputs: of the network, for B prompts that are padded anywhere.
        answers: the tokens of each.
        pad_token_id: the padding.
        answer_token_type: the entry of ``token_type_ids`` for a token of an answer.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    lengths = [int(row.sum()) for row in mask]
    size = len(answers), max(length + len(answer) for length, answer in zip(lengths, answers, strict=True))
    labels = ids.new_full(size, IGNORED)
    longer = dict(inputs)
    for key, value in inputs.items():
        if key not in ("input_ids", "attention_mask") and not key.endswith("token_type_ids"):
            continue
        if value.shape != ids.shape:  # of another sequence, as a Q-Former's
            continue
        filled = value.new_full(size, pad_token_id if key == "input_ids" else 0)
        for row, (length, answer) in enumerate(zip(lengths, answers, strict=True)):
            tokens = torch.tensor(answer, dtype=value.dtype, device=value.device)
            entry = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
            filled[row, :length] = value[row][mask[row]]
            filled[row, length : length + len(answer)] = entry.get(key, torch.full_like(tokens, answer_token_type))
            if key == "input_ids":
                labels[row, length : length + len(answer)] = tokens
        longer[key] = filled
    return AnswerBatch(longer, labels)
