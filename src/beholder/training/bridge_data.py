"""The texts of a bridge's training: captions, questions and answers, read, checked and tokenized."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as LanguageTokenizer

from beholder.errors import InvalidSetting
from beholder.models.language_model import LanguageModel
from beholder.text.json_lines import read_json_lines
from beholder.text.prompts import Prompts
from beholder.training.bridge_config import BridgeConfig, BridgeData
from beholder.training.bridge_stages import Pair
from beholder.training.examples import text_key, texts_of

FORM = (
    'image, and captions or a question with its answer, such as {"image": "a.jpg", "captions": ["a cat"]} or '
    '{"image": "a.jpg", "question": "What is it?", "answer": "a cat"}'
)


@dataclass(frozen=True)
class BridgeExample:
    """An image with its captions, and with questions and their answers."""

    path: Path
    captions: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()


def read_bridge_examples(file: Path) -> list[BridgeExample]:
    """Read JSON lines with ``image`` (relative to the file), and ``captions``, or ``question`` and ``answer``.

    Lines of the same image are merged.

    Raises:
        InvalidSetting: the file is missing or empty, or a line has another form; the message names its number.
    """
    if not file.is_file():
        raise InvalidSetting(f"{file}: no such file; it should hold JSON lines with {FORM}")
    found: dict[Path, BridgeExample] = {}
    for line in read_json_lines(file, lambda row: _example(row, file.parent), FORM):
        before = found.get(line.path, BridgeExample(line.path))
        found[line.path] = replace(
            before, captions=before.captions + line.captions, questions=before.questions + line.questions
        )
    return list(found.values())


def _example(row: dict[str, Any], folder: Path) -> BridgeExample:
    path = folder / row["image"]
    if "question" not in row:
        return BridgeExample(path, captions=texts_of(row))
    question, answer = row["question"], row["answer"]
    if not (isinstance(question, str) and isinstance(answer, str) and question.strip() and answer.strip()):
        raise TypeError("no question or no answer")
    return BridgeExample(path, questions=((question, answer),))


def read_bridge_data(config: BridgeConfig) -> tuple[BridgeData, list[BridgeExample], list[BridgeExample]]:
    """Read the data that a config names: training and validation examples.

    Raises:
        InvalidSetting: there is none, too little, or nothing in it to tell apart; or the config lacks what
            ``beholder train bridge`` needs.
    """
    data = config.data
    if data is None:
        raise InvalidSetting("data: this config names no pictures to train on")
    if not config.bridge.language_width or not config.bridge.embedding:
        raise InvalidSetting("bridge: both stages need an embedding and a language_width above 0")
    training = read_bridge_examples(Path(data.train))
    validation = read_bridge_examples(Path(data.evaluate)) if data.evaluate else []
    captioned = sum(bool(each.captions) for each in training)
    for name, stage, count in (("stage_1", config.stage_1, captioned), ("stage_2", config.stage_2, len(training))):
        if stage.steps and stage.batch > count:
            what = "captioned pictures" if name == "stage_1" else "pictures"
            raise InvalidSetting(f"{name}.batch {stage.batch} is more than the {count} {what} of {data.train}")
    if config.stage_1.steps and config.stage_1.batch < 2:
        raise InvalidSetting("stage_1.batch 1: at least 2, or a picture has no negatives")
    check_texts_differ(training, data.train)
    return data, training, validation


def check_texts_differ(examples: Sequence[BridgeExample], name: str) -> None:
    """Refuse several images that all have the same text.

    Raises:
        InvalidSetting: they do.
    """
    captions = {(text_key(caption),) for each in examples for caption in each.captions}
    answers = {(text_key(question), text_key(answer)) for each in examples for question, answer in each.questions}
    if len(examples) > 1 and len(captions | answers) == 1:
        raise InvalidSetting(f"{name}: all pictures have the same text; with nothing to tell apart, nothing is learned")


def tokenize_texts(
    example: BridgeExample,
    prompts: Prompts,
    language_tokenizer: LanguageTokenizer,
    language: LanguageModel,
    data: BridgeData,
) -> list[Pair]:
    """Tokenize all texts of an image: each as the ids of a prompt and of the target after it.

    Raises:
        InvalidSetting: the prompt of a caption has no token.
    """

    def pair(prompt: str, text: str) -> Pair:
        text = " ".join(text.split())
        text = text.lower() if prompts.lowercase else text
        target = language_tokenizer.encode(f" {text}", add_special_tokens=False).ids
        prefix = language_tokenizer.encode(prompt, add_special_tokens=True).ids
        if not prefix:
            raise InvalidSetting("prompts.caption: this language model needs at least one token before a caption")
        return prefix, [*target[: data.longest], *language.eos_token_ids[:1]]

    captions: Sequence[str] = example.captions
    if prompts.lowercase:
        captions = [f"{caption.rstrip(' .')}." for caption in captions]
    answers = [pair(prompts.format_question(question), answer) for question, answer in example.questions]
    return [pair(prompts.caption, caption) for caption in captions] + answers
