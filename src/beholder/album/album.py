"""Album: a folder of pictures, or many, that can be searched by words and by example.

album = Album.open("my-album")
album.index(["~/Pictures"])
for found in album.search("children running on a beach"):
    print(found.score, found.picture.path)
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
from beholder.album.picture_map import MapPoint, map_coordinates
from beholder.album.schema import create, open_existing
from beholder.album.search import MATCH_THRESHOLD, Query, SearchResult, combine_queries, search
from beholder.album.store import USER_SOURCE, IndexedModel, Picture, Store
from beholder.album.thumbnail import thumbnail
from beholder.album.vector_index import RECALL, VectorIndex
from beholder.errors import AlbumBusy, AlbumError, InvalidSetting
from beholder.pictures.read import ImageSource, Limits, read_file
from beholder.tasks.pictures import PreprocessedImage, image_list

if TYPE_CHECKING:
    from beholder.runtime.precision import Precision
    from beholder.tasks.dual_encoder import DualEncoder

ImageQuery = ImageSource | PreprocessedImage  # an image given as a search example

LOCK, HOLDER = "album.lock", "album.holder"


def default_folder() -> Path:
    """``$BEHOLDER_ALBUM``, or a folder where this system keeps its users' data."""
    from platformdirs import user_data_path

    named = os.environ.get("BEHOLDER_ALBUM")
    return Path(named).expanduser() if named else user_data_path("beholder", appauthor=False) / "album"


class Album:
    """A searchable collection of pictures in one folder; the pictures themselves stay where they are.

    Made by `open`. It may be searched while another process indexes into it.
    """

    def __init__(self, store: Store):
        self.store = store
        self.folder = store.folder
        self._indexes: dict[int, VectorIndex] = {}
        self._encoders: dict[int, DualEncoder] = {}

    @classmethod
    def open(cls, folder: str | Path | None = None, *, create_new: bool = True) -> Album:
        """The album in a folder, made if there is none.

        Args:
            folder: of the album; by default ``$BEHOLDER_ALBUM`` or a folder where the system keeps users' data.
            create_new: make it if it is not there.

        Raises:
            AlbumNotFound: there is none, and none is to be made.
            AlbumDamaged: what is there is no album, is damaged, or was made by a newer Beholder.
        """
        place = default_folder() if folder is None else Path(folder).expanduser().absolute()
        return cls(Store(create(place) if create_new else open_existing(place), place))

    def close(self) -> None:
        """Closes the album; it is whole without, too."""
        self.store.close()

    def __enter__(self) -> Album:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Pictures in it; copies count once."""
        return self.store.scalar("SELECT count(*) FROM content")

    # Indexing

    def index(
        self,
        folders: Iterable[str | Path] | str | Path,
        *,
        model: str | DualEncoder = "mini",
        exclude: Sequence[str] = (),
        report: Callable[[IndexedPicture], None] | None = None,
        expect: Callable[[int], None] | None = None,
        batch_size: int = 16,
        exact: bool = False,
        precision: Precision = "exact",
        limits: Limits | None = None,
        recall: float | None = None,
    ) -> IndexSummary:
        """Brings the album up to date with folders: what is new or changed is embedded, what is gone goes.

        It may be stopped at any moment; the next run goes on from there.

        Args:
            folders: to look through, hidden ones in them left out; or single files.
            model: a name, a folder, a hub id, or a `DualEncoder`. Vectors of other models stay beside its own.
            exclude: patterns as in a ``.gitignore``, relative to each folder.
            report: called with each file once what became of it is on disk.
            expect: called with the number of files that will be reported.
            batch_size: pictures that go through the network together.
            exact: decode large JPEGs in full.
            precision: how near to the network's own vectors (`DualEncoder.from_pretrained`); a `DualEncoder` has one.
            limits: the caps on pixels, bytes and sides.
            recall: the share of the true nearest that a search in a large album must find; by default what was asked
                for before, or 0.95.

        Raises:
            AlbumBusy: another process is indexing into this album.
            WriteFailed: the album can't be written; what was done before stays.
            ModelError: the model can't be loaded.
        """
        named = [folders] if isinstance(folders, str | Path) else list(folders)
        if not named:
            raise InvalidSetting("nothing to index: name a folder of pictures")
        if recall is not None and not 0 < recall < 1:
            raise InvalidSetting(f"recall {recall} is not between 0 and 1")
        with self._writer_lock():
            entry = self._entry(model)
            own = precision == "exact" or not isinstance(model, str)
            run = Indexer(
                self.store,
                entry.id,
                lambda: self._encoder(entry) if own else model_identity.load_encoder(entry, precision),
                exclude=exclude,
                report=report,
                expect=expect,
                batch_size=batch_size,
                exact=exact,
                limits=limits,
            )
            summary = run.run([Path(folder).expanduser() for folder in named])
            self._at(entry).update(recall)
            self.store.used(entry)  # not before: until all are embedded, a search goes by the model that was there
        return summary

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
        """The pictures that go best with words, with a picture, or with both, best first.

        Args:
            words: what to look for.
            image: a picture, or several, whose likes to look for; added to the words.
            minus: words to keep away from.
            minus_image: pictures to keep away from.
            like: pictures of the album by their number (`Picture.content`), added as ``image`` is.
            where: a filter, such as ``'date>=2024-05 camera:canon'`` (see `beholder.album.filters`).
            top: how many.
            skip: how many of the best to leave out, for a page behind the first.
            model: whose vectors to search; by default those of the model that indexed last.

        Raises:
            InvalidSetting: nothing to look for, or a filter that can't be understood.
            AlbumError: the album holds no vectors of this model.
            PictureError: a picture can't be used.
        """
        if top < 1 or skip < 0:
            raise InvalidSetting(f"top {top} must be at least 1, and skip {skip} at least 0")
        condition = filters.parse(where)
        entry = self._model(model)
        given = [minus] if isinstance(minus, str) else list(minus)
        subtracted = [sentence for sentence in given if sentence.strip()]
        sentences = [*([words] if words.strip() else []), *subtracted]
        texts = self._encoder(entry).embed_texts(sentences) if sentences else np.zeros((0, entry.embedding))
        text = texts[0] if words.strip() else None
        pictures = np.concatenate([self._image_vectors(entry, image), self._known_vectors(entry, like)])
        plus = np.concatenate([texts[: text is not None], pictures])
        query = combine_queries(
            plus, np.concatenate([texts[text is not None :], self._image_vectors(entry, minus_image)])
        )
        with self.store.snapshot():
            vector_index = self._at(entry)
            vector_index.refresh()
            found, vectors = search(self.store, vector_index, Query(query, words, text), top + skip, condition)
        found, vectors = found[skip:], vectors[skip:]
        if text is None or not found or not self._encoder(entry).calibrated:
            return found
        sure = self._encoder(entry).match(vectors, text[None])[:, 0]
        alone = not len(pictures) and not subtracted
        return [
            replace(
                one, match=float(match), fits=one.fits and (not alone or one.named or bool(match >= MATCH_THRESHOLD))
            )
            for one, match in zip(found, sure, strict=True)
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
        """The pictures that are most like one of the album, which is left out.

        Args:
            content: its number (`Picture.content`).
            where: a filter.
            top: how many.
            skip: how many of the best to leave out.
            model: whose vectors to search.

        Raises:
            InvalidSetting: the album has no such picture, or a filter that can't be understood.
        """
        found = self.search(like=[content], where=where, top=top + skip + 1, model=model)
        return [one for one in found if one.picture.content != content][skip : skip + top]

    # What pictures are said to be

    def describe(
        self,
        picture: str | Path | Picture,
        *,
        caption: str | None = None,
        tags: Sequence[str] = (),
        source: str = USER_SOURCE,
    ) -> None:
        """Sets the caption and the tags that one source gives a picture, in the place of those that it gave before.

        Raises:
            InvalidSetting: the picture is not in the album.
        """
        if isinstance(picture, Picture):
            content = picture.content
        else:
            path = os.fsencode(Path(picture).expanduser().absolute())
            content = self.store.scalar("SELECT content FROM picture WHERE path = ?", (path,))
            if content is None:
                raise InvalidSetting(f"{picture}: is not in the album; index it first")
        self.store.describe(content, source, caption, tags)

    def write_caption_to_files(self, content: int, caption: str) -> list[Path]:
        """Writes a caption into a picture's own metadata, in all its copies; the album goes on knowing it.

        Args:
            content: the number of the picture (`Picture.content`).
            caption: to put in the place of the one that is there.

        Returns:
            What was written: pictures, or sidecars of those that can't hold it.

        Raises:
            PictureError: a file is gone, is a link, has changed since it was indexed, or can't be written.
            AlbumBusy: another process is indexing into this album.
        """
        with self._writer_lock():
            return write_caption_to_files(self.store, content, caption)

    def contents(self, where: str | None = None, order: str = "path") -> list[int]:
        """The numbers (`Picture.content`) of the pictures that a filter lets through, in an order.

        Args:
            where: a filter.
            order: ``path``, ``newest`` or ``oldest``.
        """
        return browse.contents(self.store, filters.parse(where), order)

    def get_pictures(self, contents: Sequence[int]) -> dict[int, Picture]:
        """Pictures by their numbers; those that are gone are left out."""
        return self.store.pictures(contents)

    def sha256_of(self, content: int) -> bytes | None:
        """The SHA-256 of a picture's file; None if it is not in the album."""
        return self.store.scalar("SELECT sha256 FROM content WHERE id = ?", (content,))

    def content_ids(self, paths: Sequence[str]) -> dict[str, int]:
        """The numbers of the pictures at some paths; those that are not in the album are left out."""
        found: dict[str, int] = {}
        for start in range(0, len(paths), 500):
            some = [os.fsencode(path) for path in paths[start : start + 500]]
            marks = ", ".join("?" * len(some))
            for path, content in self.store.query(f"SELECT path, content FROM picture WHERE path IN ({marks})", some):
                found[os.fsdecode(path)] = content
        return found

    def copies(self, content: int) -> list[str]:
        """The paths of all files with this content, the first the one that `Picture.path` names."""
        rows = self.store.query("SELECT path FROM picture WHERE content = ? ORDER BY path", (content,))
        return [os.fsdecode(row[0]) for row in rows]

    def tags_of(self, content: int, source: str) -> list[str]:
        """The tags that one source gives a picture."""
        sql = "SELECT text FROM tag WHERE content = ? AND source = ? ORDER BY text"
        return [row[0] for row in self.store.query(sql, (content, source))]

    def facets(self) -> browse.Facets:
        """How many pictures there are, from which years, cameras and so on."""
        return browse.facets(self.store)

    def pictures(self, where: str | None = None) -> Iterator[Picture]:
        """The pictures that a filter lets through, ordered by path; copies come once."""
        condition = filters.parse(where)
        contents = browse.contents(self.store, condition, "path")
        for start in range(0, len(contents), 500):
            some = contents[start : start + 500]
            known = self.store.pictures(some, condition.sql, condition.bound)
            yield from (known[content] for content in some if content in known)

    def thumbnail(self, content: int, side: int = 240) -> bytes | None:
        """A JPEG of at most ``side`` pixels either way; None if the picture is gone or can't be read any more."""
        picture = self.get_pictures([content]).get(content)
        return None if picture is None else thumbnail(picture.path, side)

    def failed(self) -> list[tuple[str, str]]:
        """Files that could not be used when they were last looked at, each with the reason."""
        rows = self.store.query("SELECT path, reason FROM failed ORDER BY path")
        return [(os.fsdecode(path), reason) for path, reason in rows]

    def embeddings(
        self, where: str | None = None, model: str | DualEncoder | None = None
    ) -> tuple[list[Picture], np.ndarray]:
        """Pictures and their vectors (n, E) float32, ordered by path."""
        entry = self._model(model)
        with self.store.snapshot():
            pictures = list(self.pictures(where))
            sql = "SELECT content, data FROM vector WHERE model = ?"
            data: dict[int, bytes] = dict(self.store.query(sql, (entry.id,)))
        pictures = [picture for picture in pictures if picture.content in data]
        halves = np.frombuffer(b"".join(data[picture.content] for picture in pictures), np.float16)
        return pictures, halves.reshape(len(pictures), entry.embedding).astype(np.float32)

    def duplicates(
        self, where: str | None = None, *, distance: float = DISTANCE, model: str | DualEncoder | None = None
    ) -> list[DuplicateGroup]:
        """Pictures that are nearly the same, in groups, the one to keep first; the most alike groups first.

        Args:
            where: a filter.
            distance: how far apart two may be, from 0 (copies alone) to 1.
            model: whose vectors to compare.

        Raises:
            InvalidSetting: the distance or the filter can't be used.
            AlbumError: the album holds no vectors of this model.
        """
        if not 0 <= distance <= 1:
            raise InvalidSetting(f"distance {distance} is not between 0 and 1")
        pictures, vectors = self.embeddings(where, model)
        paths: dict[int, list[str]] = {}
        condition = filters.parse(where)
        for content, path in self.store.query(
            f"""SELECT content.id, picture.path FROM picture JOIN content ON content.id = picture.content
            WHERE {condition.sql} ORDER BY length(picture.path), picture.path""",
            condition.bound,
        ):
            paths.setdefault(content, []).append(os.fsdecode(path))
        return find_duplicates(self.store, pictures, vectors, paths, distance)

    def clusters(
        self,
        clusters: int | None = None,
        *,
        keywords: Sequence[str] = (),
        where: str | None = None,
        seed: int = 0,
        model: str | DualEncoder | None = None,
    ) -> list[PictureCluster]:
        """Pictures that go together, the largest group first and those that belong to none last, each with a name.

        Args:
            clusters: how many; None for as many as there are.
            keywords: names that a group may have; without any they come from captions, or from everyday words.
            where: a filter.
            seed: of what is drawn at random.
            model: whose vectors to compare.

        Raises:
            InvalidSetting: there are fewer pictures than groups, or a filter that can't be understood.
            AlbumError: the album holds no vectors of this model.
            MissingExtra: scikit-learn is not installed.
        """
        pictures, vectors = self.embeddings(where, model)
        if not pictures:
            return []
        captions = [picture.caption for picture in pictures]
        found = find_clusters(vectors, captions, self.encoder(model).embed_texts, clusters, keywords, seed)
        return [
            PictureCluster(one.number, one.name, one.keywords, tuple(pictures[row] for row in one.rows))
            for one in found
        ]

    def map(self, where: str | None = None, *, model: str | DualEncoder | None = None) -> list[MapPoint]:
        """Where the pictures lie on a map, ordered by path: near each other if they are alike.

        Places are kept: the first call for an album takes a while, and what comes later finds its place among the rest.

        Args:
            where: a filter; places are those on the map of the whole album.
            model: whose vectors to compare.

        Raises:
            AlbumError: the album holds no vectors of this model.
            MissingExtra: scikit-learn is not installed.
        """
        found = map_coordinates(self.store, self._model(model))
        return [MapPoint(one, *found[one.content]) for one in self.pictures(where) if one.content in found]

    def outliers(
        self, where: str | None = None, *, top: int = 20, model: str | DualEncoder | None = None
    ) -> list[Outlier]:
        """The pictures that are least like any other, the most unlike first.

        Args:
            where: a filter; only pictures that it lets through are compared.
            top: how many.
            model: whose vectors to compare.

        Raises:
            AlbumError: the album holds no vectors of this model.
        """
        return find_outliers(*self.embeddings(where, model), top)

    def check(self) -> list[tuple[str, bool, str]]:
        """Looks after the album: (what, whether it is well, detail). A damaged index file is made anew.

        Raises:
            AlbumDamaged: the file can't be read at all.
        """
        damage = [row[0] for row in self.store.query("PRAGMA integrity_check(10)") if row[0] != "ok"]
        checks = [("database", not damage, "; ".join(damage) or f"{len(self)} pictures")]
        loose = self.store.scalar("SELECT count(*) FROM picture WHERE content NOT IN (SELECT id FROM content)")
        checks.append(("files", loose == 0, f"{loose} files without content" if loose else "each has its content"))
        for model in self.store.models():
            size = 2 * model.embedding
            bad = self.store.scalar(
                "SELECT count(*) FROM vector WHERE model = ? AND length(data) != ?", (model.id, size)
            )
            count = 0
            for _, halves in self._at(model).parts() if not bad else ():
                lengths = np.linalg.norm(halves.astype(np.float32), axis=1)
                bad += int((~(np.abs(lengths - 1) < 0.01)).sum())
                count += len(halves)
            checks.append((f"vectors of {model.name}", bad == 0, f"{count} vectors, {bad} of them broken"))
            if not bad:
                recall = self._at(model).measure_recall()
                description = self._at(model).description
                aim = RECALL if description is None or not description.probes else description.aim
                how = (
                    "exact search"
                    if description is None or not description.probes
                    else f"{description.probes} of {description.cells} cells"
                )
                checks.append((f"search by {model.name}", recall >= aim, f"recall@10 {recall:.3f}, {how}"))
        return checks

    def use_encoder(self, encoder: DualEncoder) -> bool:
        """Has a model that is loaded already make the queries, where the album has vectors of it; whether it has."""
        made = encoder.fingerprint
        known = [model for model in self.store.models() if model.fingerprint == made]
        self._encoders |= {model.id: encoder for model in known}
        return bool(known)

    def encoder(self, model: str | DualEncoder | None = None) -> DualEncoder:
        """What makes vectors that go with the album's."""
        return self._encoder(self._model(model))

    # Models

    def _entry(self, model: str | DualEncoder) -> IndexedModel:
        """The album's entry for a model that is to index."""
        if not isinstance(model, str):
            entry = model_identity.register(self.store, model, model.loaded.name)
            self._encoders[entry.id] = model
            return entry
        known = model_identity.recognize(self.store, model)
        if known is not None:
            return self.store.add_model(known.fingerprint, known.name, known.embedding, known.folder, known.stamp)
        from beholder.tasks.dual_encoder import DualEncoder

        encoder = DualEncoder.from_pretrained(model)
        entry = model_identity.register(self.store, encoder, model)
        self._encoders[entry.id] = encoder
        return entry

    def _model(self, name: str | DualEncoder | None) -> IndexedModel:
        """The album's entry for a model that is to search."""
        models = self.store.models()
        if name is not None and not isinstance(name, str):
            made = name.fingerprint
            for model in models:
                if model.fingerprint == made:
                    self._encoders[model.id] = name
                    return model
            name = name.loaded.name
        if not models:
            raise AlbumError(f"{self.folder}: the album is empty; fill it with: beholder index FOLDER")
        if name is None:
            return models[0]
        found = model_identity.recognize(self.store, name)
        found = found or next((model for model in models if model.name == name), None)
        if found is None:
            names = ", ".join(dict.fromkeys(model.name for model in models))
            raise AlbumError(
                f"{self.folder}: has no vectors of {name}, only of {names}; make them with: "
                f"beholder index FOLDER --model {name}"
            )
        return found

    def _encoder(self, entry: IndexedModel) -> DualEncoder:
        if entry.id not in self._encoders:
            self._encoders[entry.id] = model_identity.load_encoder(entry)
        return self._encoders[entry.id]

    def _image_vectors(self, entry: IndexedModel, images: ImageQuery | Sequence[ImageQuery]) -> np.ndarray:
        """(n, E); a file whose content the album knows needs no network."""
        found = []
        for image in image_list(images):
            vector = None
            if isinstance(image, str | Path):
                image = read_file(Path(image).expanduser())
            if isinstance(image, bytes):
                vector = self.store.vector_by_hash(hashlib.sha256(image).digest(), entry.id)
            found.append(self._encoder(entry).embed_images([image])[0] if vector is None else vector)
        return np.stack(found) if found else np.zeros((0, entry.embedding), np.float32)

    def _known_vectors(self, entry: IndexedModel, contents: Sequence[int]) -> np.ndarray:
        """(n, E) of pictures that the model has seen."""
        known = self.store.vectors_by_content(entry.id, contents)
        for content in contents:
            if content not in known:
                raise InvalidSetting(f"the album has no picture {content} that {entry.name} has seen")
        found = [known[content] for content in contents]
        return np.stack(found) if found else np.zeros((0, entry.embedding), np.float32)

    def _at(self, entry: IndexedModel) -> VectorIndex:
        if entry.id not in self._indexes:
            self._indexes[entry.id] = VectorIndex(self.store, entry)
        return self._indexes[entry.id]

    @contextmanager
    def _writer_lock(self) -> Iterator[None]:
        """Holds the album's lock, which ends with the process, however that ends."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / LOCK, timeout=0)
        holder = self.folder / HOLDER
        try:
            lock.acquire()
        except Timeout:
            who = ""
            with suppress(OSError):
                who = holder.read_text("utf-8")
            who = who or "another process"  # it may be between taking the lock and writing its name
            raise AlbumBusy(f"{self.folder}: {who} is indexing into this album; wait until it is done") from None
        try:
            with suppress(OSError):  # only a name; on a full disk, the album itself says so
                holder.write_text(f"process {os.getpid()} (since {datetime.now():%Y-%m-%d %H:%M:%S})", "utf-8")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()
