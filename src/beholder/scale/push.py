"""Copy an index into a vector database, by the database's own client.

An address ends in the name of the collection. Before it is a server, or the path of the database's local form:

    qdrant://HOST:PORT/COLLECTION     qdrant:FOLDER/COLLECTION     key in $QDRANT_API_KEY
    milvus://HOST:PORT/COLLECTION     milvus:FILE.db/COLLECTION    user:password or token in $MILVUS_TOKEN

``qdrant+https`` and ``milvus+https`` encrypt the connection. The id of a picture follows from its shard and its key, so
the same command given again writes the same points again, and adds those that are new.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from beholder.errors import BeholderError, InvalidSetting
from beholder.scale.milvus import MilvusCollection
from beholder.scale.qdrant import QdrantCollection
from beholder.scale.segments import OpenSegment, ShardIndex

BATCH = 500  # points together
NAMESPACE = uuid.UUID("6c9a5d0c-2c1f-4b56-9f6e-2f5a1d7c9b3e")
PORTS = {"qdrant": 6333, "milvus": 19530}


class DatabaseFailed(BeholderError):
    """A vector database can't be reached, or refuses what is written to it."""


class Collection(Protocol):
    """A collection of a vector database."""

    def write(self, ids: Sequence[str], vectors: np.ndarray, payloads: Sequence[dict[str, Any]]) -> None:
        """Insert points, or replace those with the same ids."""

    def close(self) -> None:
        """End the connection."""


@dataclass(frozen=True)
class DatabaseAddress:
    """Where a collection is.

    Attributes:
        database: ``qdrant`` or ``milvus``.
        server: its address, such as ``http://localhost:6333``; None for a local form.
        path: of the local form; None for a server.
        collection: name.
    """

    database: str
    server: str | None
    path: str | None
    collection: str

    @classmethod
    def parse(cls, address: str) -> DatabaseAddress:
        """Take an address apart.

        Raises:
            InvalidSetting: it is of another form.
        """
        form = "is not of the form qdrant://HOST:PORT/COLLECTION or milvus://HOST:PORT/COLLECTION"
        try:
            parts = urlsplit(address)
            port = parts.port
        except ValueError as error:
            raise InvalidSetting(f"{address}: {form} ({error})") from None
        database, _, protocol = parts.scheme.partition("+")
        before, _, collection = parts.path.rpartition("/")
        if database not in PORTS or protocol not in ("", "https") or not collection or parts.query or parts.fragment:
            raise InvalidSetting(f"{address}: {form}")
        if parts.username or parts.password:
            raise InvalidSetting(f"{parts.scheme}://…: passwords are visible here; put them into the environment")
        if not parts.netloc:
            if not before:
                raise InvalidSetting(f"{address}: names neither a server nor a path")
            return cls(database, None, before, collection)
        if before or not parts.hostname:
            raise InvalidSetting(f"{address}: {form}")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(database, f"{protocol or 'http'}://{host}:{port or PORTS[database]}", None, collection)

    def open(self, embedding: int) -> Collection:
        """Open the collection; create it if there is none.

        Raises:
            MissingExtra: the client is not installed.
            InvalidSetting: the collection holds vectors of another size.
        """
        kind = QdrantCollection if self.database == "qdrant" else MilvusCollection
        return kind(self.server, self.path, self.collection, embedding)


def push_index(index: ShardIndex, address: str) -> Iterator[int]:
    """Write all vectors of an index, with their columns, into a collection; yield how many are written so far.

    Raises:
        InvalidSetting: the address has another form, or the collection holds vectors of another size.
        MissingExtra: the client is not installed.
        DatabaseFailed: the database can't be reached, or refuses a point. Those before stay.
    """
    place, written = DatabaseAddress.parse(address), 0
    try:
        with closing(place.open(index.manifest.settings.embedding)) as collection:
            for segment in index.segments:
                for ids, vectors, payloads in _points(segment):
                    collection.write(ids, vectors, payloads)
                    written += len(ids)
                    yield written
    except BeholderError:
        raise
    except Exception as error:  # each client raises its own
        raise DatabaseFailed(f"{address}: {' '.join(str(error).split())[:300] or type(error).__name__}") from error


def _points(segment: OpenSegment) -> Iterator[tuple[list[str], np.ndarray, list[dict[str, Any]]]]:
    """Yield ids, vectors (n, E) float32, and columns of the rows."""
    first = 0
    for batch in segment.batches_of_rows(BATCH):
        vectors = np.asarray(segment.vectors[first : first + len(batch)], np.float32)
        first += len(batch)
        ids = [str(uuid.uuid5(NAMESPACE, f"{row['shard']}\n{row['key']}")) for row in batch]
        yield ids, vectors, [_payload(row) for row in batch]


def _payload(row: dict[str, Any]) -> dict[str, Any]:
    values = {name: value.hex() if isinstance(value, bytes) else value for name, value in row.items()}
    return {name: value for name, value in values.items() if value is not None}
