"""``beholder search``: find pictures in an album."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from beholder.cli.options import AlbumFolder, AlbumModel, Json, Where

if TYPE_CHECKING:
    from beholder.album.search import SearchResult

Queries = Annotated[
    list[str], typer.Argument(metavar="QUERY...", help="What to search for; each is a separate search.")
]
Images = Annotated[list[str], typer.Option("--image", "-i", help="Example picture; combined with the words.")]
Minus = Annotated[list[str], typer.Option("--minus", help="Words to subtract.")]
MinusImages = Annotated[list[str], typer.Option("--minus-image", help="Picture to subtract.")]
Top = Annotated[int, typer.Option("--top", "-k", min=1, help="Number of results.")]
Zero = Annotated[
    bool, typer.Option("-0", "--print0", help="Print paths only, each ended by a null byte, for xargs -0.")
]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page of thumbnails here.")]
Vectors = Annotated[
    str | None,
    typer.Option("--vectors", help="Index by beholder scale index, a folder or an address, in place of an album."),
]
Nearest = Annotated[bool, typer.Option("--nearest", help="Show the nearest pictures even if they do not fit.")]


def command(
    queries: Queries = [],  # noqa: B006 (typer reads the default and never changes it)
    image: Images = [],  # noqa: B006
    minus: Minus = [],  # noqa: B006
    minus_image: MinusImages = [],  # noqa: B006
    where: Where = None,
    album: AlbumFolder = None,
    top: Top = 10,
    nearest: Nearest = False,
    html: Html = None,
    print0: Zero = False,
    model: AlbumModel = None,
    vectors: Vectors = None,
    json: Json = False,
) -> None:
    """Find pictures by words, by an example, or by both.

    A picture fits if it stands out from the rest of the album and, with a calibrated model, the words match it; or if
    its caption or name contains them. If none fits, the answer is that nothing fits; --nearest shows the nearest
    anyway. --json prints all of the nearest, and "fits" says which fit. Terminals that can show pictures (kitty,
    iTerm, sixel) show thumbnails.

    \b
    --where takes  folder: name: caption: tag: person: text: camera: creator: place: label: format: has:  date rating
    width height pixels size  near:LAT,LON,KM
    with : = < <= > >=, joined by and, or, not, and brackets:
    "date>=2024-05 date<2024-09 (camera:canon or tag:wedding) -folder:~/Pictures/scans pixels>=2mp"
    With --vectors:  match cosine width height pixels  caption: generated_caption: key:
    All terms must hold, and a minus in front negates one.

    \b
    beholder search "children running on a beach"
    beholder search "children running on a beach" --vectors index/
    beholder search "at night" --image this.jpg --minus people --where "date:2024"
    beholder search "a red dress" --html found.html
    beholder search "a dog" -0 | xargs -0 cp -t dogs/
    """
    # A single short sentence is too little work for several threads: synchronizing them would take longer.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from beholder.album.album import Album
    from beholder.album.contact_sheet import write_contact_sheet
    from beholder.cli.output import check_output, print_json, print_message, warnings_on_one_line
    from beholder.cli.terminal import select_protocol, show_thumbnail
    from beholder.errors import InvalidSetting, PictureError

    check_output("--html", html)
    if not queries and not image:
        raise InvalidSetting("nothing to search for: give words, or a picture with --image")
    if json and print0:
        raise InvalidSetting("--json and -0 exclude each other")
    if vectors is not None:
        for option, given in {
            "--album": album,
            "--html": html,
            "-0": print0,
            "--model": model,
        }.items():
            if given:
                raise InvalidSetting(f"{option} is for albums, and not for --vectors")
        from beholder.cli.vector_search import search_vectors

        with warnings_on_one_line():
            try:
                search_vectors(vectors, queries, image, minus, minus_image, where or "", top, json)
            except PictureError as error:
                print_message(str(error))
                raise typer.Exit(1) from None
        return
    sections = []
    show = None if json or print0 else select_protocol()
    with warnings_on_one_line(), Album.open(album, create_new=False) as opened:
        for query in queries or [""]:
            try:
                found = opened.search(
                    query, image=image, minus=minus, minus_image=minus_image, where=where, top=top, model=model
                )
            except PictureError as error:
                print_message(str(error))
                raise typer.Exit(1) from None
            fitting = [one for one in found if one.fits or nearest]
            heading = query or "pictures like this one"
            sections.append((heading, [(one.picture.source, _lines(one)) for one in fitting]))
            if json:
                for one in found:
                    print_json(_row(query, one))
                continue
            if not fitting:
                print_message(
                    f"nothing in the album fits: {heading}" + (" (--nearest shows what comes closest)" if found else "")
                )
            elif len(queries) > 1 and not print0:
                print(f"{heading}:")
            for one in fitting:
                if print0:
                    sys.stdout.buffer.write(os.fsencode(one.picture.path) + b"\0")
                else:
                    match = "" if one.match is None else f"match {one.match:4.0%}  "
                    print(f"{match}score {one.score:+.3f}  {one.picture.name}")
                    show_thumbnail(show, one.picture.source)
    if html is not None:
        write_contact_sheet(html, ", ".join(title for title, _ in sections), sections)


def _row(query: str, found: SearchResult) -> dict[str, object]:
    picture = found.picture
    row: dict[str, object] = {"image": picture.path, "score": found.score, "cosine": found.cosine}
    row |= {"match": found.match, "fits": found.fits, "query": query}
    row |= {"taken": picture.taken, "camera": picture.camera, "caption": picture.caption}
    return row if picture.time is None else row | {"time": picture.time}


def _lines(found: SearchResult) -> list[str]:
    picture = found.picture
    about = [
        None if found.match is None else f"match {found.match:.0%}",
        picture.taken and picture.taken.replace("T", " "),
    ]
    lines = [Path(picture.name).name, " · ".join(each for each in about if each), picture.caption or ""]
    return [line for line in lines if line]
