"""What ``beholder caption`` writes beside captions: keywords of a vocabulary, and place names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.errors import PictureError

if TYPE_CHECKING:
    import numpy as np

    from beholder.pictures.caption_metadata import MetadataChanges
    from beholder.pictures.limits import Limits
    from beholder.tasks.keywords import Keyword

BATCH = 256  # pictures whose keywords are chosen together


@dataclass(frozen=True)
class Addition:
    """What is added to one picture's metadata.

    Attributes:
        keywords: chosen from the vocabulary.
        kept: keywords that the picture has, of which XMP may lack some.
        place: city and country; empty if they are not known.
    """

    keywords: tuple[Keyword, ...] = ()
    kept: tuple[str, ...] = ()
    place: tuple[str, str] = ("", "")

    @property
    def row(self) -> list[dict[str, object]]:
        """The keywords as JSON."""
        return [{"keyword": "|".join(keyword.path), "match": keyword.match} for keyword in self.keywords]

    @property
    def text(self) -> str:
        """The keywords as text."""
        return ", ".join(keyword.name for keyword in self.keywords)

    def changes(self, caption: str | None = None) -> MetadataChanges:
        """Return what to write: with each keyword those above it, as photo programs do."""
        from beholder.pictures.caption_metadata import MetadataChanges

        words = dict.fromkeys(level for keyword in self.keywords for level in reversed(keyword.path))
        city, country = self.place
        return MetadataChanges(
            caption,
            (*self.kept, *words) if words else (),
            tuple(keyword.path for keyword in self.keywords),
            city or None,
            country or None,
        )


def added_metadata(
    pictures: Sequence[str],
    *,
    vocabulary: Path | None,
    min_match: float | None,
    places: bool,
    overwrite: bool,
    model: str,
    allow_pickle: bool,
    exact: bool,
    allow_urls: bool,
    limits: Limits,
) -> tuple[dict[str, Addition], set[str]]:
    """Choose keywords and find places of pictures.

    Args:
        pictures: their names.
        vocabulary: file of keywords; None chooses none.
        min_match: probability from which a keyword is chosen; None chooses by the length of the list.
        places: find the city and country of pictures with a position.
        overwrite: also choose keywords for pictures that have some.
        model: a dual encoder.
        allow_pickle: as in ``--allow-pickle``.
        exact: as in ``--exact``.
        allow_urls: as in ``--allow-urls``.
        limits: on pixels, bytes and sides.

    Returns:
        What to add by picture, and the pictures that can't be used, each of which is reported on standard error.
    """
    found: dict[str, Addition] = {}
    unused: set[str] = set()
    if vocabulary is not None:
        found, unused = _chosen(
            pictures, vocabulary, min_match, overwrite, model, allow_pickle, exact, allow_urls, limits
        )
    if places:
        for name, place in _places(pictures).items():
            before = found.get(name, Addition())
            found[name] = Addition(before.keywords, before.kept, place)
    return found, unused


def _chosen(
    pictures: Sequence[str],
    vocabulary: Path,
    min_match: float | None,
    overwrite: bool,
    model: str,
    allow_pickle: bool,
    exact: bool,
    allow_urls: bool,
    limits: Limits,
) -> tuple[dict[str, Addition], set[str]]:
    import numpy as np

    from beholder.cli.output import print_message, track
    from beholder.cli.pictures import load_encoder
    from beholder.pictures.caption_metadata import read_keywords
    from beholder.tasks.keywords import KeywordChooser, read_vocabulary

    words = read_vocabulary(vocabulary)
    has = {name: tuple(read_keywords(Path(name))) if "://" not in name else () for name in pictures}
    todo = [name for name in pictures if overwrite or not has[name]]
    if skipped := len(pictures) - len(todo):
        print_message(f"{skipped} of {len(pictures)} pictures have keywords already, which stay as they are")
    if not todo:
        return {}, set()
    encoder = load_encoder(model, allow_pickle)
    chooser = KeywordChooser(encoder, words, min_match)
    found: dict[str, Addition] = {}
    unused: set[str] = set()
    names: list[str] = []
    embeddings: list[np.ndarray] = []

    def choose() -> None:
        for name, keywords in zip(names, chooser.choose(np.stack(embeddings)), strict=True):
            new = tuple(keyword for keyword in keywords if keyword.name not in has[name])
            found[name] = Addition(new, has[name])
        names.clear()
        embeddings.clear()

    stream = encoder.stream_images(todo, exact=exact, allow_urls=allow_urls, limits=limits)
    for picture in track(stream, "choosing keywords", len(todo)):
        if picture.embedding is None:
            print_message(str(picture.error))
            unused.add(todo[picture.index])
            continue
        names.append(todo[picture.index])
        embeddings.append(picture.embedding)
        if len(names) == BATCH:
            choose()
    if names:
        choose()
    return found, unused


def _places(pictures: Sequence[str]) -> dict[str, tuple[str, str]]:
    from beholder.album.places import locate
    from beholder.pictures.photo_metadata import photo_metadata

    positions: dict[str, tuple[float, float]] = {}
    for name in pictures:
        if "://" in name:
            continue
        try:
            metadata = photo_metadata(Path(name).read_bytes(), Path(name))
        except (OSError, ValueError, PictureError):
            continue  # captioning reports it
        if metadata.latitude is not None and metadata.longitude is not None:
            positions[name] = metadata.latitude, metadata.longitude
    located = locate(list(positions.values())) if positions else []
    return {name: place[:2] for name, place in zip(positions, located, strict=True)}
