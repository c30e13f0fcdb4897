"""The folder of a training run, which the same call resumes and another one must not."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beholder.errors import InvalidSetting


@dataclass(frozen=True)
class Progress:
    """How far the training in a folder has come.

    Attributes:
        step: after which its newest checkpoint was written.
        steps: the number of steps that it was started with.
    """

    step: int
    steps: int | None


def check_resumable(
    out: Path,
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    progress: Progress | None,
    steps: int,
    duration: Collection[str],
) -> None:
    """Refuse to resume a training with other settings; a finished one may be given more steps.

    Args:
        out: the folder of the run.
        before: the settings of the training in it, by dotted names.
        now: the settings that it is to continue with.
        progress: of that training; None before its first checkpoint.
        steps: the number of steps that it is to have now.
        duration: the settings that determine the number of steps.

    Raises:
        InvalidSetting: a setting has changed; the message names it.
    """
    extended = progress is not None and progress.step == progress.steps and steps > progress.step
    names = {*before, *now}.difference(duration if extended else ())
    changed = sorted(name for name in names if before.get(name) != now.get(name))
    if changed:
        raise InvalidSetting(
            f"{out}: holds a training with another {', '.join(changed)}; name another folder, or remove this one to "
            "start over"
        )
