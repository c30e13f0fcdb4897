"""``beholder index``: folders of pictures come into an album."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli.options import AlbumFolder, Exact, Json, Model, Precision, PrecisionName

if TYPE_CHECKING:
    from beholder.album.album import Album
    from beholder.album.indexing import IndexedPicture

Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of pictures, or single pictures.")]
Exclude = Annotated[
    list[str], typer.Option("--exclude", "-x", help='Leave these out, as in a .gitignore: "raw/", "*.png".')
]
Check = Annotated[bool, typer.Option("--check", help="Look after the album instead: is all in it whole and found?")]
Watch = Annotated[bool, typer.Option("--watch", help="Go on and follow changes until interrupted.")]
Recall = Annotated[
    float | None,
    typer.Option("--recall", help="Share of the true nearest that a search in a large album must find; 0.95 at first."),
]


def command(
    folders: Folders = [],  # noqa: B006 (typer reads the default and never changes it)
    album: AlbumFolder = None,
    exclude: Exclude = [],  # noqa: B006
    check: Check = False,
    watch: Watch = False,
    recall: Recall = None,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
) -> None:
    """Bring an album up to date with folders of pictures.

    Only what is new or changed is looked at; moved files are recognised, and those that are gone go. Hidden folders
    are left out. It may be interrupted at any moment: the same command goes on. The pictures stay where they are.

    \b
    beholder index ~/Pictures
    beholder index photos/ --album my-album --exclude "raw/" --exclude "*.gif"
    beholder index --check
    """
    from beholder.album.album import Album
    from beholder.cli.pictures import warnings_on_one_line
    from beholder.errors import InvalidSetting
    from beholder.runtime.precision import check_precision

    if check:
        if folders:
            raise InvalidSetting("--check looks at the album alone: name no folders with it")
        raise typer.Exit(_check(Album.open(album, create_new=False), json))
    if not folders:
        raise InvalidSetting("nothing to index: name a folder of pictures")
    if watch:
        _need_watchdog()
    with warnings_on_one_line(), Album.open(album) as opened:

        def run() -> int:
            with _shown(json) as (report, expect):
                summary = opened.index(
                    folders,
                    model=model,
                    exclude=exclude,
                    report=report,
                    expect=expect,
                    exact=exact,
                    precision=check_precision(precision),
                    recall=recall,
                )
            if not json:
                counts = {
                    name: getattr(summary, name) for name in ("added", "changed", "moved", "removed", "unchanged")
                }
                told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
                failed = f", {len(summary.failed)} failed" if summary.failed else ""
                print(f"{opened.folder}: {told or 'no pictures'}{failed}", flush=True)
            return 1 if summary.failed else 0

        code = run()
        if watch:
            _follow(folders, run)
    raise typer.Exit(code)


@contextmanager
def _shown(json: bool) -> Iterator[tuple]:
    """Where what becomes of each file is shown: lines of JSON, failures, and a progress bar on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    from beholder.cli.pictures import fail, print_json

    class Rate(ProgressColumn):
        """Worked out when it is drawn: for each of many thousand unchanged files it would take longer than they do."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.0f}/s")

    console = Console(stderr=True)
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("indexing", total=None)

        def report(picture: IndexedPicture) -> None:
            if json:
                status = "added" if picture.status == "changed" else picture.status
                row: dict[str, object] = {"image": picture.name, "status": status, "error": picture.error}
                if picture.status == "changed":
                    row["changed"] = True
                if picture.before is not None:
                    row["before"] = picture.before
                print_json(row)
            if picture.status == "failed":
                fail(f"{picture.name}: {picture.error}")
            bar.advance(task)

        yield report, lambda total: bar.update(task, total=total)


def _check(album: Album, json: bool) -> int:
    from beholder.cli.pictures import print_json
    from beholder.pictures.read import display_name

    failed = album.failed()
    well = True
    for what, ok, detail in album.check():
        well &= ok
        if json:
            print_json({"check": what, "ok": ok, "detail": detail})
        else:
            print(f"{'ok  ' if ok else 'BAD '} {what}: {detail}")
    if not json:
        for path, reason in failed:
            print(f"not in the album: {display_name(path, 0)}: {reason}")
    return 0 if well else 1


def _need_watchdog() -> None:
    from beholder.errors import MissingExtra

    try:
        import watchdog  # noqa: F401
    except ImportError as error:
        raise MissingExtra("following changes", "watch") from error


def _follow(folders: list[Path], run: Callable[[], int]) -> None:
    """Indexes again a moment after something below the folders has changed."""
    import threading

    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    changed = threading.Event()

    class Bell(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type in ("created", "deleted", "modified", "moved"):
                changed.set()

    observer = Observer()
    for folder in folders:
        observer.schedule(Bell(), str(folder.expanduser()), recursive=True)
    observer.start()
    try:
        while True:
            changed.wait()
            while changed.is_set():  # a copy of many files takes a while: wait until it is quiet
                changed.clear()
                changed.wait(1.0)
            run()
    finally:
        observer.stop()
        observer.join()
