"""``beholder index``: add folders of pictures to an album."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli.options import AlbumFolder, Exact, Json, MaxBytes, MaxMegapixels, Model, Precision, PrecisionName

if TYPE_CHECKING:
    from beholder.album.album import Album
    from beholder.album.indexing import IndexedPicture
    from beholder.album.picture import Picture
    from beholder.errors import PictureError
    from beholder.pictures.limits import Limits

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
Video = Annotated[bool, typer.Option("--video", help="Index videos, too: a frame of each scene.")]
ReadText = Annotated[
    bool, typer.Option("--read-text", help="Read the text in pictures, Chinese and English, for searches and text:.")
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
    video: Video = False,
    read_text: ReadText = False,
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
    if read_text:
        _require_rapidocr()
    limits = picture_limits(max_megapixels, max_bytes)
    with warnings_on_one_line(), Album.open(album) as opened:

        def run() -> int:
            with _progress("indexing") as (advance, on_total):

                def on_file(picture: IndexedPicture) -> None:
                    _report(picture, json)
                    advance()

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
                    videos=video,
                )
            if not json:
                counts = {
                    name: getattr(summary, name) for name in ("added", "changed", "moved", "removed", "unchanged")
                }
                outcome = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
                if summary.raw_companions:
                    outcome += f", {summary.raw_companions} RAW files belong to a JPEG"
                failed = f", {len(summary.failed)} failed" if summary.failed else ""
                print(f"{opened.folder}: {outcome or 'no pictures'}{failed}", flush=True)
            unread = _read_texts(opened, folders, limits, json) if read_text else 0
            return 1 if summary.failed or unread else 0

        if watch:
            _follow(folders, run)
        code = run()
    raise typer.Exit(code)


def _report(picture: IndexedPicture, json: bool) -> None:
    """Report an outcome as a JSON line, and a failure on standard error."""
    from beholder.cli.output import print_json, print_message

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


def _read_texts(album: Album, folders: list[Path], limits: Limits, json: bool) -> int:
    """Read the text in pictures, print how many have some and how fast, and return how many could not be read."""
    from beholder.cli.output import print_message
    from beholder.errors import PictureError

    counts = {"read": 0, "with text": 0, "failed": 0}
    start = time.monotonic()
    with _progress("reading text") as (advance, on_total):

        def on_picture(picture: Picture, text: str | PictureError) -> None:
            counts["read"] += 1
            if isinstance(text, PictureError):
                counts["failed"] += 1
                print_message(str(text))
            elif text:
                counts["with text"] += 1
            advance()

        album.read_texts(folders, on_picture=on_picture, on_total=on_total, limits=limits)
    rate = counts["read"] / max(time.monotonic() - start, 1e-3)
    told = f"text in {counts['with text']} of {counts['read']} pictures read, {rate:.1f} pictures/s"
    if json:
        print_message(told)
    else:
        print(told, flush=True)
    return counts["failed"]


@contextmanager
def _progress(what: str) -> Iterator[tuple[Callable[[], None], Callable[[int], None]]]:
    """Show a progress bar on a terminal; yield functions that advance it and set its total."""
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

    class Rate(ProgressColumn):
        """Formatted when drawn: doing so for each of many thousand unchanged files would take longer than they do."""

        def render(self, task: Task) -> Text:
            digits = 0 if (task.speed or 0) >= 10 else 1
            return Text("" if task.speed is None else f"{task.speed:.{digits}f}/s")

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)

        yield lambda: bar.advance(task), lambda total: bar.update(task, total=total)


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


def _require_rapidocr() -> None:
    from importlib.util import find_spec

    from beholder.errors import MissingExtra

    if find_spec("rapidocr") is None:
        raise MissingExtra("reading text in pictures", "ocr")


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
