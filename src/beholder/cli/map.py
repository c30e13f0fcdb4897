"""``beholder map``: an album as a map on which similar pictures are close to each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import AlbumFolder, AlbumModel, Json, Where

Html = Annotated[Path | None, typer.Option("--html", help="Write the map to this HTML file.")]
Regions = Annotated[int | None, typer.Option("--regions", "-n", min=1, help="Number of named regions.")]
Keywords = Annotated[
    list[str], typer.Option("--keyword", "-w", help="Candidate name of a region; may be given several times.")
]


def command(
    html: Html = None,
    album: AlbumFolder = None,
    where: Where = None,
    regions: Regions = None,
    keyword: Keywords = [],  # noqa: B006 (typer reads the default and never changes it)
    model: AlbumModel = None,
    json: Json = False,
) -> None:
    """Draw a map of the album on which similar pictures are close to each other.

    The map is a page that can be moved and zoomed. A picture keeps its place when others are added. Names come from
    the keywords; without any, from captions, if there are some, or from a list of everyday words.

    \b
    beholder map --html map.html
    beholder map --album my-album --where "date:2024" --keyword dogs --keyword food --keyword beach --html map.html
    """
    import numpy as np

    from beholder.album.album import Album
    from beholder.album.map_page import Region, write_map
    from beholder.album.picture_map import find_regions
    from beholder.cli.output import check_output, print_json, warnings_on_one_line
    from beholder.errors import InvalidSetting

    if html is None and not json:
        raise InvalidSetting("no output: name a file with --html, or use --json")
    check_output("--html", html)
    with warnings_on_one_line(), Album.open(album, create_new=False) as opened:
        points = opened.map(where, model=model)
        if not points:
            raise InvalidSetting("no picture matches the filter" if where else f"{opened.folder}: is empty")
        pictures, vectors = opened.embeddings(where, model)
        row_of = {picture.content: row for row, picture in enumerate(pictures)}
        points = [point for point in points if point.picture.content in row_of]
        vectors = vectors[[row_of[point.picture.content] for point in points]]
        found = find_regions(points, vectors, opened.encoder(model).embed_texts, regions, keyword)
    if json:
        for part in found:
            for row in part.rows:
                point = points[row]
                print_json({"image": point.picture.path, "x": point.x, "y": point.y, "region": part.name})
    if html is not None:
        centers = [np.median([(points[row].x, points[row].y) for row in part.rows], axis=0).tolist() for part in found]
        named = [Region(part.name, *center) for part, center in zip(found, centers, strict=True)]
        write_map(html, f"{len(points)} pictures", points, named)
        if not json:
            print(f"{html}: {len(points)} pictures")
