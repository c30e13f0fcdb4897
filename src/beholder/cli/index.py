"""``beholder index``: add folders of pictures to an album."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli.options import AlbumFolder, Exact, Json, MaxBytes, MaxMegapixels, Model, Precision, PrecisionName

if TYPE_CHECKING:
    from beholder.album.album import Album
    from beholder.album.indexing import IndexedPicture

Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of pictures, or single pictures.")]
Exclude = Annotated[
    list[str], typer.Option("--exclude", "-x", help='Exclude files, as in a .gitignore: "raw/", "*.png".')
]
Check = Annotated[bool, typer.Option("--check", help="Check the album's integrity instead of indexing.")]
Verify = Annotated[bool, typer.Option("--verify", help="Read all files again, those that seem unchanged too.")]
Forget = Annotated[
    bool,
    typer.Option(
        "--forget",
        help="Remove the captions and keywords kept of missing pictures (below FOLDER...), instead of indexing.",
    ),
]
Watch = Annotated[bool, typer.Option("--watch", help="Keep running and index changes until interrupted.")]
Recall = Annotated[
    float | None,
    typer.Option("--recall", help="Recall required of the search in a large album; 0.95 at first."),
]


def command(
    folders: Folders = [],  # noqa: B006 (typer reads the default and never changes it)
    album: AlbumFolder = None,
    exclude: Exclude = [],  # noqa: B006
    check: Check = False,
    verify: Verify = False,
    forget: Forget = False,
    watch: Watch = False,
    recall: Recall = None,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    max_megapixels: MaxMegapixels = None,
    max_bytes: MaxBytes = None,
) -> None:
    """Add folders of pictures to an album, or update it with them.

    Only new and changed files are read; moved files are recognized, missing ones removed. Hidden folders are left
    out. It can be interrupted at any time: the same command continues. The pictures stay where they are. Captions and
    keywords that you wrote in the album are kept when a file is missing, and return with it.

    \b
    beholder index ~/Pictures
    beholder index photos/ --album my-album --exclude "raw/" --exclude "*.gif"
    beholder index --check
    beholder index --forget old-folder/ --album my-album
    """
    from beholder.album.album import Album
    from beholder.cli.output import print_json, warnings_on_one_line
    from beholder.cli.pictures import picture_limits
    from beholder.errors import InvalidSetting
    from beholder.runtime.precision import check_precision

    if check:
        if folders:
            raise InvalidSetting("--check checks the album as a whole: name no folders with it")
        raise typer.Exit(_check(Album.open(album, create_new=False), json))
    if forget:
        with Album.open(album, create_new=False) as opened:
            count = opened.forget(folders)
        if json:
            print_json({"forgotten": count})
        else:
            print(f"captions and keywords of {count} missing pictures removed")
        raise typer.Exit
    if not folders:
        raise InvalidSetting("nothing to index: name a folder of pictures")
    if watch:
        _require_watchdog()
    limits = picture_limits(max_megapixels, max_bytes)
    with warnings_on_one_line(), Album.open(album) as opened:

        def run() -> int:
            with _progress(json) as (on_file, on_total):
                summary = opened.index(
                    folders,
                    model=model,
                    exclude=exclude,
                    on_file=on_file,
                    on_total=on_total,
                    exact=exact,
                    limits=limits,
                    precision=check_precision(precision),
                    recall=recall,
                    verify=verify,
                )
            if not json:
                counts = {
                    name: getattr(summary, name) for name in ("added", "changed", "moved", "removed", "unchanged")
                }
                outcome = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
                failed = f", {len(summary.failed)} failed" if summary.failed else ""
                print(f"{opened.folder}: {outcome or 'no pictures'}{failed}", flush=True)
            return 1 if summary.failed else 0

        if watch:
            _follow(folders, run)
        code = run()
    raise typer.Exit(code)


@contextmanager
def _progress(json: bool) -> Iterator[tuple]:
    """Report outcomes as JSON lines, failures on standard error, and a progress bar on a terminal."""
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

    from beholder.cli.output import print_json, print_message

    class Rate(ProgressColumn):
        """Formatted when drawn: doing so for each of many thousand unchanged files would take longer than they do."""

        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.0f}/s")

    console = Console(stderr=True)
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("indexing", total=None)

        def on_file(picture: IndexedPicture) -> None:
            if json:
                status = "added" if picture.status == "changed" else picture.status
                row: dict[str, object] = {"image": picture.path, "status": status, "error": picture.error}
                if picture.status == "changed":
                    row["changed"] = True
                if picture.moved_from is not None:
                    row["before"] = picture.moved_from
                print_json(row)
            if picture.status == "failed":
                print_message(f"{picture.name}: {picture.error}")
            bar.advance(task)

        yield on_file, lambda total: bar.update(task, total=total)


def _check(album: Album, json: bool) -> int:
    from beholder.cli.output import print_json
    from beholder.pictures.read import display_name

    failed = album.failed()
    sound = True
    for what, ok, detail in album.check():
        sound &= ok
        if json:
            print_json({"check": what, "ok": ok, "detail": detail})
        else:
            print(f"{'ok  ' if ok else 'BAD '} {what}: {detail}")
    if not json:
        for path, reason in failed:
            print(f"not in the album: {display_name(path, 0)}: {reason}")
    return 0 if sound else 1


def _require_watchdog() -> None:
    from beholder.errors import MissingExtra

    try:
        import watchdog  # noqa: F401
    except ImportError as error:
        raise MissingExtra("following changes", "watch") from error


def _follow(folders: list[Path], run: Callable[[], int]) -> None:
    """Index, and again shortly after something below the folders has changed, until interrupted.

    Observing starts before the first run, so that no change is missed in between.
    """
    import threading

    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    changed = threading.Event()

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type in ("created", "deleted", "modified", "moved"):
                changed.set()

    observer = Observer()
    for folder in folders:
        observer.schedule(Handler(), str(folder.expanduser()), recursive=True)
    observer.start()
    try:
        run()
        while True:
            changed.wait()
            while changed.is_set():  # copying many files takes a while: wait until nothing changes
                changed.clear()
                changed.wait(1.0)
            run()
    finally:
        observer.stop()
        observer.join()
