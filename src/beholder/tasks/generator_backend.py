"""What `ImageGenerator` needs of a model: the seam behind which every kind of image generator stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from PIL import Image

if TYPE_CHECKING:
    import numpy as np

    from beholder.tasks.dual_encoder import DualEncoder

OnStep = Callable[[int, int, Callable[[], Image.Image]], None]  # the step, of how many, and what is drawn by then


@dataclass(frozen=True, eq=False)
class DrawingRequest:
    """What to draw; at least one of ``text``, ``like`` and ``embedding`` is given.

    Attributes:
        text: what the picture is to show.
        like: pictures, read and upright, that it is to resemble.
        minus: what it is not to show.
        embedding: (E,), of the picture itself.
        steps: of the sampling; None for the model's own number.
        guidance: scale of classifier-free guidance; None for the model's own.
        size: width and height; None for the model's own.
    """

    text: str | None = None
    like: Sequence[Image.Image] = ()
    minus: Sequence[str] = ()
    embedding: np.ndarray | None = None
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None


class Drawer(Protocol):
    """A request whose texts and pictures have been embedded."""

    def draw(self, seed: int, on_step: OnStep | None = None) -> Image.Image:
        """Draw a picture; the same seed draws the same one."""
        ...


class GeneratorBackend(Protocol):
    """A model that draws pictures."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hexadecimal hash of everything that determines a picture."""
        ...

    @property
    def encoder(self) -> DualEncoder | None:
        """The dual encoder that finds the best of several candidates; None if there is none."""
        ...

    def truncates(self, text: str) -> bool:
        """Whether a text is longer than what the model reads of it."""
        ...

    def prepare(self, request: DrawingRequest) -> Drawer:
        """Check and embed a request.

        Raises:
            InvalidSetting: the model can't draw it.
        """
        ...
