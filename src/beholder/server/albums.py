"""Albums behind the server: read in threads, searched in a thread of their own, and never by a path from a request."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from beholder.album.album import Album
from beholder.album.picture import Picture, short_name
from beholder.album.store.schema import FILE
from beholder.errors import AlbumError, InvalidSetting, ModelError, PictureError, PictureNotFound
from beholder.pictures.read import FileBytes, Limits, read_file, read_picture
from beholder.pictures.video import VideoFrame
from beholder.server.album_indexing import AlbumIndexer
from beholder.server.background_jobs import BackgroundJobs
from beholder.server.http_errors import HTTPError
from beholder.server.picture_loading import ALBUM_SCHEME
from beholder.server.served_models import PictureReader, ServedEncoder
from beholder.server.settings import ServerSettings
from beholder.server.thumbnails import MAX_SIDES, ThumbnailCache, render
from beholder.server.worker_encoder import WorkerEncoder

if TYPE_CHECKING:
    from beholder.album.search import SearchResult
    from beholder.pictures.preprocess import AnyPreprocessing
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.pictures import Picture as NetworkInput

Result = TypeVar("Result")
JOB_TIMEOUT = 5.0  # seconds that a request waits for a background job


@dataclass(frozen=True)
class SearchQuery:
    """A query to an album; the fields are those of `Album.search`."""

    text: str
    like: int | None
    image: NetworkInput | None
    minus: str
    where: str | None
    top: int


class ServedAlbum:
    """One album.

    Args:
        name: What clients call it.
        folder: Where it is.
        settings: The server's settings.
        reader: Threads that decode pictures.
        encoders: Served encoders, one of which may be the album's.

    Raises:
        AlbumError: There is no album in the folder, or it is damaged.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        settings: ServerSettings,
        reader: PictureReader,
        encoders: Mapping[str, ServedEncoder],
    ):
        self.name = name
        self.folder = folder
        self.settings = settings
        self.reader = reader
        self.encoders = encoders
        # One connection per kind of work, so that a thumbnail never waits for a search, nor a search for the map.
        self.catalogue, self.search_album, self.background_album = (
            Album.open(folder, create_new=False) for _ in range(3)
        )
        self.background = BackgroundJobs()
        self.indexer = AlbumIndexer(folder)
        self.own_encoder: ServedEncoder | None = None
        self.preprocessing: AnyPreprocessing | None = None  # of the model that embeds its queries
        self._thumbnails = ThumbnailCache()
        self._writing = threading.Lock()  # saving into files takes the album's lock, which another thread may hold
        self._identity = self._stat()
        self._search_thread = ThreadPoolExecutor(1, thread_name_prefix="beholder-search")

    def attach_encoder(self) -> None:
        """Have queries embedded by the album's model: a served encoder, or one loaded for it."""
        if self.preprocessing is not None or not self.catalogue.models():
            return  # an empty album gets its model with its first pictures
        if not any(self._adopt(encoder) for encoder in self.encoders.values()):
            model = self.search_album.encoder()
            self.own_encoder = ServedEncoder(self.reader, model.loaded.name, model)
            self._adopt(self.own_encoder)

    def _adopt(self, encoder: ServedEncoder) -> bool:
        shared = cast("DualEncoder", WorkerEncoder(encoder))
        if self.catalogue.models()[0].fingerprint != shared.fingerprint:
            return False
        self.preprocessing = encoder.model.loaded.preprocessing
        for album in (self.search_album, self.background_album):
            album.use_encoder(shared)
        return True

    def _stat(self) -> tuple[int, int] | None:
        try:
            stat = (self.folder / FILE).stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino

    def check_unchanged(self) -> None:
        """Refuse requests once the album's file was removed or replaced, such as by restoring a backup.

        Raises:
            HTTPError: The open file is no longer the one in the folder, so writes to it would be lost.
        """
        if self._stat() != self._identity:
            raise HTTPError(
                409,
                "the album's folder was removed or replaced while it was served: restart the server",
                code="album_replaced",
            )

    def close(self) -> None:
        """Stop its threads."""
        self.indexer.stop(timeout=5.0)
        self.background.close()
        self._search_thread.shutdown(wait=False, cancel_futures=True)

    # Lookups; each of these blocks and is called in a thread

    def find(self, content: int) -> Picture:
        """Return one picture.

        Raises:
            HTTPError: It is not in the album.
        """
        found = self.catalogue.get_pictures([content]).get(content)
        if found is None:
            raise HTTPError(404, "this album has no picture with this number", code="picture_not_found", param="id")
        return found

    def details(self, content: int) -> dict[str, Any]:
        """Return all that is known of one picture."""
        picture = self.find(content)
        copies = [short_name(os.fsencode(path)) for path in self.catalogue.copies(content)]
        raw = [short_name(os.fsencode(path)) for path in self.catalogue.raw_files(content)]
        own_tags = self.catalogue.tags_of(content)
        text = self.catalogue.text_in(content)
        return to_row(picture) | {
            "bytes": picture.size,
            "copies": copies,
            "raw": raw,
            "own_tags": own_tags,
            "text": text,
        }

    def render(self, content: int, kind: str) -> bytes:
        """Return a picture as the page shows it: a JPEG.

        Raises:
            PictureError: The file is gone or can no longer be read.
        """
        name = f"picture {content}"
        if kind == "thumbnail":
            return self._thumbnails.get(content, self.find(content).source, name)
        return render(self.find(content).source, MAX_SIDES[kind], name)

    def etag(self, content: int) -> str:
        """Return an entity tag that changes when the picture with this number does."""
        digest = self.catalogue.sha256_of(content)
        if digest is None:
            raise HTTPError(404, "this album has no picture with this number", code="picture_not_found", param="id")
        return f'"{digest.hex()[:32]}"'

    def version(self) -> tuple[int, int]:
        """Return a value that changes whenever anyone writes to the album."""
        return self.catalogue.version()

    # Writing

    def describe(self, content: int, caption: str | None, tags: list[str] | None, into_file: bool) -> None:
        """Save a caption and tags by hand to the album and, with ``into_file``, to the metadata of the files.

        Raises:
            HTTPError: The server is read-only.
            PictureError: A file can't be written.
        """
        self.check_writable()
        with self._writing:
            self._describe(content, caption, tags, into_file)

    def check_writable(self) -> None:
        """Raise an `HTTPError` if the server is read-only."""
        if self.settings.read_only:
            raise HTTPError(403, "this server is read-only (--read-only)", code="read_only")

    def rate(
        self,
        contents: list[int],
        rating: int | None,
        label: str | None,
        tags: list[str],
        without_tags: list[str],
    ) -> int:
        """Rate, label and tag pictures by hand; return how many there were.

        Raises:
            HTTPError: The server is read-only.
        """
        self.check_writable()
        with self._writing:
            return self.catalogue.rate(contents, rating=rating, label=label, tags=tags, without_tags=without_tags)

    def start_indexing(self, folders: Sequence[Path]) -> None:
        """Start an index run over folders; without any, over all that were indexed before.

        Raises:
            HTTPError: The server is read-only, a run is under way, or no served model can index.
        """
        self.check_writable()
        try:
            self.attach_encoder()
        except ModelError as error:  # whose message may contain a path
            raise AlbumError("its model can't be loaded") from error
        known = [model.fingerprint for model in self.catalogue.models()]
        candidates = [*self.encoders.values(), *([self.own_encoder] if self.own_encoder is not None else [])]
        encoder = next((each for each in candidates if not known or each.model.fingerprint == known[0]), None)
        if encoder is None:
            raise HTTPError(400, "no model of this server embeds pictures", code="unsupported_by_model")
        self.indexer.start(folders, encoder, Limits())

    def _describe(self, content: int, caption: str | None, tags: list[str] | None, into_file: bool) -> None:
        picture = self.find(content)
        if into_file:
            if not caption:
                raise InvalidSetting("into_file: needs a caption")
            try:
                self.catalogue.write_caption_to_files(content, caption)
            except PictureError as error:
                raise type(error)(f"picture {content}", error.reason) from None
        new_tags = self.catalogue.tags_of(content) if tags is None else tags
        new_caption = caption if caption is not None else self.catalogue.caption_of(content)
        self.catalogue.describe(picture, caption=new_caption or None, tags=new_tags)

    # Searching, and what takes long

    async def search(self, query: SearchQuery) -> list[SearchResult]:
        """Return the best matches; raises what `Album.search` raises."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._search_thread, self._search, query)

    def _search(self, query: SearchQuery) -> list[SearchResult]:
        try:
            self.attach_encoder()  # the album may have been empty before
        except ModelError as error:  # whose message may contain a path
            raise AlbumError("its model can't be loaded") from error
        if query.like is not None:
            self.find(query.like)
        found = self.search_album.search(
            query.text,
            image=[] if query.image is None else [query.image],
            like=[] if query.like is None else [query.like],
            minus=query.minus,
            where=query.where,
            top=query.top + (query.like is not None),
        )
        return [each for each in found if each.picture.content != query.like][: query.top]

    async def groups(self, clusters: int | None, keywords: list[str], where: str | None) -> list[dict[str, Any]] | None:
        """Return the groups of `Album.clusters`, pictures by number; None while they are being computed."""

        def compute() -> list[dict[str, Any]]:
            self.attach_encoder()
            found = self.background_album.clusters(clusters, keywords=keywords, where=where)
            return [
                {
                    "number": group.number,
                    "name": group.name,
                    "keywords": list(group.keywords),
                    "ids": [picture.content for picture in group.pictures],
                }
                for group in found
            ]

        return await self.in_background("groups", (clusters, tuple(keywords), where), compute)

    async def map(self, where: str | None) -> dict[str, list[Any]] | None:
        """Return numbers and positions of `Album.map`; None while they are being computed."""

        def compute() -> dict[str, list[Any]]:
            points = self.background_album.map(where)
            return {
                "ids": [point.picture.content for point in points],
                "x": [round(point.x, 4) for point in points],
                "y": [round(point.y, 4) for point in points],
            }

        return await self.in_background("map", (where,), compute)

    async def duplicates(self, where: str | None, distance: float) -> list[dict[str, Any]] | None:
        """Return the groups of `Album.duplicates`, each picture once; None while they are being computed."""

        def compute() -> list[dict[str, Any]]:
            found = self.background_album.duplicates(where, distance=distance)
            numbers = self.background_album.content_ids([path for group in found for path in group.paths])
            known = self.background_album.get_pictures(list(dict.fromkeys(numbers.values())))
            groups = []
            for group in found:
                contents = dict.fromkeys(numbers[path] for path in group.paths if path in numbers)
                groups.append(
                    {
                        "kind": group.kind,
                        "distance": group.distance,
                        "copies": [short_name(os.fsencode(path)) for path in group.paths],
                        "pictures": [to_row(known[number]) for number in contents if number in known],
                    }
                )
            return groups

        return await self.in_background("duplicates", (where, distance), compute)

    async def in_background(
        self, kind: str, arguments: tuple[Any, ...], function: Callable[[], Result]
    ) -> Result | None:
        """Return the result of a background job; None while it is being computed."""
        version = await asyncio.to_thread(self.version)
        try:
            return cast("Result", await self.background.get((kind, arguments), version, function, JOB_TIMEOUT))
        except TimeoutError:
            return None


def to_row(picture: Picture) -> dict[str, Any]:
    """Return a picture as the API shows it: without its path."""
    return {
        "id": picture.content,
        "name": short_name(os.fsencode(picture.path)),
        "width": picture.width,
        "height": picture.height,
        "taken": picture.taken,
        "camera": picture.camera,
        "caption": picture.caption,
        "tags": list(picture.tags),
        "rating": picture.rating,
        "label": picture.label,
        "place": picture.place,
        **({} if picture.time is None else {"time": picture.time}),
    }


def album_file(albums: dict[str, ServedAlbum], url: str, name: str) -> FileBytes:
    """Return the file of the picture at ``album:NAME/NUMBER``.

    Raises:
        PictureError: No served album contains it, or its file can no longer be read.
    """
    album, _, number = url.removeprefix(ALBUM_SCHEME).rpartition("/")
    valid = album in albums and number.isascii() and number.isdigit() and len(number) < 19
    if valid:
        albums[album].check_unchanged()
    found = albums[album].catalogue.get_pictures([int(number)]) if valid else {}
    if not found:
        raise PictureNotFound(name, "no album of this server has such a picture: album:NAME/NUMBER")
    try:
        return _file_bytes(next(iter(found.values())))
    except PictureError as error:
        raise type(error)(name, error.reason) from None


def _file_bytes(picture: Picture) -> FileBytes:
    """Return the file of a picture; of a video, the frame as a PNG."""
    if not isinstance(picture.source, VideoFrame):
        return read_file(picture.path, Limits())
    buffer = BytesIO()
    read_picture(picture.source).save(buffer, "PNG", compress_level=1)
    data = FileBytes(buffer.getvalue())
    data.path = picture.path
    return data


def open_albums(
    folders: Sequence[Path], settings: ServerSettings, reader: PictureReader, encoders: Mapping[str, ServedEncoder]
) -> dict[str, ServedAlbum]:
    """Return albums by name: the last component of the folder's path, so that no path is exposed.

    Raises:
        InvalidSetting: Two have the same name.
        AlbumError: One does not exist or is damaged.
    """
    albums: dict[str, ServedAlbum] = {}
    for folder in folders:
        path = folder.expanduser().absolute()
        name = short_name(os.fsencode(path.name))
        if name in albums:
            raise InvalidSetting(f"--album {folder}: another album is already called {name}; rename the folder")
        albums[name] = ServedAlbum(name, path, settings, reader, encoders)
    return albums
