"""Checkpoints of a training: each is complete or absent, and the last few are kept."""

import re
from pathlib import Path
from typing import Any

import torch

from beholder import files
from beholder.errors import ModelError, WriteFailed

NAME = re.compile(r"step-(\d+)\.pt")


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state atomically: a process that is killed, or a power cut, leaves the previous one in place.

    Raises:
        WriteFailed: the disk is full or gone; the previous checkpoint stays.
        KeyboardInterrupt: Ctrl-C; the previous checkpoint stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_file(path) as scratch, scratch.open("wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        if _interrupted(error):
            raise KeyboardInterrupt from error
        raise WriteFailed(f"{path}: the checkpoint can't be written ({error}); earlier ones stay") from error


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: torch's writer, closed prematurely, raises one of its own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write the state of a step, then remove all but the newest ``keep``; errors as of `write_checkpoint`."""
    path = folder / f"step-{step:08d}.pt"
    write_checkpoint(path, state)
    for old in checkpoints(folder)[:-keep]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Return those in a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name)


def replace_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state in place of the previous one, which is kept next to it; errors as of `write_checkpoint`."""
    if path.exists():
        try:
            with files.atomic_file(_previous(path)) as scratch:
                scratch.hardlink_to(path)
        except OSError:  # a file system without hard links keeps the newest alone
            _previous(path).unlink(missing_ok=True)
    write_checkpoint(path, state)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Load what `replace_checkpoint` wrote, or the previous state if that was removed; None if there is none.

    Raises:
        ModelError: it is damaged; the message says how to resume from the one before.
    """
    if path.exists():
        before = _previous(path) if _previous(path).exists() else None
        return _load(path, before)
    return _load(_previous(path), None) if _previous(path).exists() else None


def _previous(path: Path) -> Path:
    return path.with_suffix(f".previous{path.suffix}")


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Load the newest checkpoint of a folder; None where there is none.

    Raises:
        ModelError: it is damaged; the message names the one before it.
    """
    found = checkpoints(folder)
    if not found:
        return None
    files.remove_unfinished(folder)
    return _load(found[-1], found[-2] if found[1:] else None)


def _load(path: Path, before: Path | None) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises errors of many types
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        advice = "to start over" if before is None else f"to resume from {before.name}, the one before it"
        raise ModelError(f"{path}: this checkpoint is damaged ({reason}); remove it {advice}") from error
