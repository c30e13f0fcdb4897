"""Pictures side by side, each with a caption below it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from beholder.album.duplicates import DuplicateGroup
from beholder.album.picture import Picture as AlbumPicture
from beholder.album.question_answering import AlbumAnswer
from beholder.album.search import SearchResult
from beholder.errors import PictureError
from beholder.notebook.markup import escape_html, img_tag, thumbnail_jpeg
from beholder.pictures.read import display_name
from beholder.tasks.dual_encoder import EmbeddedPicture
from beholder.tasks.pictures import FailedPicture
from beholder.tasks.vision_language_results import CaptionedPicture

SIDE = 360  # pixels of a thumbnail's longer side
FIGURE = "margin:0;width:11.5rem"
IMAGE = "width:100%;height:8.5rem;object-fit:cover;border-radius:6px;display:block"
LINE = "font-size:.85em;line-height:1.35;margin-top:.3em;overflow-wrap:anywhere"


class Gallery:
    """Pictures in a notebook; created by `beholder.notebook.gallery`.

    Attributes:
        rows: for each picture its name, the text below it, and its error if it can't be shown.
    """

    def __init__(self, results: Iterable[Any]):
        self.rows: list[tuple[str, str, PictureError | None]] = []
        self._figures: list[str] = []
        for index, (picture, words) in enumerate(part for result in results for part in _captioned_pictures(result)):
            name = picture.name if isinstance(picture, PictureError) else display_name(picture, index)
            shown = words or (Path(name).name if isinstance(picture, str | Path) else name)
            error = None
            try:
                if isinstance(picture, PictureError):
                    raise picture
                image = img_tag(thumbnail_jpeg(picture, index, SIDE), shown, IMAGE)
            except PictureError as caught:
                error = caught
                image = f'<div style="{IMAGE};display:grid;place-items:center;border:1px solid #8886">✕</div>'
                shown = str(caught)
            self.rows.append((name, words, error))
            title = f' title="{escape_html(name)}"'
            self._figures.append(
                f'<figure style="{FIGURE}"{title}>{image}'
                f'<figcaption style="{LINE}">{escape_html(shown)}</figcaption></figure>'
            )

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Gallery of {len(self)} pictures"

    def _repr_html_(self) -> str:
        return f'<div style="display:flex;flex-wrap:wrap;gap:.9rem">{"".join(self._figures)}</div>'


def _captioned_pictures(result: Any) -> Iterator[tuple[Any, str]]:
    """Yield the pictures of a result, each with the text below it."""
    match result:
        case SearchResult(picture=picture, match=match, fits=fits):
            sure = f"{result.score:.3f}" if match is None else f"{match:.0%}"
            yield picture.path, f"{Path(picture.name).name}, {sure}" + ("" if fits else ", hardly fits")
        case AlbumAnswer(picture=picture, answer=answer):
            yield picture.path, answer
        case AlbumPicture():
            yield result.path, result.caption or ""
        case DuplicateGroup(paths=(kept, *others), kind=kind):
            yield kept, f"keep {Path(display_name(kept, 0)).name}"
            yield from ((other, f"{Path(display_name(other, 0)).name}, {kind}") for other in others)
        case CaptionedPicture(name=name, caption=caption):
            yield name, caption
        case EmbeddedPicture(name=name):
            yield name, ""
        case FailedPicture(error=error):
            yield error, ""
        case (picture, float(score)):
            yield picture, f"{score:.3f}"
        case (picture, words):
            yield picture, str(words)
        case _:
            yield result, ""
