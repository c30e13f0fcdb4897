"""Parts and an index of made vectors, without a model."""

from pathlib import Path

import numpy as np

from beholder.files import write_bytes
from beholder.scale.build_index import build_index
from beholder.scale.parts import Row, RunSettings, encode_part, start_run
from beholder.scale.storage import Location


def write_parts(folder: Path, vectors: np.ndarray, shards: int = 2, first: int = 0) -> None:
    """Write parts of vectors (n, E), from number ``first`` on; the key of each is its number."""
    settings = RunSettings("none", "fingerprint", vectors.shape[1])
    start_run(Location.of(str(folder)), settings)
    for rows in np.array_split(np.arange(first, len(vectors)), shards):
        shard = f"/shards/{rows[0]:05}.tar"
        content = [Row(f"{row}", caption=f"picture {row}", width=row, vector=vectors[row]) for row in rows]
        write_bytes(folder / settings.part(shard), encode_part(content, settings, shard, "size 1"))


def write_index(folder: Path, vectors: np.ndarray) -> Path:
    """Write an index of vectors (n, E) in two parts."""
    write_parts(folder / "parts", vectors)
    build_index(str(folder / "parts"), folder / "index")
    return folder / "index"
