"""Indexes of shards behind the server: searched in a thread of their own, rows read by number."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from beholder.errors import InvalidSetting
from beholder.server.http_errors import HTTPError
from beholder.server.served_models import PictureReader, ServedEncoder

if TYPE_CHECKING:
    import numpy as np

    from beholder.scale.segments import ShardIndex

Result = TypeVar("Result")


class ServedIndex:
    """One index.

    Attributes:
        encoder: Embeds queries.
        own_encoder: The same, if it was loaded for this index.

    Args:
        name: What clients call it.
        index: The opened index.
        reader: Threads that decode pictures.
        encoders: Served encoders, one of which may be the model that made the vectors; otherwise that one is loaded.

    Raises:
        InvalidSetting: The model of this name is no longer the one that made the vectors.
        ModelError: The model can't be loaded.
    """

    def __init__(self, name: str, index: ShardIndex, reader: PictureReader, encoders: Mapping[str, ServedEncoder]):
        self.name, self.index = name, index
        settings = index.manifest.settings
        same = (one for one in encoders.values() if one.model.fingerprint == settings.fingerprint)
        shared = next(same, None)
        self.own_encoder = None if shared else _load(reader, settings.model, settings.precision)
        self.encoder: ServedEncoder = shared or self.own_encoder  # type: ignore[assignment]
        if self.encoder.model.fingerprint != settings.fingerprint:
            raise InvalidSetting(f"--vectors {name}: {settings.model} is no longer the model that made its vectors")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="beholder-vectors")

    async def search(
        self, query: str, image: str | None, minus: str, minus_image: str | None, where: str, top: int
    ) -> list[dict[str, Any]]:
        """Return the rows that come closest to words, a picture, or both combined, best first.

        Raises:
            InvalidFilter: Of ``where``.
            PictureError: A picture can't be used.
        """
        import numpy as np

        from beholder.album.search import combine_queries

        self.index.check_filter(where)  # before anything is computed
        texts, images = [one for one in (query, minus) if one], [one for one in (image, minus_image) if one]
        await self.encoder.count_tokens(texts)
        embedding = self.index.manifest.settings.embedding
        of_texts = list(await self.encoder.embed_texts(texts)) if texts else []
        of_images = list(await self.encoder.embed_images(images)) if images else []
        wanted = [*of_texts[: bool(query)], *of_images[: image is not None]]
        subtracted = [*of_texts[bool(query) :], *of_images[image is not None :]]
        vector = combine_queries(np.array(wanted), np.array(subtracted).reshape(-1, embedding))
        hits = await self.run(self.index.search, vector, top, where)
        return [{"id": hit.id, "score": hit.cosine} | to_row(hit.row) for hit in hits]

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a function of the index in its thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    async def row(self, number: int) -> dict[str, Any]:
        """Return the columns of one row."""
        self._check(number)
        return to_row(await asyncio.to_thread(self.index.row, number))

    async def vector(self, number: int) -> np.ndarray:
        """Return the vector (E,) of one row."""
        self._check(number)
        return await asyncio.to_thread(self.index.vector, number)

    async def thumbnail(self, number: int) -> bytes:
        """Return the thumbnail of one row's picture, a JPEG."""
        self._check(number)
        found = await asyncio.to_thread(self.index.thumbnail, number)
        if found is None:
            raise HTTPError(
                404,
                "this index has no thumbnail of it: they are kept by beholder scale embed --thumbnails",
                code="thumbnail_not_found",
                param="id",
            )
        return found

    def _check(self, number: int) -> None:
        if number >= len(self.index):
            raise HTTPError(404, "this index has no row with this number", code="row_not_found", param="id")

    def close(self) -> None:
        """Stop its thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def to_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return columns as the API shows them: of the shard, its last component alone."""
    shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
    return shown | {"shard": str(row["shard"]).rstrip("/").rpartition("/")[2]}


def open_indexes(
    addresses: Sequence[str], reader: PictureReader, encoders: Mapping[str, ServedEncoder]
) -> dict[str, ServedIndex]:
    """Return indexes by name: the last component of the address.

    Raises:
        MissingExtra: A package is missing.
        InvalidSetting: There is no index at an address, it can't be read, or two have the same name.
        ModelError: The model of an index can't be loaded.
    """
    indexes: dict[str, ServedIndex] = {}
    for address in addresses:
        from beholder.scale.remote_index import fetch_index
        from beholder.scale.segments import ShardIndex

        name = address.rstrip("/").rpartition("/")[2]
        if name in indexes:
            raise InvalidSetting(f"--vectors {address}: another index is already called {name}; rename the folder")
        indexes[name] = ServedIndex(name, ShardIndex(fetch_index(address)), reader, encoders)
    return indexes


def _load(reader: PictureReader, name: str, precision: str) -> ServedEncoder:
    from beholder.tasks.dual_encoder import DualEncoder

    model = DualEncoder.from_pretrained(name, precision=precision)  # type: ignore[arg-type]
    return ServedEncoder(reader, Path(name).name, model)  # of a folder, no path is exposed
