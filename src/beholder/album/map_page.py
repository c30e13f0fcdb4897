"""The map of an album as one HTML file that can be moved and zoomed. Names are escaped: text, never markup."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from beholder.album.contact_sheet import readable
from beholder.album.picture_map import MapPoint
from beholder.album.thumbnail import thumbnail
from beholder.files import reported, write_text
from beholder.runtime.pipeline import map_ahead

SIDE = 96  # pixels of a thumbnail
THUMBNAILS = 2000  # pictures that have one; in a larger album, a selection spread over the map
AHEAD = 16
SCRIPT = Path(__file__).parent / "map_page.js"

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
script-src 'sha256-{digest}'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 0; background: Canvas; color: CanvasText;
  height: 100vh; display: flex; flex-direction: column }}
header {{ padding: .4rem 1rem; display: flex; gap: 1rem; align-items: baseline }}
h1 {{ font-size: 1rem; margin: 0; white-space: nowrap }}
#about {{ margin: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap }}
canvas {{ flex: 1; min-height: 0; width: 100%; touch-action: none; cursor: grab }}
</style>
</head>
<body>
<header><h1>{title}</h1><p id="about" role="status" data-hint="Drag to move, wheel or + and - to enlarge, \
0 to see all."></p></header>
<canvas id="map" tabindex="0" role="img" aria-label="{label}"></canvas>
<script type="application/json" id="map-data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Region:
    """A name and its position on the map."""

    name: str
    x: float
    y: float


def write_map(path: Path, title: str, points: Sequence[MapPoint], regions: Sequence[Region]) -> None:
    """Write the page. A picture that can't be read any more is shown as a dot.

    Args:
        path: of the file, which is written atomically.
        title: of the page.
        points: the pictures.
        regions: names on the map.

    Raises:
        WriteFailed: the file can't be written.
    """
    first = _coarse_to_fine(points)
    ordered = [points[row] for row in first]
    shown = map_ahead(lambda point: thumbnail(point.picture.source, SIDE), ordered[:THUMBNAILS], AHEAD)
    pictures = []
    for row, point in enumerate(ordered):
        data = next(shown) if row < THUMBNAILS else None
        picture = point.picture
        lines = [readable(picture.path), (picture.taken or "").replace("T", " "), picture.caption or ""]
        made: dict[str, object] = {"x": round(point.x, 4), "y": round(point.y, 4)}
        made["lines"] = [line for line in lines if line]
        pictures.append(made if data is None else made | {"image": base64.b64encode(data).decode()})
    named = [{"name": readable(region.name), "x": region.x, "y": region.y} for region in regions]
    # In a script element only "<" can end it or begin a comment.
    data_text = json.dumps({"pictures": pictures, "regions": named}, ensure_ascii=False).replace("<", "\\u003c")
    script = SCRIPT.read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    label = f"{len(points)} pictures; similar ones are close to each other"
    names = ", ".join(dict.fromkeys(region.name for region in regions))
    label = escape(readable(label + (f": {names}" if names else "")))
    page = PAGE.format(title=escape(readable(title)), label=label, digest=digest, data=data_text, script=script)
    with reported(path):
        write_text(path, page)


def _coarse_to_fine(points: Sequence[MapPoint]) -> list[int]:
    """Return an order in which any number of first points is spread over the map: one per cell of ever finer grids."""
    places = np.array([(point.x, point.y) for point in points]).reshape(-1, 2)
    order: dict[int, None] = {}
    for cells in (8, 16, 32, 64, 128):
        grid = np.floor((places + 1) / 2 * cells).astype(np.int64)
        first = np.unique(grid[:, 0] * (cells + 2) + grid[:, 1], return_index=True)[1]
        order |= dict.fromkeys(first.tolist())
    order |= dict.fromkeys(range(len(points)))
    return list(order)
