"""Drawing pictures, as a widget that shows them as they grow."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from typing import Any

import ipywidgets
from PIL import Image

from beholder.errors import BeholderError
from beholder.notebook.markup import escape_html
from beholder.tasks.generate import GeneratedPicture, ImageGenerator

SIDE = "12rem"  # of a picture
PREVIEWS = 12  # of each drawing
NOTE = "margin:.3em 0;opacity:.75;font-style:italic"


class DrawingBox(ipywidgets.VBox):
    """A box for what to draw, a button, and below them the pictures.

    Args:
        generator: draws them.
        text: in the box at first.
        options: of `ImageGenerator.plan`.

    Attributes:
        pictures: what was drawn last, with seeds and scores.
    """

    def __init__(self, generator: ImageGenerator, text: str, options: dict[str, Any]):
        self.generator = generator
        self.options = options
        self.pictures: list[GeneratedPicture] = []
        self.prompt = ipywidgets.Text(
            value=text,
            placeholder="Describe the picture to draw",
            continuous_update=False,
            layout={"width": "auto", "flex": "1"},
        )
        self.button = ipywidgets.Button(description="Draw", button_style="primary", layout={"width": "5rem"})
        self.button.on_click(lambda _: self.draw())
        self.note = ipywidgets.HTML()
        self.drawings = ipywidgets.HBox(layout={"flex_flow": "row wrap"})
        row = ipywidgets.HBox([self.prompt, self.button])
        super().__init__([row, self.note, self.drawings], layout={"max_width": "60rem"})

    def draw(self) -> None:
        """Draw what the box says, and show each picture as it grows."""
        self.pictures, self.drawings.children = [], ()
        self.button.disabled = self.prompt.disabled = True
        notes: list[str] = []
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                image: ipywidgets.Image | None = None

                def on_step(step: int, steps: int, picture: Callable[[], Image.Image]) -> None:
                    nonlocal image
                    image = image or self._add()
                    if step * PREVIEWS // steps > (step - 1) * PREVIEWS // steps:
                        image.value = png(picture())
                        self.note.value = note(f"step {step} of {steps}")

                for drawn in self.generator.stream(self.prompt.value.strip() or None, on_step=on_step, **self.options):
                    self._finish(image or self._add(), drawn)
                    image = None
            notes = [str(each.message) for each in caught]
        except BeholderError as error:
            notes = [str(error)]
        finally:
            self.button.disabled = self.prompt.disabled = False
            self.note.value = "".join(map(note, notes))

    def _add(self) -> ipywidgets.Image:
        image = ipywidgets.Image(format="png", layout={"width": SIDE})
        self.drawings.children = (*self.drawings.children, ipywidgets.VBox([image, ipywidgets.HTML()]))
        return image

    def _finish(self, image: ipywidgets.Image, drawn: GeneratedPicture) -> None:
        self.pictures.append(drawn)
        image.value = png(drawn.picture)
        fit = "" if drawn.match is None else f", match {drawn.match:.0%}"
        self.drawings.children[-1].children[1].value = f"seed {drawn.seed}{fit}"


def png(picture: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    file = BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def note(text: str) -> str:
    """Return a note as HTML."""
    return f'<p style="{NOTE}">{escape_html(text)}</p>'
