"""Collections of Milvus."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from beholder.errors import InvalidSetting, MissingExtra

TIMEOUT = 60  # seconds


class MilvusCollection:
    """A collection, created if there is none. Vectors are compared by cosine; columns are dynamic fields.

    Args:
        server: address of a server, or None.
        path: file of Milvus Lite, if there is no server.
        name: of the collection.
        embedding: E.

    Raises:
        MissingExtra: pymilvus or, for a file, milvus-lite is not installed.
        InvalidSetting: the collection holds vectors of another size.
    """

    def __init__(self, server: str | None, path: str | None, name: str, embedding: int):
        try:
            import pymilvus

            if server is None:
                import milvus_lite  # noqa: F401
        except ImportError as error:
            raise MissingExtra("writing to Milvus", "milvus") from error
        self.name = name
        self._client = pymilvus.MilvusClient(
            uri=server or str(path), token=os.environ.get("MILVUS_TOKEN", ""), timeout=TIMEOUT
        )
        if not self._client.has_collection(name):
            schema = self._client.create_schema(auto_id=False, enable_dynamic_field=True)
            schema.add_field("id", pymilvus.DataType.VARCHAR, is_primary=True, max_length=36)
            schema.add_field("vector", pymilvus.DataType.FLOAT_VECTOR, dim=embedding)
            index = self._client.prepare_index_params()
            index.add_index("vector", index_type="AUTOINDEX", metric_type="COSINE")
            self._client.create_collection(name, schema=schema, index_params=index)
        fields = self._client.describe_collection(name)["fields"]
        sizes = {field["name"]: field.get("params", {}).get("dim") for field in fields}
        if sizes.get("vector") is None or int(sizes["vector"]) != embedding:
            self.close()
            raise InvalidSetting(
                f"{name}: a collection of vectors of {sizes.get('vector')} numbers, not {embedding}; name another one"
            )

    def write(self, ids: Sequence[str], vectors: np.ndarray, payloads: Sequence[dict[str, Any]]) -> None:
        """Insert points, or replace those with the same ids."""
        points = zip(ids, vectors.tolist(), payloads, strict=True)
        self._client.upsert(self.name, [{**payload, "id": id, "vector": vector} for id, vector, payload in points])

    def close(self) -> None:
        """End the connection."""
        self._client.close()
