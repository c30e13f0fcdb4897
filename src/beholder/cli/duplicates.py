"""``beholder duplicates``: near-duplicates in an album."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import AlbumFolder, AlbumModel, Json, Where

Distance = Annotated[
    float,
    typer.Option(
        "--distance", min=0, max=1, help="Maximum distance between two; 0 finds exact copies of the pixels only."
    ),
]
Mirrored = Annotated[bool, typer.Option("--mirrored", help="Find mirror images, too.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page of thumbnails here.")]


def command(
    album: AlbumFolder = None,
    where: Where = None,
    distance: Distance = 0.18,
    mirrored: Mirrored = False,
    html: Html = None,
    model: AlbumModel = None,
    json: Json = False,
) -> None:
    """Find copies, other versions of the same picture, and bursts. Nothing is deleted.

    Versions that are resized, cropped, recolored, faded or watermarked are found, too. The first of each group is the
    one to keep: large, sharp and without a watermark.

    \b
    beholder duplicates
    beholder duplicates --album my-album --where "date:2024" --html duplicates.html
    """
    from beholder.album.album import Album
    from beholder.album.contact_sheet import write_contact_sheet
    from beholder.cli.output import check_output, print_json, warnings_on_one_line
    from beholder.pictures.read import display_name

    check_output("--html", html)
    sections = []
    with warnings_on_one_line(), Album.open(album, create_new=False) as opened:
        groups = opened.duplicates(where, distance=distance, mirrored=mirrored, model=model)
    for group in groups:
        names = [display_name(path, 0) for path in group.paths]
        heading = f"{group.kind}, distance {group.distance:.3f}"
        shown = zip(group.paths, names, strict=True)
        sections.append((heading, [(path, ["keep" if path == group.paths[0] else "", name]) for path, name in shown]))
        if json:
            paths = list(group.paths)
            print_json({"images": paths, "distance": group.distance, "kind": group.kind, "keep": paths[0]})
        else:
            print(f"{heading}\n  keep  {names[0]}")
            for name in names[1:]:
                print(f"        {name}")
    if not groups and not json:
        print("no duplicates")
    if html is not None:
        write_contact_sheet(html, "Near-duplicates", sections)
