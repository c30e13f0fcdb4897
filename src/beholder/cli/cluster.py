"""``beholder cluster``: sort a folder of pictures into named groups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from beholder.cli.options import (
    AllowPickle,
    Exact,
    Json,
    MaxBytes,
    MaxMegapixels,
    Model,
    Precision,
    PrecisionName,
)

Clusters = Annotated[
    int | None, typer.Option("--clusters", "-n", min=1, help="Number of groups; determined if not given.")
]
Keywords = Annotated[
    list[str], typer.Option("--keyword", "-w", help="Candidate name of a group; may be given several times.")
]
Html = Annotated[Path | None, typer.Option("--html", help="Write a page of thumbnails here.")]
AlbumFolder = Annotated[Path | None, typer.Option("--album", help="Use the embeddings and captions of this album.")]
Seed = Annotated[int, typer.Option("--seed", help="Random seed.")]


def command(
    folder: Annotated[Path, typer.Argument(help="The folder of pictures.")],
    clusters: Clusters = None,
    keyword: Keywords = [],  # noqa: B006 (typer reads the default and never changes it)
    html: Html = None,
    album: AlbumFolder = None,
    seed: Seed = 0,
    model: Model = "mini",
    json: Json = False,
    exact: Exact = False,
    precision: Precision = PrecisionName.exact,
    max_megapixels: MaxMegapixels = None,
    max_bytes: MaxBytes = None,
    allow_pickle: AllowPickle = True,
) -> None:
    """Sort a folder's pictures into groups, and name each.

    Names come from the keywords; without any, from captions, if --album has some, or from a list of everyday words.
    Each keyword is printed with the group it fits best. In each group the most typical pictures come first.

    \b
    beholder cluster photos/ --clusters 5
    beholder cluster photos/ --clusters 3 --keyword dogs --keyword food --keyword "a beach" --html groups.html
    """
    import numpy as np

    from beholder.album.clusters import find_clusters
    from beholder.album.contact_sheet import write_contact_sheet
    from beholder.cli.output import check_output, print_json, warnings_on_one_line
    from beholder.cli.pictures import EmbeddingRun, find_pictures, load_encoder, picture_limits
    from beholder.errors import InvalidSetting
    from beholder.pictures.read import display_name

    check_output("--html", html)
    captions: list[str | None] = []
    code = 0
    limits = picture_limits(max_megapixels, max_bytes)
    with warnings_on_one_line():
        if album is not None:
            from beholder.album.album import Album

            with Album.open(album, create_new=False) as opened:
                quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"')
                known, vectors = opened.embeddings(f'folder:"{quoted}"', model)
                words = opened.encoder(model)
            paths = [picture.path for picture in known]
            captions = [picture.caption for picture in known]
        else:
            if not folder.is_dir():
                raise InvalidSetting(f"{folder}: is not a folder")
            words = load_encoder(model, allow_pickle, precision)
            run = EmbeddingRun(words, find_pictures([os.fspath(folder)]), exact=exact, limits=limits)
            done = list(run)
            paths, code = [name for name, _ in done], run.exit_code
            vectors = np.stack([vector for _, vector in done]) if done else np.zeros((0, 1), np.float32)
        if not paths:
            raise InvalidSetting(f"{folder}: no usable pictures")
        found = find_clusters(vectors, captions, words.embed_texts, clusters, keyword, seed)
    sections = []
    for each in found:
        names = [display_name(paths[row], 0) for row in each.rows]
        others = [word for word in each.keywords if word != each.name]
        heading = f"{each.name} ({len(names)})" + (f", also {', '.join(others)}" if others else "")
        sections.append((heading, [(paths[row], [Path(display_name(paths[row], 0)).name]) for row in each.rows]))
        if json:
            for index in each.rows:
                row: dict[str, object] = {"image": paths[index], "cluster": each.number, "name": each.name}
                print_json(row | ({"keywords": each.keywords} if keyword else {}))
        else:
            print(heading, *(f"  {name}" for name in names), sep="\n")
    if html is not None:
        write_contact_sheet(html, f"Groups in {display_name(folder, 0)}", sections)
    raise typer.Exit(code)
