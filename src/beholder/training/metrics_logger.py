"""The log of a training: JSON lines always, TensorBoard on request."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from beholder import files
from beholder.errors import MissingExtra

Row = dict[str, Any]


class MetricsLogger:
    """A file of JSON lines, each with its ``step``.

    Args:
        path: the file. Lines after ``last_step``, which a resumed training writes again, are removed from it.
        last_step: the step after which the training continues.
        tensorboard: folder of TensorBoard's event files.

    Raises:
        MissingExtra: ``tensorboard`` is not installed.
    """

    def __init__(self, path: Path, last_step: int, tensorboard: Path | None = None):
        before = path.read_text("utf-8").splitlines() if path.exists() else []
        files.write_text(path, "".join(f"{line}\n" for line in before if _step(line) <= last_step))
        self.file = path.open("a", encoding="utf-8")
        self.board: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingExtra("TensorBoard", "tensorboard") from error
            self.board = SummaryWriter(str(tensorboard), purge_step=last_step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write a line, which is in the file when this returns."""
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self.board.add_scalar(name, value, row["step"])
            self.board.flush()

    def close(self) -> None:
        """Close the files."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a truncated line
