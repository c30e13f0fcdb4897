"""Being told to stop: the step that runs is finished, what was learned is saved, then the program ends."""

import signal
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from beholder.errors import BeholderError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BeholderError):
    """A training was told to stop and has saved what it learned.

    Args:
        message: where it stopped, and how it goes on.
        number: of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class Interruption:
    """While this is entered, Ctrl-C and SIGTERM are only noted in ``number``; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.number = 0
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if current_thread() is not main_thread():
            return self  # only the main thread is told of signals
        for number in SIGNALS:
            self.before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
