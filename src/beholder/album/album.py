"""Album: a folder of pictures, or many, searchable by text and by example.

album = Album.open("my-album")
album.index(["~/Pictures"])
for result in album.search("children running on a beach"):
    print(result.score, result.picture.path)
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beholder.album import browse, filters, model_identity
from beholder.album.caption_writeback import write_caption_to_files
from beholder.album.clusters import PictureCluster, find_clusters
from beholder.album.duplicates import DISTANCE, DuplicateGroup, find_duplicates
from beholder.album.indexing import IndexedPicture, Indexer, IndexSummary
from beholder.album.outliers import Outlier, find_outliers
from beholder.album.picture import Picture
from beholder.album.picture_map import MapPoint, map_coordinates
from beholder.album.places import can_locate, locate
from beholder.album.search import MATCH_THRESHOLD, Query, SearchResult, combine_queries, search
from beholder.album.store import descriptions, files, located, models, pictures, recognized, vectors
from beholder.album.store.connection import Store
from beholder.album.store.models import IndexedModel
from beholder.album.store.pictures import known_contents
from beholder.album.store.schema import open_existing, open_or_create
from beholder.album.text_reading import read_texts
from beholder.album.thumbnail import thumbnail
from beholder.album.vector_index import RECALL, VectorIndex
from beholder.errors import AlbumBusy, AlbumError, InvalidSetting, MissingExtra, PictureError, WriteFailed
from beholder.pictures.read import ImageSource, Limits, read_file
from beholder.pictures.video import can_read_videos
from beholder.tasks.pictures import PreprocessedImage, image_list

if TYPE_CHECKING:
    from beholder.runtime.precision import Precision
    from beholder.tasks.dual_encoder import DualEncoder

ImageQuery = ImageSource | PreprocessedImage  # an image given as a search example

LOCK, HOLDER = "album.lock", "album.holder"
BATCH = 500  # pictures read from the album together


def default_folder() -> Path:
    """Return ``$BEHOLDER_ALBUM``, or a folder where this system keeps its users' data."""
    from platformdirs import user_data_path

    named = os.environ.get("BEHOLDER_ALBUM")
    return Path(named).expanduser() if named else user_data_path("beholder", appauthor=False) / "album"


class Album:
    """A searchable collection of pictures. The album is one folder; the pictures stay where they are.

    Returned by `open`. It may be searched while another process indexes into it.
    """

    def __init__(self, store: Store):
        self.store = store
        self.folder = store.folder
        self._indexes: dict[int, VectorIndex] = {}
        self._encoders: dict[int, DualEncoder] = {}

    @classmethod
    def open(cls, folder: str | Path | None = None, *, create_new: bool = True) -> Album:
        """Open the album in a folder.

        Args:
            folder: of the album; by default ``$BEHOLDER_ALBUM`` or a folder where the system keeps users' data.
            create_new: create the album if there is none.

        Raises:
            AlbumNotFound: there is none, and ``create_new`` is False.
            AlbumDamaged: the file is not an album, is damaged, or was written by a newer Beholder.
        """
        place = default_folder() if folder is None else Path(folder).expanduser().absolute()
        return cls(Store(open_or_create(place) if create_new else open_existing(place), place))

    def close(self) -> None:
        """Close the album. Nothing is lost without it."""
        self.store.close()

    def __enter__(self) -> Album:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Return the number of pictures; copies count once."""
        return pictures.count_pictures(self.store)

    # Indexing

    def index(
        self,
        folders: Iterable[str | Path] | str | Path,
        *,
        model: str | DualEncoder = "mini",
        exclude: Sequence[str] = (),
        on_file: Callable[[IndexedPicture], None] | None = None,
        on_total: Callable[[int], None] | None = None,
        batch_size: int = 16,
        exact: bool = False,
        precision: Precision = "exact",
        limits: Limits | None = None,
        recall: float | None = None,
        verify: bool = False,
        videos: bool = False,
    ) -> IndexSummary:
        """Update the album with folders: new and changed pictures are embedded, missing ones removed.

        It can be interrupted at any time; the next run continues where it stopped. What `describe` says of a
        picture is kept while its file is missing and passes on to a changed file at the same path, until `forget`.

        Args:
            folders: searched recursively, without hidden folders; or single files.
            model: a name, a folder, a hub id, or a `DualEncoder`. Embeddings of other models are kept.
            exclude: patterns as in a ``.gitignore``, relative to each folder.
            on_file: called with the outcome of each file once it is on disk.
            on_total: called with the number of files that will be reported.
            batch_size: pictures per forward pass.
            exact: decode large JPEGs in full.
            precision: of a model that is loaded by name (`DualEncoder.from_pretrained`).
            limits: on pixels, bytes and sides.
            recall: required of the search in a large album; by default the previous value, at first 0.95.
            verify: read all files again, those with unchanged size and times too.
            videos: index a frame of each scene of videos, too. Those indexed before stay without it.

        Raises:
            MissingExtra: PyAV is needed for videos, and not installed.
            AlbumBusy: another process is indexing into this album.
            WriteFailed: the album can't be written; what was committed before is kept.
            ModelError: the model can't be loaded.
        """
        named = [folders] if isinstance(folders, str | Path) else list(folders)
        if not named:
            raise InvalidSetting("nothing to index: name a folder of pictures")
        if recall is not None and not 0 < recall < 1:
            raise InvalidSetting(f"recall {recall} is not between 0 and 1")
        if videos and not can_read_videos():
            raise MissingExtra("indexing videos", "video")
        with self._writer_lock():
            entry = self._entry(model)
            own = precision == "exact" or not isinstance(model, str)
            indexer = Indexer(
                self.store,
                entry.id,
                lambda: self._encoder(entry) if own else model_identity.load_encoder(entry, precision),
                exclude=exclude,
                on_file=on_file,
                on_total=on_total,
                batch_size=batch_size,
                exact=exact,
                limits=limits,
                verify=verify,
                videos=videos,
            )
            summary = indexer.run([Path(folder).expanduser() for folder in named])
            if can_locate():
                self._locate()
            self._index(entry).update(recall)
            models.mark_used(self.store, entry)  # not before: until it has embedded all, searches use the previous one
        return summary

    def read_texts(
        self,
        folders: Iterable[str | Path] | str | Path,
        *,
        on_picture: Callable[[Picture, str | PictureError], None] = lambda *_: None,
        on_total: Callable[[int], None] = lambda _: None,
        limits: Limits | None = None,
    ) -> None:
        """Read the text in the indexed pictures of some folders, Chinese and English, for searches and ``text:``.

        Each picture is read once. It can be interrupted at any time; the next call continues where it stopped.

        Args:
            folders: indexed folders, or single files.
            on_picture: called with each picture and its text, which may be empty, or the error.
            on_total: called with the number of pictures that will be read.
            limits: on pixels, bytes and sides.

        Raises:
            MissingExtra: RapidOCR is not installed.
            AlbumBusy: another process is indexing into this album.
        """
        from beholder.tasks.text_recognition import TextRecognizer

        named = [folders] if isinstance(folders, str | Path) else list(folders)
        roots = [os.fsencode(os.path.realpath(Path(folder).expanduser())) for folder in named]
        with self._writer_lock():
            read_texts(self.store, roots, TextRecognizer, on_total=on_total, on_picture=on_picture, limits=limits)

    def forget(self, folders: Iterable[str | Path] | str | Path = ()) -> int:
        """Remove what is kept of missing files: captions and keywords, and pictures on drives that are not mounted.

        Args:
            folders: only of files that were in these; by default all captions and keywords of missing files.

        Returns:
            The number of pictures whose captions or keywords were removed.
        """
        named = [folders] if isinstance(folders, str | Path) else list(folders)
        roots = [os.fsencode(os.path.realpath(Path(folder).expanduser())) for folder in named]
        with self._writer_lock():
            count = files.forget(self.store, roots or None)
            files.clean_up(self.store, (), set())
        return count

    # Search

    def search(
        self,
        words: str = "",
        *,
        image: ImageQuery | Sequence[ImageQuery] = (),
        minus: str | Sequence[str] = (),
        minus_image: ImageQuery | Sequence[ImageQuery] = (),
        like: Sequence[int] = (),
        where: str | None = None,
        top: int = 10,
        skip: int = 0,
        model: str | DualEncoder | None = None,
    ) -> list[SearchResult]:
        """Return the pictures that best match text, example images, or both, best first.

        Args:
            words: text to search for.
            image: example image, or several; added to the text.
            minus: text to subtract.
            minus_image: images to subtract.
            like: pictures of the album by number (`Picture.content`), added as ``image`` is.
            where: a filter, such as ``'date>=2024-05 camera:canon'`` (see `beholder.album.filters`).
            top: number of results.
            skip: number of best results to leave out, for the pages after the first.
            model: whose embeddings to search; by default those of the model that indexed last.

        Raises:
            InvalidSetting: nothing to search for, or an invalid filter.
            AlbumError: the album has no embeddings of this model.
            PictureError: an image can't be used.
        """
        if top < 1 or skip < 0:
            raise InvalidSetting(f"top {top} must be at least 1, and skip {skip} at least 0")
        condition = filters.parse(where)
        entry = self._model(model)
        subtracted = [text for text in ([minus] if isinstance(minus, str) else minus) if text.strip()]
        sentences = [*([words] if words.strip() else []), *subtracted]
        texts = self._encoder(entry).embed_texts(sentences) if sentences else np.zeros((0, entry.embedding))
        text = texts[0] if words.strip() else None
        examples = np.concatenate([self._image_vectors(entry, image), self._known_vectors(entry, like)])
        plus = np.concatenate([texts[: text is not None], examples])
        minus_vectors = np.concatenate([texts[text is not None :], self._image_vectors(entry, minus_image)])
        query = Query(combine_queries(plus, minus_vectors), words, text)
        with self.store.snapshot():
            index = self._index(entry)
            index.refresh()
            found, embeddings = search(self.store, index, query, top + skip, condition)
        found, embeddings = found[skip:], embeddings[skip:]
        if text is None or not found or not self._encoder(entry).calibrated:
            return found
        matches = self._encoder(entry).match(embeddings, text[None], [words])[:, 0]
        text_only = not len(examples) and not subtracted
        return [
            replace(
                one,
                match=float(match),
                fits=one.fits and (not text_only or one.named or bool(match >= MATCH_THRESHOLD)),
            )
            for one, match in zip(found, matches, strict=True)
        ]

    def similar(
        self,
        content: int,
        *,
        where: str | None = None,
        top: int = 10,
        skip: int = 0,
        model: str | DualEncoder | None = None,
    ) -> list[SearchResult]:
        """Return the pictures most similar to one of the album, without that one.

        Args:
            content: its number (`Picture.content`).
            where: a filter.
            top: number of results.
            skip: number of best results to leave out.
            model: whose embeddings to search.

        Raises:
            InvalidSetting: the album has no such picture, or an invalid filter.
        """
        found = self.search(like=[content], where=where, top=top + skip + 1, model=model)
        return [one for one in found if one.picture.content != content][skip : skip + top]

    # Captions and keywords

    def describe(
        self,
        picture: str | Path | Picture,
        *,
        caption: str | None = None,
        tags: Sequence[str] = (),
        source: str = descriptions.USER_SOURCE,
    ) -> None:
        """Set the caption and keywords that one source gives a picture, in place of its earlier ones.

        Raises:
            InvalidSetting: the picture is not in the album.
        """
        content = picture.content if isinstance(picture, Picture) else self._content_at(picture)
        descriptions.describe(self.store, content, source, caption, tags)

    def rate(
        self,
        pictures: Iterable[int],
        *,
        rating: int | None = None,
        label: str | None = None,
        tags: Sequence[str] = (),
        without_tags: Sequence[str] = (),
    ) -> int:
        """Rate pictures by hand, or label them; add and remove keywords given by hand. What is not given stays.

        Args:
            pictures: of the album by number (`Picture.content`); numbers no longer in the album are passed over.
            rating: stars from 0 to 5; -1 is rejected.
            label: name of a color; ``""`` removes the label given by hand.
            tags: keywords to add.
            without_tags: keywords to remove.

        Returns:
            The number of pictures changed.

        Raises:
            InvalidSetting: the rating is out of range.
        """
        if rating is not None and not -1 <= rating <= 5:
            raise InvalidSetting(f"rating {rating} must be 0 to 5 stars, or -1 for rejected")
        contents = list(known_contents(self.store, list(pictures)))
        with self.store.transaction():
            for content in contents:
                if rating is not None or label is not None:
                    old_rating, old_label = descriptions.mark_by_source(self.store, content, descriptions.USER_SOURCE)
                    descriptions.mark(
                        self.store,
                        content,
                        descriptions.USER_SOURCE,
                        old_rating if rating is None else rating,
                        old_label if label is None else label or None,
                    )
                if tags or without_tags:
                    old = [tag for tag in self.tags_of(content) if tag not in without_tags]
                    caption = self.caption_of(content)
                    descriptions.set_description(self.store, content, descriptions.USER_SOURCE, caption, [*old, *tags])
                    descriptions.update_text_index(self.store, "picture.content = ?", (content,))
        return len(contents)

    def text_in(self, content: int) -> str | None:
        """Return the text recognized in a picture, or None if it has not been read or there is none."""
        return recognized.text_of(self.store, content) or None

    def caption_of(self, content: int, source: str = descriptions.USER_SOURCE) -> str | None:
        """Return the caption that one source gives a picture."""
        return descriptions.caption_by_source(self.store, content, source)

    def tags_of(self, content: int, source: str = descriptions.USER_SOURCE) -> list[str]:
        """Return the keywords that one source gives a picture."""
        return descriptions.tags_by_source(self.store, content, source)

    def write_caption_to_files(self, content: int, caption: str) -> list[Path]:
        """Write a caption into the metadata of a picture's files, all copies, which the album still recognizes after.

        Args:
            content: the number of the picture (`Picture.content`).
            caption: replaces the one in the files.

        Returns:
            The files written: pictures, or sidecars of those that can't hold it.

        Raises:
            PictureError: a file is missing, is a link, has changed since it was indexed, or can't be written.
            AlbumBusy: another process is indexing into this album.
        """
        with self._writer_lock():
            return write_caption_to_files(self.store, content, caption)

    # Browsing

    def contents(self, where: str | None = None, order: str = "path") -> list[int]:
        """Return the numbers (`Picture.content`) of the pictures that a filter selects, in order.

        Args:
            where: a filter.
            order: ``path``, ``newest`` or ``oldest``.
        """
        return browse.list_contents(self.store, filters.parse(where), order)

    def layout(self, where: str | None = None, order: str = "path") -> list[pictures.LayoutRow]:
        """Return number, proportions and month of the pictures that a filter selects, in order; as `contents`."""
        return browse.list_layout(self.store, filters.parse(where), order)

    def roots(self) -> list[Path]:
        """Return the folders, and single files, with which the album was indexed."""
        return [Path(os.fsdecode(path)) for path in files.root_paths(self.store)]

    def get_pictures(self, contents: Sequence[int]) -> dict[int, Picture]:
        """Return pictures by number; those that are gone are left out."""
        return pictures.get_pictures(self.store, contents)

    def sha256_of(self, content: int) -> bytes | None:
        """Return the SHA-256 of a picture's file, or None if it is not in the album."""
        return pictures.sha256_of(self.store, content)

    def content_ids(self, paths: Sequence[str]) -> dict[str, int]:
        """Return the numbers of the pictures at some paths; those that are not in the album are left out."""
        found = pictures.content_ids(self.store, [os.fsencode(path) for path in paths])
        return {os.fsdecode(path): content for path, content in found.items()}

    def copies(self, content: int) -> list[str]:
        """Return the paths of all files with this content, first the one that `Picture.path` names."""
        return [os.fsdecode(path) for path in pictures.paths_of(self.store, content)]

    def raw_files(self, content: int) -> list[str]:
        """Return the RAW files of the same shot as a JPEG in the album."""
        return [os.fsdecode(path) for path in files.raw_files_of(self.store, pictures.paths_of(self.store, content))]

    def facets(self) -> browse.Facets:
        """Return the years, cameras, keywords and formats in the album, each with its number of pictures."""
        return browse.count_facets(self.store)

    def pictures(self, where: str | None = None) -> Iterator[Picture]:
        """Yield the pictures that a filter selects, ordered by path; copies come once."""
        condition = filters.parse(where)
        contents = browse.list_contents(self.store, condition, "path")
        for start in range(0, len(contents), BATCH):
            some = contents[start : start + BATCH]
            known = pictures.get_pictures(self.store, some, condition.sql, condition.bound)
            yield from (known[content] for content in some if content in known)

    def thumbnail(self, content: int, side: int = 240) -> bytes | None:
        """Return a JPEG of at most ``side`` pixels either way, or None if the picture can't be read any more."""
        picture = self.get_pictures([content]).get(content)
        return None if picture is None else thumbnail(picture.source, side)

    def failed(self) -> list[tuple[str, str]]:
        """Return the files that the last index run could not use, each with the reason."""
        return [(os.fsdecode(path), reason) for path, reason in files.failures(self.store)]

    def version(self) -> tuple[int, int]:
        """Return a value that changes whenever this or another process has written to the album."""
        return self.store.version()

    # Analysis

    def embeddings(
        self, where: str | None = None, model: str | DualEncoder | None = None
    ) -> tuple[list[Picture], np.ndarray]:
        """Return pictures and their embeddings (n, E) float32, ordered by path."""
        entry = self._model(model)
        with self.store.snapshot():
            found = list(self.pictures(where))
            data = vectors.all_vectors(self.store, entry)
        found = [picture for picture in found if picture.content in data]
        halves = np.frombuffer(b"".join(data[picture.content] for picture in found), np.float16)
        return found, halves.reshape(len(found), entry.embedding).astype(np.float32)

    def duplicates(
        self,
        where: str | None = None,
        *,
        distance: float = DISTANCE,
        mirrored: bool = False,
        model: str | DualEncoder | None = None,
    ) -> list[DuplicateGroup]:
        """Return groups of near-duplicates, in each the one to keep first; the closest groups first.

        Args:
            where: a filter.
            distance: maximum distance between two, from 0 (the same pixels) to 1.
            mirrored: find mirror images, too.
            model: whose embeddings to compare.

        Raises:
            InvalidSetting: the distance or the filter is invalid.
            AlbumError: the album has no embeddings of this model.
        """
        if not 0 <= distance <= 1:
            raise InvalidSetting(f"distance {distance} is not between 0 and 1")
        found, embeddings = self.embeddings(where, model)
        still = [row for row, picture in enumerate(found) if picture.time is None]  # frames of a video resemble others
        found, embeddings = [found[row] for row in still], embeddings[still]
        condition = filters.parse(where)
        paths = pictures.list_paths(self.store, condition.sql, condition.bound)
        return find_duplicates(self.store, found, embeddings, paths, distance, mirrored)

    def clusters(
        self,
        clusters: int | None = None,
        *,
        keywords: Sequence[str] = (),
        where: str | None = None,
        seed: int = 0,
        model: str | DualEncoder | None = None,
    ) -> list[PictureCluster]:
        """Return clusters of similar pictures, each with a name; the largest first, pictures in none last.

        Args:
            clusters: number of clusters; None determines it.
            keywords: candidate names; without any they come from captions, or from a list of everyday words.
            where: a filter.
            seed: random seed.
            model: whose embeddings to compare.

        Raises:
            InvalidSetting: there are fewer pictures than clusters, or the filter is invalid.
            AlbumError: the album has no embeddings of this model.
            MissingExtra: scikit-learn is not installed.
        """
        found, embeddings = self.embeddings(where, model)
        if not found:
            return []
        captions = [picture.caption for picture in found]
        made = find_clusters(embeddings, captions, self.encoder(model).embed_texts, clusters, keywords, seed)
        return [
            PictureCluster(one.number, one.name, one.keywords, tuple(found[row] for row in one.rows)) for one in made
        ]

    def map(self, where: str | None = None, *, model: str | DualEncoder | None = None) -> list[MapPoint]:
        """Return the pictures' coordinates on a map where similar pictures are close, ordered by path.

        Coordinates are kept: the first call for an album takes a while, and later pictures are interpolated.

        Args:
            where: a filter; coordinates are those on the map of the whole album.
            model: whose embeddings to compare.

        Raises:
            AlbumError: the album has no embeddings of this model.
            MissingExtra: scikit-learn is not installed.
        """
        found = map_coordinates(self.store, self._model(model))
        return [MapPoint(one, *found[one.content]) for one in self.pictures(where) if one.content in found]

    def outliers(
        self, where: str | None = None, *, top: int = 20, model: str | DualEncoder | None = None
    ) -> list[Outlier]:
        """Return the pictures least similar to any other, the most distant first.

        Args:
            where: a filter; only pictures that it selects are compared.
            top: number of results.
            model: whose embeddings to compare.

        Raises:
            AlbumError: the album has no embeddings of this model.
        """
        return find_outliers(*self.embeddings(where, model), top)

    # Maintenance

    def check(self) -> list[tuple[str, bool, str]]:
        """Check the album's integrity: (subject, whether it is sound, detail). A damaged index file is rebuilt.

        Raises:
            AlbumDamaged: the file can't be read at all.
        """
        damage = self.store.damage()
        checks = [("database", not damage, "; ".join(damage) or f"{len(self)} pictures")]
        stray = pictures.count_files_without_content(self.store)
        checks.append(("files", stray == 0, f"{stray} files without content" if stray else "each has its content"))
        if kept := len(descriptions.kept_descriptions(self.store)):
            checks.append(("captions and keywords", True, f"those of {kept} missing pictures are kept"))
        for model in models.list_models(self.store):
            index = self._index(model)
            count, bad = 0, vectors.count_malformed(self.store, model)
            for _, halves in index.batches() if not bad else ():
                lengths = np.linalg.norm(halves.astype(np.float32), axis=1)
                bad += int((~(np.abs(lengths - 1) < 0.01)).sum())
                count += len(halves)
            checks.append((f"embeddings of {model.name}", bad == 0, f"{count} embeddings, {bad} of them invalid"))
            if not bad:
                recall = index.measure_recall()
                about = index.description
                aim = RECALL if about is None or not about.probes else about.aim
                how = "exact search" if about is None or not about.probes else f"{about.probes} of {about.cells} cells"
                checks.append((f"search by {model.name}", recall >= aim, f"recall@10 {recall:.3f}, {how}"))
        return checks

    # Models

    def models(self) -> list[IndexedModel]:
        """Return the models whose embeddings the album holds, first the one that a search uses by default."""
        return models.list_models(self.store)

    def use_encoder(self, encoder: DualEncoder) -> bool:
        """Embed queries with an encoder that is loaded already; return whether the album has embeddings of it."""
        fingerprint = encoder.fingerprint
        known = [model for model in self.models() if model.fingerprint == fingerprint]
        self._encoders |= {model.id: encoder for model in known}
        return bool(known)

    def encoder(self, model: str | DualEncoder | None = None) -> DualEncoder:
        """Return the encoder of the album's embeddings."""
        return self._encoder(self._model(model))

    def _entry(self, model: str | DualEncoder) -> IndexedModel:
        """Return the album's entry of a model to index with."""
        if not isinstance(model, str):
            name = model.loaded.name if model.origin is None else model.origin.name  # where it can be loaded again
            entry = model_identity.register(self.store, model, name)
            self._encoders[entry.id] = model
            return entry
        known = model_identity.recognize(self.store, model)
        if known is not None:
            return known
        from beholder.tasks.dual_encoder import DualEncoder

        encoder = DualEncoder.from_pretrained(model)
        entry = model_identity.register(self.store, encoder, model)
        self._encoders[entry.id] = encoder
        return entry

    def _model(self, name: str | DualEncoder | None) -> IndexedModel:
        """Return the album's entry of a model to search with."""
        known = self.models()
        if name is not None and not isinstance(name, str):
            fingerprint = name.fingerprint
            for model in known:
                if model.fingerprint == fingerprint:
                    self._encoders[model.id] = name
                    return model
            name = name.loaded.name
        if not known:
            raise AlbumError(f"{self.folder}: the album is empty; add pictures with: beholder index FOLDER")
        if name is None:
            return known[0]
        found = model_identity.recognize(self.store, name)
        found = found or next((model for model in known if model.name == name), None)
        if found is None:
            names = ", ".join(dict.fromkeys(model.name for model in known))
            raise AlbumError(
                f"{self.folder}: has no embeddings of {name}, only of {names}; create them with: "
                f"beholder index FOLDER --model {name}"
            )
        return found

    def _encoder(self, entry: IndexedModel) -> DualEncoder:
        if entry.id not in self._encoders:
            self._encoders[entry.id] = model_identity.load_encoder(entry)
        return self._encoders[entry.id]

    def _image_vectors(self, entry: IndexedModel, images: ImageQuery | Sequence[ImageQuery]) -> np.ndarray:
        """Return embeddings (n, E); a file whose content is in the album needs no inference."""
        found = []
        for image in image_list(images):
            vector = None
            if isinstance(image, str | Path):
                image = read_file(Path(image).expanduser())
            if isinstance(image, bytes):
                vector = vectors.vector_by_hash(self.store, hashlib.sha256(image).digest(), entry.id)
            found.append(self._encoder(entry).embed_images([image])[0] if vector is None else vector)
        return np.stack(found) if found else np.zeros((0, entry.embedding), np.float32)

    def _known_vectors(self, entry: IndexedModel, contents: Sequence[int]) -> np.ndarray:
        """Return embeddings (n, E) of pictures in the album."""
        known = vectors.vectors_by_content(self.store, entry.id, contents)
        for content in contents:
            if content not in known:
                raise InvalidSetting(f"the album has no picture {content} embedded by {entry.name}")
        found = [known[content] for content in contents]
        return np.stack(found) if found else np.zeros((0, entry.embedding), np.float32)

    def _locate(self) -> None:
        """Find the cities near which pictures were taken."""
        found = located.unlocated(self.store)
        for start in range(0, len(found), BATCH):
            some = found[start : start + BATCH]
            places = locate([(latitude, longitude) for _, latitude, longitude in some])
            rows = [(*row, place.city, place.country, place.names) for row, place in zip(some, places, strict=True)]
            located.save_places(self.store, rows)

    def _content_at(self, path: str | Path) -> int:
        spelled = Path(path).expanduser().absolute()
        names = [os.fsencode(spelled), os.fsencode(os.path.realpath(spelled))]
        found = pictures.content_ids(self.store, names)
        if not found:
            raise InvalidSetting(f"{path}: is not in the album; index it first")
        return found.get(names[0], found.get(names[1], 0))

    def _index(self, entry: IndexedModel) -> VectorIndex:
        if entry.id not in self._indexes:
            self._indexes[entry.id] = VectorIndex(self.store, entry)
        return self._indexes[entry.id]

    @contextmanager
    def _writer_lock(self) -> Iterator[None]:
        """Hold the album's lock, which ends with the process, however that ends."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / LOCK, timeout=0)
        holder = self.folder / HOLDER
        try:
            lock.acquire()
        except Timeout:
            who = ""
            with suppress(OSError):
                who = holder.read_text("utf-8")
            who = who or "another process"  # it may not have written its name yet
            raise AlbumBusy(f"{self.folder}: {who} is indexing into this album; wait until it is done") from None
        except OSError as error:
            raise WriteFailed(f"{self.folder}: can't be written: {error.strerror or error}") from error
        try:
            with suppress(OSError):  # only a name; if the disk is full, the database will say so
                holder.write_text(f"process {os.getpid()} (since {datetime.now():%Y-%m-%d %H:%M:%S})", "utf-8")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()
