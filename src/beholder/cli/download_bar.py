"""A progress bar for what a command downloads, on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from beholder.weights.download_progress import listening

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def download_bar() -> Iterator[None]:
    """Show the progress of downloads in this context; nothing if standard error is not a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    tasks: dict[str, TaskID] = {}
    bars: list[Progress] = []
    with ExitStack() as stack:

        def show(name: str, done: int, total: int | None) -> None:
            if not bars:  # most commands download nothing, and rich takes long to import
                bars.append(stack.enter_context(_progress()))
            if name not in tasks:
                tasks[name] = bars[0].add_task(f"downloading {name}", total=total)
            bars[0].update(tasks[name], completed=done, total=total)
            if all(task.finished for task in bars[0].tasks):  # nothing else may be drawn over
                stack.close()
                bars.clear()
                tasks.clear()

        with listening(show):
            yield


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
