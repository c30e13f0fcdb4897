"""How a language model behind a picture is spoken to."""

from dataclasses import dataclass

from beholder.errors import InvalidSetting


@dataclass(frozen=True)
class Prompts:
    """The words around a task, as the model was taught them.

    Attributes:
        caption: in front of a caption.
        question: around a question, which takes the place of ``{}``.
        between: between an answer and the next question of a conversation.
        lower: the model was taught captions in lower case, so they are given a capital letter in the end.
    """

    caption: str = ""
    question: str = "Question: {} Answer:"
    between: str = " "
    lower: bool = False

    def __post_init__(self) -> None:
        if self.question.count("{}") != 1:
            raise InvalidSetting(f"the prompt {self.question!r} needs one {{}} where the question goes")

    def asked(self, question: str) -> str:
        """The prompt of a question.

        Raises:
            InvalidSetting: there is no question.
        """
        if not question.strip():
            raise InvalidSetting("the question is empty")
        return self.question.replace("{}", " ".join(question.split()))

    def uncapitalize(self, text: str) -> str:
        """What `tidy` was given: the text as the model would have written it."""
        return text[:1].lower() + text[1:] if self.lower else text

    def postprocess(self, text: str) -> str:
        """What a model wrote, as a person would."""
        text = " ".join(text.split())
        return text[:1].upper() + text[1:] if self.lower else text
