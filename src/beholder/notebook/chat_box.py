"""A chat about a picture, as a widget."""

from __future__ import annotations

import warnings
from typing import Any

import ipywidgets

from beholder.errors import InvalidSetting
from beholder.notebook.markup import conversation_html, escape_html, thumbnail_jpeg
from beholder.pictures.read import ImageSource
from beholder.tasks.conversation import Conversation

SIDE = 480  # pixels of the picture's longer side
NOTE = "margin:.3em 0;opacity:.75;font-style:italic"


class ChatBox(ipywidgets.HBox):
    """The picture on the left; on the right the transcript, a box for the next question, and a button.

    Attributes:
        conversation: its ``history`` holds all questions and answers.
    """

    def __init__(self, image: ImageSource, conversation: Conversation):
        self.conversation = conversation
        self.notes: list[str] = []
        self.picture = ipywidgets.Image(
            value=thumbnail_jpeg(image, 0, SIDE), format="jpeg", layout={"max_width": "45%"}
        )
        self.transcript = ipywidgets.HTML()
        self.question = ipywidgets.Text(
            placeholder="Ask about the picture", continuous_update=False, layout={"width": "auto", "flex": "1"}
        )
        self.button = ipywidgets.Button(description="Ask", button_style="primary", layout={"width": "5rem"})
        self.question.observe(self._typed, "value")
        self.button.on_click(self._typed)
        row = ipywidgets.HBox([self.question, self.button])
        side = ipywidgets.VBox(
            [self.transcript, row], layout={"flex": "1", "padding": "0 0 0 1rem", "min_width": "16rem"}
        )
        super().__init__([self.picture, side], layout={"align_items": "flex-start", "flex_flow": "row wrap"})

    def ask(self, question: str) -> None:
        """Ask a question and show the answer as it is generated."""
        self.notes = []
        self.button.disabled = self.question.disabled = True
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                for _ in self.conversation.stream(question):
                    self._show()
            self.notes = [str(each.message) for each in caught]
        except InvalidSetting as error:
            self.notes = [str(error)]
        finally:
            self.button.disabled = self.question.disabled = False
            self._show()

    def _typed(self, _: Any) -> None:
        question = self.question.value.strip()
        if not question:
            return
        self.question.value = ""  # triggers this handler again, with nothing to do
        self.ask(question)

    def _show(self) -> None:
        notes = [f'<p style="{NOTE}">{escape_html(note)}</p>' for note in self.notes]
        self.transcript.value = conversation_html(self.conversation.history) + "".join(notes)
