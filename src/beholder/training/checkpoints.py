"""Checkpoints of a training: each whole or not there, the last few kept."""

import os
import re
from pathlib import Path
from typing import Any

import torch

from beholder.errors import ModelError, WriteFailed

NAME = re.compile(r"step-(\d+)\.pt")
ASIDE = ".part"


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes a state aside, brings it to the disk, then renames it.

    A process that is killed, or a power cut, at any moment leaves what was there before.

    Raises:
        WriteFailed: the disk is full, or gone; what was there stays.
    """
    aside = path.with_suffix(ASIDE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _folder_to_disk(path.parent)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        aside.unlink(missing_ok=True)
        raise WriteFailed(f"{path}: the checkpoint can't be written ({error}); earlier ones stay") from error


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Writes the state of a step, then removes all but the newest ``keep``; errors as of `write_checkpoint`."""
    path = folder / f"step-{step:08d}.pt"
    write_checkpoint(path, state)
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Those in a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name)


def load_newest(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint's state; None where there is none.

    Raises:
        ModelError: it can't be read.
    """
    found = checkpoints(folder)
    if not found:
        return None
    try:
        return torch.load(found[-1], map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged archive, of any type
        raise ModelError(
            f"{found[-1]}: this checkpoint is damaged ({error}); remove it to go on from another"
        ) from error


def _folder_to_disk(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
