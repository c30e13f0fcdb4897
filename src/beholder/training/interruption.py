"""Ctrl-C and SIGTERM during a training: the current step is finished and saved, then the program ends."""

import signal
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from beholder.errors import BeholderError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BeholderError):
    """A training was interrupted by a signal, after it saved a checkpoint.

    Args:
        message: where it stopped, and how to resume.
        number: of the signal.
    """

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.number = number


class Interruption:
    """Context in which Ctrl-C and SIGTERM are deferred: ``number`` is that of the signal, or 0.

    A second Ctrl-C raises KeyboardInterrupt at once.
    """

    def __init__(self) -> None:
        self.number = 0
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if current_thread() is not main_thread():
            return self  # only the main thread receives signals
        for number in SIGNALS:
            self.handlers[number] = signal.signal(number, self._defer)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _defer(self, number: int, _: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
