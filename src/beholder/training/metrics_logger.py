"""What a training says of itself: JSON lines always, TensorBoard where it is wished."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beholder.errors import MissingExtra

Row = dict[str, Any]


class MetricsLogger:
    """A file of JSON lines, each with its ``step``.

    Args:
        path: the file; where it is there already, what a resumed training will say again is dropped from it.
        done: the step that the training goes on behind.
        tensorboard: a folder for TensorBoard's own files.

    Raises:
        MissingExtra: ``tensorboard`` is not installed.
    """

    def __init__(self, path: Path, done: int, tensorboard: Path | None = None):
        kept = [line for line in path.read_text("utf-8").splitlines() if _step(line) <= done] if path.exists() else []
        aside = path.with_suffix(".part")
        aside.write_text("".join(line + "\n" for line in kept), "utf-8")
        aside.replace(path)
        self.file = path.open("a", encoding="utf-8")
        self.board: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtra("TensorBoard", "tensorboard") from error
            self.board = SummaryWriter(str(tensorboard), purge_step=done + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """One line, on disk when this returns."""
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self.board.add_scalar(name, value, row["step"])
            self.board.flush()

    def close(self) -> None:
        """Closes the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line that was cut short
