"""``beholder outliers``: the pictures of an album that are unlike any other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import AlbumFolder, AlbumModel, Json, Where

Html = Annotated[Path | None, typer.Option("--html", help="Write a page of thumbnails here.")]
Top = Annotated[int, typer.Option("--top", "-k", min=1, help="Number of results.")]


def command(
    album: AlbumFolder = None,
    where: Where = None,
    top: Top = 10,
    html: Html = None,
    model: AlbumModel = None,
    json: Json = False,
) -> None:
    """Show the pictures least similar to any other: strays and mistakes.

    A picture's distance is the mean distance to its five nearest neighbors; those marked with * are unusual for this
    album.

    \b
    beholder outliers
    beholder outliers --album my-album --where "folder:garments/" --html outliers.html
    """
    from beholder.album.album import Album
    from beholder.album.contact_sheet import write_contact_sheet
    from beholder.cli.output import check_output, print_json, warnings_on_one_line

    check_output("--html", html)
    with warnings_on_one_line(), Album.open(album, create_new=False) as opened:
        found = opened.outliers(where, top=top, model=model)
    for one in found:
        if json:
            print_json({"image": one.picture.path, "distance": one.distance, "stands_out": one.stands_out})
        else:
            print(f"{'*' if one.stands_out else ' '} distance {one.distance:.3f}  {one.picture.name}")
    if html is not None:
        rows = [(one.picture.path, [f"distance {one.distance:.3f}", one.picture.name]) for one in found]
        write_contact_sheet(html, "Outliers", [("", rows)])
