"""Collections of Qdrant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra

TIMEOUT = 60  # seconds


class QdrantCollection:
    """A collection, created if there is none. Vectors are compared by cosine, and stored in half precision.

    Args:
        server: address of a server, or None.
        path: folder of qdrant-client's local mode, if there is no server.
        name: of the collection.
        embedding: E.

    Raises:
        MissingExtra: qdrant-client is not installed.
        InvalidSetting: the collection holds vectors of another size.
    """

    def __init__(self, server: str | None, path: str | None, name: str, embedding: int):
        try:
            from qdrant_client import QdrantClient, models
        except ImportError as error:
            raise MissingExtra("writing to Qdrant", "qdrant") from error
        self.name, self._models = name, models
        self._client = (
            QdrantClient(path=path)
            if server is None
            else QdrantClient(
                url=server, api_key=os.environ.get("QDRANT_API_KEY"), timeout=TIMEOUT, check_compatibility=False
            )
        )
        if not self._client.collection_exists(name):
            vectors = models.VectorParams(
                size=embedding, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16, on_disk=True
            )
            self._client.create_collection(name, vectors_config=vectors)
        found = self._client.get_collection(name).config.params.vectors
        size = found.size if isinstance(found, models.VectorParams) else None
        if size != embedding:
            self.close()
            raise InvalidSetting(
                f"{name}: a collection of vectors of {size} numbers, not {embedding}; name another one"
            )

    def write(self, ids: Sequence[str], vectors: np.ndarray, payloads: Sequence[dict[str, Any]]) -> None:
        """Insert points, or replace those with the same ids."""
        points = self._models.Batch(ids=list(ids), vectors=vectors.tolist(), payloads=list(payloads))
        self._client.upsert(self.name, points=points, wait=True)

    def close(self) -> None:
        """End the connection."""
        self._client.close()
