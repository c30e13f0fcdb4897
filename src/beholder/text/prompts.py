"""The prompts with which the language model of a vision-language model is addressed."""

from dataclasses import dataclass

from beholder.errors import InvalidSetting
from beholder.text.script import is_chinese, is_non_latin

ENGLISH = "en"
NOTICE_IN_CHINESE = "这个模型只会用英语回答，也只看得懂英语问题。请用英语提问。"
NOTICE = "This model answers in English and understands questions in English only. Please ask in English."


@dataclass(frozen=True)
class Prompts:
    """The text around a task, as the model was trained with it.

    Attributes:
        caption: precedes a caption.
        question: template of a question, which replaces ``{}``.
        separator: between an answer and the next question of a conversation.
        lowercase: the model was trained on lowercase captions, so its output is capitalized.
        language: the only language that the language model knows, such as ``en``; empty if it may know others.
    """

    caption: str = ""
    question: str = "Question: {} Answer:"
    separator: str = " "
    lowercase: bool = False
    language: str = ""

    def __post_init__(self) -> None:
        if self.question.count("{}") != 1:
            raise InvalidSetting(f"the prompt {self.question!r} needs one {{}} where the question goes")

    def format_question(self, question: str) -> str:
        """Return the prompt of a question.

        Raises:
            InvalidSetting: the question is empty or not a str.
        """
        return self.question.replace("{}", checked_question(question))

    def language_notice(self, question: str) -> str:
        """Return what to say to a question in a script that the model does not know; empty if it can be answered."""
        if self.language != ENGLISH or not is_non_latin(question):
            return ""
        return NOTICE_IN_CHINESE if is_chinese(question) else NOTICE

    def uncapitalize(self, text: str) -> str:
        """Undo the capitalization of `postprocess`: the text as the model itself would have written it."""
        return text[:1].lower() + text[1:] if self.lowercase else text

    def postprocess(self, text: str) -> str:
        """Return generated text with single spaces and, of a lowercase model, with a capital first letter."""
        text = " ".join(text.split())
        return text[:1].upper() + text[1:] if self.lowercase else text


def checked_question(question: str) -> str:
    """Return a question on one line.

    Raises:
        InvalidSetting: it is empty or not a str.
    """
    if not isinstance(question, str):
        raise InvalidSetting(f"the question must be a str, not {type(question).__name__}")
    if not question.strip():
        raise InvalidSetting("the question is empty")
    return " ".join(question.split())
