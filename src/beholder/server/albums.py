"""An album behind the server: looked up in threads, searched in one of its own, and never by a path from a request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from beholder.album.album import Album
from beholder.album.store import USER_SOURCE, Picture, short_name
from beholder.errors import AlbumError, InvalidSetting, ModelError, PictureError, PictureNotFound
from beholder.pictures.read import FileBytes, Limits, read_file
from beholder.server.faults import Fault
from beholder.server.making import Making
from beholder.server.pictures import ALBUM
from beholder.server.renderings import SIDES, Thumbnails, rendering
from beholder.server.worker import Job

if TYPE_CHECKING:
    import numpy as np

    from beholder.album.search import SearchResult
    from beholder.pictures.transform import Preprocessing
    from beholder.server.service import Encoder, Service
    from beholder.tasks.dual_encoder import DualEncoder
    from beholder.tasks.pictures import PreprocessedImage

Result = TypeVar("Result")
PATIENCE = 5.0  # seconds that a request waits for what takes long


@dataclass(frozen=True)
class Wish:
    """What is looked for in an album; the fields are those of `Album.search`."""

    words: str
    like: int | None
    image: PreprocessedImage | None
    minus: str
    where: str | None
    top: int


class InItsThread:
    """A model as other threads may use it: what they ask for is computed in its own, with what others ask for."""

    def __init__(self, encoder: Encoder):
        self.worker = encoder.worker
        self.model = encoder.model
        self.fingerprint = encoder.model.fingerprint
        self.calibrated = encoder.model.calibrated
        self.match = encoder.model.match

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """As `DualEncoder.embed_texts`."""
        return self._computed("embed texts", list(texts), self.model.embed_texts)

    def embed_images(self, images: Sequence[Any]) -> np.ndarray:
        """As `DualEncoder.embed_images`."""
        return self._computed("embed pictures", list(images), self.model.embed_images)

    def _computed(self, group: str, inputs: list[Any], compute: Callable[[list[Any]], np.ndarray]) -> np.ndarray:
        import numpy as np

        def work(batch: list[Any], wanted: Callable[[], None]) -> Sequence[Any]:
            wanted()
            return list(compute(batch))

        job = Job((group,), inputs, work)
        self.worker.add(job)
        return np.stack(job.done.result())


class ServedAlbum:
    """One album.

    Args:
        service: whose models it may use.
        name: what clients call it.
        folder: where it is.

    Raises:
        AlbumError: there is none, or it is damaged.
    """

    def __init__(self, service: Service, name: str, folder: Path):
        self.service = service
        self.name = name
        # One connection for each kind of work, so that a thumbnail waits for no search and a search for no map.
        self.catalogue, self.searched, self.slow = (Album.open(folder, create_new=False) for _ in range(3))
        self.making = Making()
        self.own: Encoder | None = None
        self.preprocessing: Preprocessing | None = None  # of the model that makes its queries
        self._thumbnails = Thumbnails()
        self._searching = ThreadPoolExecutor(1, thread_name_prefix="beholder-search")

    def use(self) -> None:
        """Has the model of the album make its queries: one of those that are served, or one loaded for it."""
        if self.preprocessing is not None or not self.catalogue.store.models():
            return  # it is empty; what fills it brings its model
        if not any(self._uses_encoder(encoder) for encoder in self.service.encoders.values()):
            self.own = self.service.encoder_of(self.searched.encoder())
            self._uses_encoder(self.own)

    def _uses_encoder(self, encoder: Encoder) -> bool:
        shared = cast("DualEncoder", InItsThread(encoder))
        if self.catalogue.store.models()[0].fingerprint != shared.fingerprint:
            return False
        self.preprocessing = encoder.model.loaded.preprocessing
        for album in (self.searched, self.slow):
            album.use_encoder(shared)
        return True

    def close(self) -> None:
        """Ends its threads."""
        self.making.close()
        self._searching.shutdown(wait=False, cancel_futures=True)

    # Looking things up; each of these blocks and is called in a thread

    def find(self, content: int) -> Picture:
        """One picture.

        Raises:
            Fault: it is not in the album.
        """
        found = self.catalogue.get_pictures([content]).get(content)
        if found is None:
            raise Fault(404, "this album has no picture of this number", code="picture_not_found", param="id")
        return found

    def details(self, content: int) -> dict[str, Any]:
        """All that is known of one picture."""
        picture = self.find(content)
        copies = [short_name(os.fsencode(path)) for path in self.catalogue.copies(content)]
        by_hand = self.catalogue.tags_of(content, USER_SOURCE)
        return row(picture) | {"bytes": picture.size, "copies": copies, "own_tags": by_hand}

    def rendered(self, content: int, kind: str) -> bytes:
        """A picture as the page shows it: a JPEG.

        Raises:
            PictureError: the file is gone or can't be read any more.
        """
        name = f"picture {content}"
        if kind == "thumbnail":
            return self._thumbnails.get(content, self.find(content).path, name)
        return rendering(self.find(content).path, SIDES[kind], name)

    def tag(self, content: int) -> str:
        """What changes when the picture of a number does, for a browser's cache."""
        digest = self.catalogue.sha256_of(content)
        if digest is None:
            raise Fault(404, "this album has no picture of this number", code="picture_not_found", param="id")
        return f'"{digest.hex()[:32]}"'

    def version(self) -> tuple[int, int]:
        """What is another once anybody has written to the album."""
        connection = self.catalogue.store.connection
        return self.catalogue.store.scalar("PRAGMA data_version"), connection.total_changes()

    # Writing

    def describe(self, content: int, caption: str | None, tags: list[str] | None, into_file: bool) -> None:
        """What a person says of a picture: into the album and, where that is asked for, into its files' metadata.

        Raises:
            Fault: the server is told to change nothing.
            PictureError: a file can't be written.
        """
        if self.service.settings.read_only:
            raise Fault(403, "this server changes nothing (--read-only)", code="read_only")
        picture = self.find(content)
        if into_file:
            if not caption:
                raise InvalidSetting("into_file: goes with a caption")
            try:
                self.catalogue.write_caption_to_files(content, caption)
            except PictureError as error:
                raise type(error)(f"picture {content}", error.reason) from None
        kept = self.catalogue.tags_of(content, USER_SOURCE) if tags is None else tags
        said = caption if caption is not None else self._said(content)
        self.catalogue.describe(picture, caption=said or None, tags=kept)

    def _said(self, content: int) -> str | None:
        sql = "SELECT text FROM caption WHERE content = ? AND source = ?"
        return self.catalogue.store.scalar(sql, (content, USER_SOURCE))

    # Searching, and what takes long

    async def search(self, wish: Wish) -> list[SearchResult]:
        """The errors are those of `Album.search`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._searching, self._search, wish)

    def _search(self, wish: Wish) -> list[SearchResult]:
        try:
            self.use()  # it may have been empty before
        except ModelError as error:  # whose words may hold a path
            raise AlbumError("its model can't be loaded") from error
        if wish.like is not None:
            self.find(wish.like)
        found = self.searched.search(
            wish.words,
            image=[] if wish.image is None else [wish.image],
            like=[] if wish.like is None else [wish.like],
            minus=wish.minus,
            where=wish.where,
            top=wish.top + (wish.like is not None),
        )
        return [each for each in found if each.picture.content != wish.like][: wish.top]

    async def groups(self, clusters: int | None, keywords: list[str], where: str | None) -> list[dict[str, Any]] | None:
        """Groups as `Album.clusters` makes them, the pictures by number; None while they are being made."""

        def work() -> list[dict[str, Any]]:
            self.use()
            found = self.slow.clusters(clusters, keywords=keywords, where=where)
            return [
                {
                    "number": group.number,
                    "name": group.name,
                    "keywords": list(group.keywords),
                    "ids": [picture.content for picture in group.pictures],
                }
                for group in found
            ]

        return await self.made("groups", (clusters, tuple(keywords), where), work)

    async def map(self, where: str | None) -> dict[str, list[Any]] | None:
        """Numbers and places as `Album.map` gives them; None while it is being made."""

        def work() -> dict[str, list[Any]]:
            points = self.slow.map(where)
            return {
                "ids": [point.picture.content for point in points],
                "x": [round(point.x, 4) for point in points],
                "y": [round(point.y, 4) for point in points],
            }

        return await self.made("map", (where,), work)

    async def duplicates(self, where: str | None, distance: float) -> list[dict[str, Any]] | None:
        """Groups as `Album.duplicates` finds them, each picture once; None while they are being looked for."""

        def work() -> list[dict[str, Any]]:
            found = self.slow.duplicates(where, distance=distance)
            numbers = self.slow.content_ids([path for group in found for path in group.paths])
            known = self.slow.get_pictures(list(dict.fromkeys(numbers.values())))
            groups = []
            for group in found:
                here = dict.fromkeys(numbers[path] for path in group.paths if path in numbers)
                groups.append(
                    {
                        "kind": group.kind,
                        "distance": group.distance,
                        "copies": [short_name(os.fsencode(path)) for path in group.paths],
                        "pictures": [row(known[number]) for number in here if number in known],
                    }
                )
            return groups

        return await self.made("duplicates", (where, distance), work)

    async def made(self, what: str, given: tuple[Any, ...], work: Callable[[], Result]) -> Result | None:
        """What takes long; None while it is being made."""
        version = await asyncio.to_thread(self.version)
        try:
            return cast("Result", await self.making.ask((what, given), version, work, PATIENCE))
        except TimeoutError:
            return None


def row(picture: Picture) -> dict[str, Any]:
    """A picture as the interface tells it: without its path."""
    return {
        "id": picture.content,
        "name": short_name(os.fsencode(picture.path)),
        "width": picture.width,
        "height": picture.height,
        "taken": picture.taken,
        "camera": picture.camera,
        "caption": picture.caption,
        "tags": list(picture.tags),
    }


def file_in_album(albums: dict[str, ServedAlbum], address: str, name: str) -> FileBytes:
    """The file of a picture whose address is ``album:NAME/NUMBER``.

    Raises:
        PictureError: no served album has it, or its file can't be read any more.
    """
    called, _, number = address.removeprefix(ALBUM).rpartition("/")
    known = called in albums and number.isascii() and number.isdigit() and len(number) < 19
    found = albums[called].catalogue.get_pictures([int(number)]) if known else {}
    if not found:
        raise PictureNotFound(name, "no album of this server has such a picture: album:NAME/NUMBER")
    try:
        return read_file(next(iter(found.values())).path, Limits())
    except PictureError as error:
        raise type(error)(name, error.reason) from None


def open_albums(service: Service, folders: Sequence[Path]) -> dict[str, ServedAlbum]:
    """Albums by name: the last part of the folder's path, so that no path is told.

    Raises:
        InvalidSetting: two have the same name.
        AlbumError: one is not there, or damaged.
    """
    albums: dict[str, ServedAlbum] = {}
    for folder in folders:
        place = folder.expanduser().absolute()
        name = short_name(os.fsencode(place.name))
        if name in albums:
            raise InvalidSetting(f"--album {folder}: another album is called {name} already; rename the folder")
        albums[name] = ServedAlbum(service, name, place)
    return albums


def in_album(albums: dict[str, ServedAlbum]) -> Callable[[str, str], FileBytes] | None:
    """For `read_all`: how pictures of albums are found; None where none is served."""
    return partial(file_in_album, albums) if albums else None
